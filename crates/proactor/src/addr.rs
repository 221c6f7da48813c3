//! Socket addresses of any family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// A socket address of any family: the bytes of a `struct sockaddr`.
///
/// # Examples
/// ```
/// use lissom_proactor::SockAddr;
/// let ip: std::net::SocketAddr = "127.0.0.1:80".parse().unwrap();
/// assert_eq!(SockAddr::from(ip).as_socket(), Some(ip));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SockAddr(Box<[u8]>);

impl SockAddr {
    /// The address made of the bytes of a `struct sockaddr_*`, family first (native byte order),
    /// as long as the length that would go with it. They are not checked: the kernel does.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> SockAddr {
        SockAddr(bytes.into())
    }

    /// The bytes of the `struct sockaddr_*`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The address family (`AF_INET` ...), `None` when the address is too short to have one.
    #[must_use]
    pub fn family(&self) -> Option<u16> {
        Some(u16::from_ne_bytes([*self.0.first()?, *self.0.get(1)?]))
    }

    /// The address as IP address and port, `None` for every other family.
    #[must_use]
    pub fn as_socket(&self) -> Option<SocketAddr> {
        let field = |at: usize| <[u8; 4]>::try_from(self.0.get(at..at + 4)?).ok();
        let port = u16::from_be_bytes([*self.0.get(2)?, *self.0.get(3)?]);
        match i32::from(self.family()?) {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(field(4)?);
                Some(SocketAddr::new(IpAddr::V4(ip), port))
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = self.0.get(8..24)?.try_into().ok()?;
                let flow = u32::from_ne_bytes(field(4)?);
                let scope = u32::from_ne_bytes(field(24)?);
                let ip = Ipv6Addr::from(ip);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(address: SocketAddr) -> SockAddr {
        // Layouts: struct sockaddr_in in ip(7), struct sockaddr_in6 in ipv6(7). The port and the
        // address are in network order; flow and scope are passed as they are, as std does.
        let mut bytes = Vec::with_capacity(28);
        match address {
            SocketAddr::V4(v4) => {
                bytes.extend((libc::AF_INET as u16).to_ne_bytes());
                bytes.extend(v4.port().to_be_bytes());
                bytes.extend(v4.ip().octets());
                bytes.extend([0; 8]);
            }
            SocketAddr::V6(v6) => {
                bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
                bytes.extend(v6.port().to_be_bytes());
                bytes.extend(v6.flowinfo().to_ne_bytes());
                bytes.extend(v6.ip().octets());
                bytes.extend(v6.scope_id().to_ne_bytes());
            }
        }
        SockAddr(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_way_there_and_back() {
        for text in ["127.0.0.1:8080", "[::1]:65535", "[fe80::1%7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SockAddr::from(address).as_socket(), Some(address));
        }
    }

    #[test]
    fn short_bytes_are_no_address() {
        let full = SockAddr::from("[::1]:9".parse::<SocketAddr>().unwrap());
        for end in 0..full.as_bytes().len() {
            let cut = SockAddr::from_bytes(&full.as_bytes()[..end]);
            assert_eq!(cut.as_socket(), None, "{end} bytes");
        }
    }
}
