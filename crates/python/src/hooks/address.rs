//! Socket addresses as Python values.

use std::net::{Ipv4Addr, Ipv6Addr};

use pyo3_ffi as ffi;

use crate::object::{Obj, PyResult};

/// An address as the kernel gives it.
pub(super) struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Address {
    /// Room for an address of any family.
    pub(super) fn room() -> Address {
        // SAFETY: plain bytes, for which zero is a value.
        let storage = unsafe { std::mem::zeroed() };
        Address { storage, length: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// What system calls write to.
    pub(super) fn parts(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        (std::ptr::addr_of_mut!(self.storage).cast(), &mut self.length)
    }

    /// The value that `socket` shows: a tuple for internet families, a path for Unix sockets.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(super) fn to_python(&self) -> PyResult<Obj> {
        let storage = std::ptr::from_ref(&self.storage);
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: an address of this family, in storage that fits all.
                let inet = unsafe { &*storage.cast::<libc::sockaddr_in>() };
                let host = Ipv4Addr::from(u32::from_be(inet.sin_addr.s_addr));
                Obj::tuple([Obj::str(&host.to_string())?, Obj::int(i64::from(u16::from_be(inet.sin_port)))?])
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let inet = unsafe { &*storage.cast::<libc::sockaddr_in6>() };
                Obj::tuple([
                    Obj::str(&inet6_text(Ipv6Addr::from(inet.sin6_addr.s6_addr)))?,
                    Obj::int(i64::from(u16::from_be(inet.sin6_port)))?,
                    Obj::int(i64::from(u32::from_be(inet.sin6_flowinfo)))?,
                    Obj::int(i64::from(inet.sin6_scope_id))?,
                ])
            }
            _ => self.unix(),
        }
    }

    /// A path in the file system as `str`, an abstract name as `bytes`, an unnamed socket as `''`.
    fn unix(&self) -> PyResult<Obj> {
        let start = std::mem::offset_of!(libc::sockaddr_un, sun_path);
        let length = (self.length as usize).saturating_sub(start);
        // SAFETY: the kernel has written that many bytes of the name.
        let name =
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(&self.storage).cast::<u8>().add(start), length) };
        if name.first() == Some(&0) {
            return Obj::bytes(name);
        }
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        // SAFETY: pointer and length describe readable bytes.
        Obj::owned(unsafe { ffi::PyUnicode_DecodeFSDefaultAndSize(name.as_ptr().cast(), end as isize) })
    }
}

/// As `inet_ntop(3)` writes it, which differs from Rust for IPv4-compatible addresses.
fn inet6_text(address: Ipv6Addr) -> String {
    // INET6_ADDRSTRLEN (netinet/in.h).
    let mut text = [0_u8; 46];
    let octets = address.octets();
    // SAFETY: an address of the family, and room for its longest text.
    unsafe { libc_inet_ntop(libc::AF_INET6, octets.as_ptr().cast(), text.as_mut_ptr().cast(), text.len() as u32) };
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&text[..end]).into_owned()
}

unsafe extern "C" {
    #[link_name = "inet_ntop"]
    fn libc_inet_ntop(
        family: libc::c_int,
        source: *const std::ffi::c_void,
        text: *mut std::ffi::c_char,
        size: libc::socklen_t,
    ) -> *const std::ffi::c_char;
}
