//! The chunked transfer coding (RFC 9112, section 7.1), decoded without keeping the data.

use crate::stats::ErrorKind;

/// Where in a chunked body the decoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the hexadecimal size; `digits` seen so far.
    Size { size: u64, digits: u8 },
    /// In a chunk extension or before the line feed that ends the size line.
    SizeLine { size: u64 },
    /// `left` bytes of data to come.
    Data { left: u64 },
    /// The CR LF after a chunk's data: at the CR.
    DataCr,
    /// The CR LF after a chunk's data: at the LF.
    DataLf,
    /// In a trailer line; `empty` while the line has no character but CR.
    Trailer { empty: bool },
    /// The last chunk and its trailers are read.
    Done,
}

/// Follows a chunked body across reads, counting its data.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunked {
    /// Starts before the first chunk's size.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0 } }
    }

    /// Whether the whole body has been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next bytes and returns how many belong to the body: all, unless the body ends
    /// within them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] when the bytes are not a chunked body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                let take = left.min((bytes.len() - at) as u64);
                at += take as usize;
                self.state = if take == left { State::DataCr } else { State::Data { left: left - take } };
            } else {
                self.state = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// The state after one byte that is not chunk data.
    fn step(&self, byte: u8) -> Result<State, ErrorKind> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { size, digits }, b';' | b'\r' | b' ' | b'\t') if digits > 0 => State::SizeLine { size },
            (State::SizeLine { size: 0 }, b'\n') => State::Trailer { empty: true },
            (State::SizeLine { size }, b'\n') => State::Data { left: size },
            (State::SizeLine { size }, _) => State::SizeLine { size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::Trailer { empty: true }, b'\n') => State::Done,
            (State::Trailer { empty: false }, b'\n') => State::Trailer { empty: true },
            (State::Trailer { empty }, b'\r') => State::Trailer { empty },
            (State::Trailer { .. }, _) => State::Trailer { empty: false },
            _ => return Err(ErrorKind::Protocol),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"5\r\nhello\r\n1A;name=value\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrail: er\r\n\r\n";

    #[test]
    fn body_split_anywhere_is_read_to_its_end() {
        for split in 0..BODY.len() {
            let mut chunked = Chunked::new();
            assert_eq!(chunked.feed(&BODY[..split]), Ok(split));
            assert!(!chunked.is_done(), "done after {split} bytes");
            assert_eq!(chunked.feed(&BODY[split..]), Ok(BODY.len() - split));
            assert!(chunked.is_done());
        }
    }

    #[test]
    fn bytes_after_the_body_are_left() {
        let mut chunked = Chunked::new();
        let bytes = [BODY, b"HTTP/1.1"].concat();
        assert_eq!(chunked.feed(&bytes), Ok(BODY.len()));
        assert!(chunked.is_done());
    }

    #[test]
    fn malformed_bodies_are_protocol_errors() {
        for body in [b"\r\n".as_slice(), b"xyz\r\n", b"3\r\nabcd\r\n", b"1111111111111111\r\n"] {
            assert_eq!(Chunked::new().feed(body), Err(ErrorKind::Protocol));
        }
    }
}
