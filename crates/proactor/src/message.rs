//! Messages: data with an address and ancillary data, as recvmsg(2) and sendmsg(2) have them.
//!
//! - I1: a [`Header`] points to itself and to the buffers of its message. It is aimed where it stays, and neither it nor
//!   these buffers move or change until the kernel has done with it. (The message itself may move: its buffers lie
//!   behind pointers.)

use std::mem::{self, MaybeUninit};

use crate::{Errno, SockAddr, sys};

/// What [`Op::RecvMsg`](crate::Op::RecvMsg) fills and [`Op::SendMsg`](crate::Op::SendMsg) sends.
#[derive(Debug, Default)]
pub struct Message {
    /// The data. Receiving fills the spare capacity.
    pub data: Vec<u8>,
    /// The ancillary data, as cmsg(3) has it. Receiving fills the spare capacity. Descriptors that are in it are the
    /// caller's to close; with an op that is detached, or a proactor that is dropped, they may come unseen and stay
    /// open. To end an op that may bring some, cancel it and take its completion.
    pub control: Vec<u8>,
    /// Whom it comes from; whom to send it to, unless the socket is connected.
    pub peer: Option<SockAddr>,
    /// After receiving: `MSG_TRUNC`, `MSG_CTRUNC` and others of recvmsg(2).
    pub flags: i32,
}

/// What the kernel reads and writes beside the buffers of a message.
pub(crate) struct Header {
    raw: libc::msghdr,
    part: libc::iovec,
    name: libc::sockaddr_storage,
}

// SAFETY: what it points to is its own or its message's, which are with it (I1).
unsafe impl Send for Header {}

impl Header {
    pub(crate) fn new() -> Header {
        // SAFETY: zeroes are valid for all three.
        unsafe { mem::zeroed() }
    }

    /// Points to the spare room of `message`. The room is zeroed: with `MSG_TRUNC` bytes are counted but not written.
    pub(crate) fn aim_to_receive(&mut self, message: &mut Message) -> *mut libc::msghdr {
        let (data, control) = (message.data.spare_capacity_mut(), message.control.spare_capacity_mut());
        data.fill(MaybeUninit::new(0));
        control.fill(MaybeUninit::new(0));
        self.raw.msg_namelen = mem::size_of_val(&self.name) as libc::socklen_t;
        self.part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len().min(sys::TRANSFER) };
        self.raw.msg_control = control.as_mut_ptr().cast();
        self.raw.msg_controllen = control.len();
        self.aim()
    }

    /// Points to what there is of `message`.
    pub(crate) fn aim_to_send(&mut self, message: &Message) -> *mut libc::msghdr {
        let name = message.peer.as_ref().map_or(&[][..], SockAddr::as_bytes);
        let length = name.len().min(mem::size_of_val(&self.name));
        // SAFETY: both are valid for `length` bytes and do not overlap.
        unsafe { (&raw mut self.name).cast::<u8>().copy_from_nonoverlapping(name.as_ptr(), length) };
        self.raw.msg_namelen = length as libc::socklen_t;
        let data = &message.data;
        self.part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len().min(sys::TRANSFER) };
        self.raw.msg_control = message.control.as_ptr().cast_mut().cast();
        self.raw.msg_controllen = message.control.len();
        self.aim()
    }

    fn aim(&mut self) -> *mut libc::msghdr {
        self.raw.msg_name = if self.raw.msg_namelen > 0 { (&raw mut self.name).cast() } else { std::ptr::null_mut() };
        self.raw.msg_iov = &raw mut self.part;
        self.raw.msg_iovlen = 1;
        if self.raw.msg_controllen == 0 {
            self.raw.msg_control = std::ptr::null_mut();
        }
        &raw mut self.raw
    }

    /// Notes in `message` what has been received into it.
    ///
    /// # Safety
    /// This header has been aimed by `aim_to_receive` at this message, which has not changed since, and the kernel has done
    /// with it and returned `got`.
    pub(crate) unsafe fn received(&self, message: &mut Message, got: i32) {
        let filled = message.data.len() + self.part.iov_len.min(usize::try_from(got).unwrap_or(0));
        // SAFETY: within the spare room, which was zeroed and then written to.
        unsafe { message.data.set_len(filled) };
        let filled = (message.control.len() + self.raw.msg_controllen).min(message.control.capacity());
        // SAFETY: as above.
        unsafe { message.control.set_len(filled) };
        let length = (self.raw.msg_namelen as usize).min(mem::size_of_val(&self.name));
        // SAFETY: zeroed, then written to by the kernel.
        let name = unsafe { std::slice::from_raw_parts((&raw const self.name).cast::<u8>(), length) };
        message.peer = (length > 0).then(|| SockAddr::from_bytes(name));
        // The kernel also repeats this one of the flags that it was given.
        message.flags = self.raw.msg_flags & !libc::MSG_CMSG_CLOEXEC;
    }
}

/// recvmsg(2) with `MSG_DONTWAIT | MSG_CMSG_CLOEXEC`.
pub(crate) fn receive(fd: i32, message: &mut Message, flags: i32) -> Result<i32, Errno> {
    let mut header = Header::new();
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let got = sys::again(|| {
        let raw = header.aim_to_receive(message);
        // SAFETY: aimed at buffers that live through the call.
        sys::transferred(unsafe { libc::recvmsg(fd, raw, flags) })
    })?;
    // SAFETY: aimed at this message just now.
    unsafe { header.received(message, got) };
    Ok(got)
}

/// sendmsg(2) with `MSG_DONTWAIT | MSG_NOSIGNAL`.
pub(crate) fn send(fd: i32, message: &Message, flags: i32) -> Result<i32, Errno> {
    let mut header = Header::new();
    let raw = header.aim_to_send(message);
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: aimed at buffers that live through the call.
    sys::again(|| sys::transferred(unsafe { libc::sendmsg(fd, raw, flags) }))
}
