//! HTTP/1.1 as a client that only measures needs it: requests made once, answers read and thrown
//! away.

use crate::chunked::Chunked;
use crate::stats::ErrorKind;

/// Longest head that is accepted; longer ones are protocol errors.
const MAX_HEAD: usize = 64 * 1024;
/// Most header fields in a head.
const MAX_HEADERS: usize = 100;

/// The bytes of a GET request for `path` with a keep-alive connection.
#[must_use]
pub fn get(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lissom-load/{}\r\nAccept: */*\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes()
}

/// What of an answer is still to come.
#[derive(Clone, Debug)]
enum Part {
    Head,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

/// Reads one answer across any number of reads.
///
/// A head that comes whole in one read, the common case, is parsed where it lies; only a split
/// one is kept.
#[derive(Clone, Debug)]
pub struct Response {
    part: Part,
    head: Vec<u8>,
    status: u16,
    keep_alive: bool,
    started: bool,
}

impl Default for Response {
    fn default() -> Self {
        Self::new()
    }
}

impl Response {
    /// Waits for the first byte of an answer.
    #[must_use]
    pub fn new() -> Self {
        Self { part: Part::Head, head: Vec::new(), status: 0, keep_alive: true, started: false }
    }

    /// Makes this ready for the next answer, keeping nothing of the last.
    pub fn reset(&mut self) {
        self.part = Part::Head;
        self.head.clear();
        self.status = 0;
        self.keep_alive = true;
        self.started = false;
    }

    /// Whether the answer has been read to its end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.part, Part::Done)
    }

    /// The status code, 0 before the head has been read.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the server will take another request on this connection.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Takes the next bytes of the connection and returns how many belong to this answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] when they are not HTTP/1.x.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let mut used = 0;
        self.started |= !bytes.is_empty();
        while used < bytes.len() {
            let rest = &bytes[used..];
            used += match &mut self.part {
                Part::Head => self.feed_head(rest)?,
                Part::Length(left) => {
                    let take = (*left).min(rest.len() as u64);
                    *left -= take;
                    if *left == 0 {
                        self.part = Part::Done;
                    }
                    take as usize
                }
                Part::Chunked(chunked) => {
                    let take = chunked.feed(rest)?;
                    if chunked.is_done() {
                        self.part = Part::Done;
                    }
                    take
                }
                Part::UntilClose => rest.len(),
                Part::Done => break,
            };
        }
        Ok(used)
    }

    /// Takes the end of the connection's data: the end of a body without length, else an error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Eof`] before any byte of the answer, [`ErrorKind::ShortBody`] within it.
    pub fn end_of_stream(&mut self) -> Result<(), ErrorKind> {
        match self.part {
            Part::UntilClose => {
                self.part = Part::Done;
                Ok(())
            }
            Part::Done => Ok(()),
            _ if self.started => Err(ErrorKind::ShortBody),
            _ => Err(ErrorKind::Eof),
        }
    }

    /// Takes bytes of the head and returns how many of `bytes` belong to it.
    fn feed_head(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        if self.head.is_empty() {
            if let Some(length) = self.parse_head(bytes)? {
                return Ok(length);
            }
            self.head.extend_from_slice(bytes);
        } else {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let mut head = std::mem::take(&mut self.head);
            let parsed = self.parse_head(&head)?;
            if let Some(length) = parsed {
                head.clear();
                self.head = head;
                return Ok(length - before);
            }
            self.head = head;
        }
        if self.head.len() > MAX_HEAD {
            return Err(ErrorKind::Protocol);
        }
        Ok(bytes.len())
    }

    /// Parses a head at the start of `bytes`; its length, or `None` while it is incomplete.
    fn parse_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, ErrorKind> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(ErrorKind::Protocol),
        };
        self.status = head.code.unwrap_or(0);
        self.keep_alive = head.version == Some(1);
        let mut body = None;
        for header in head.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(header.value).ok();
                let length = text.and_then(|text| text.trim().parse().ok());
                // RFC 9112, section 6.3: Transfer-Encoding overrides Content-Length.
                if !matches!(body, Some(Part::Chunked(_))) {
                    body = Some(Part::Length(length.ok_or(ErrorKind::Protocol)?));
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if has_token(header.value, b"chunked") {
                    body = Some(Part::Chunked(Chunked::new()));
                }
            } else if header.name.eq_ignore_ascii_case("connection") {
                if has_token(header.value, b"close") {
                    self.keep_alive = false;
                } else if has_token(header.value, b"keep-alive") {
                    self.keep_alive = true;
                }
            }
        }
        self.part = match (self.status, body) {
            // An interim answer: the real one follows.
            (100..=199, _) => Part::Head,
            (204 | 304, _) | (_, Some(Part::Length(0))) => Part::Done,
            (_, Some(part)) => part,
            (_, None) => {
                self.keep_alive = false;
                Part::UntilClose
            }
        };
        Ok(Some(length))
    }
}

/// Whether the comma-separated `value` contains `token`, without regard to case.
fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_split(bytes: &[u8], split: usize) -> Result<(Response, usize), ErrorKind> {
        let mut response = Response::new();
        let mut used = response.feed(&bytes[..split])?;
        if used == split {
            used += response.feed(&bytes[split..])?;
        }
        Ok((response, used))
    }

    #[test]
    fn answer_split_anywhere_is_read_to_its_end() {
        let answers: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        ];
        for answer in answers {
            for split in 0..=answer.len() {
                let (response, used) = read_split(answer, split).expect("well formed");
                assert!(response.is_done() && response.keep_alive());
                assert_eq!(used, answer.len());
            }
        }
    }

    #[test]
    fn bytes_of_the_next_answer_are_left() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1";
        let mut response = Response::new();
        assert_eq!(response.feed(bytes), Ok(bytes.len() - 8));
    }

    #[test]
    fn body_without_length_ends_with_the_connection() {
        let mut response = Response::new();
        response.feed(b"HTTP/1.0 200 OK\r\n\r\nsome").expect("ok");
        assert!(!response.is_done());
        assert_eq!(response.end_of_stream(), Ok(()));
        assert!(response.is_done() && !response.keep_alive());
    }

    #[test]
    fn end_of_stream_tells_no_answer_from_half_an_answer() {
        let mut response = Response::new();
        assert_eq!(response.end_of_stream(), Err(ErrorKind::Eof));
        response.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").expect("ok");
        assert_eq!(response.end_of_stream(), Err(ErrorKind::ShortBody));
    }

    #[test]
    fn connection_close_is_seen() {
        let mut response = Response::new();
        response.feed(b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n").expect("ok");
        assert!(response.is_done() && !response.keep_alive());
    }

    #[test]
    fn what_is_not_http_is_a_protocol_error() {
        assert_eq!(Response::new().feed(b"SSH-2.0-x\r\n"), Err(ErrorKind::Protocol));
    }
}
