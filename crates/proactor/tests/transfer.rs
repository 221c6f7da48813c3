//! Ops that do the transfer themselves, on descriptors in either mode.

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{complete, nothing_completes, on_every_driver, pair, stuff};
use lissom_proactor::{Errno, Op, SockAddr};

fn recv(fd: RawFd, room: usize) -> Op {
    Op::Recv { fd, buf: Vec::with_capacity(room), flags: 0 }
}

fn is_nonblocking(fd: RawFd) -> bool {
    // SAFETY: takes no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags & libc::O_NONBLOCK != 0
}

#[test]
fn recv_and_send_wait_on_blocking_sockets_without_blocking() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = UnixStream::pair().unwrap();
        proactor.submit(recv(here.as_raw_fd(), 16), 1);
        nothing_completes(&mut proactor);
        there.write_all(b"hello").unwrap();
        let done = complete(&mut proactor);
        assert_eq!((done.token, done.result), (1, Ok(5)));
        assert_eq!(done.buf.unwrap(), b"hello");
        there.set_nonblocking(true).unwrap();
        // Fill the queue, then wait for room in it.
        let send = || Op::Send { fd: here.as_raw_fd(), buf: vec![0; 60_000], flags: 0 };
        let mut sent = 0;
        loop {
            proactor.submit(send(), 2);
            // A driver may have done it already and not said so yet.
            proactor.wait(Some(Duration::ZERO)).unwrap();
            match proactor.next() {
                Some(done) => sent += done.result.unwrap() as usize,
                None => break,
            }
        }
        nothing_completes(&mut proactor);
        let mut got = 0;
        let mut buf = vec![0; 1 << 16];
        while got < sent {
            got += there.read(&mut buf).unwrap();
        }
        assert!(complete(&mut proactor).result.unwrap() > 0);
        assert!(!is_nonblocking(here.as_raw_fd()));
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn recv_appends_to_its_buffer() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        there.write_all(b"world").unwrap();
        let mut buf = Vec::with_capacity(9);
        buf.extend(b"hello ");
        proactor.submit(Op::Recv { fd: here.as_raw_fd(), buf, flags: 0 }, 1);
        let buf = complete(&mut proactor).buf.unwrap();
        assert!(buf.starts_with(b"hello wor"), "{buf:?}");
    });
}

/// With MSG_TRUNC the kernel counts more than it writes: nothing uninitialised may show.
#[test]
fn recv_with_msg_trunc_shows_initialised_bytes_only() {
    on_every_driver(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        there.write_all(b"discarded").unwrap();
        let (fd, flags) = (here.as_raw_fd(), libc::MSG_TRUNC);
        proactor.submit(Op::Recv { fd, buf: Vec::with_capacity(4), flags }, 1);
        let done = complete(&mut proactor);
        assert_eq!(done.result, Ok(4));
        assert_eq!(done.buf.unwrap().len(), 4);
        proactor.forget(fd);
    });
}

#[test]
fn recv_after_the_peer_closed_completes_with_zero() {
    on_every_driver(|mut proactor| {
        let (here, there) = pair();
        proactor.submit(recv(here.as_raw_fd(), 8), 1);
        drop(there);
        assert_eq!(complete(&mut proactor).result, Ok(0));
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn recv_after_peer_reset_completes_with_econnreset() {
    on_every_driver(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        proactor.submit(recv(here.as_raw_fd(), 8), 1);
        nothing_completes(&mut proactor);
        // Closing with zero linger resets the connection (socket(7)).
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let size = size_of::<libc::linger>() as libc::socklen_t;
        let (fd, value) = (there.as_raw_fd(), (&raw const linger).cast());
        // SAFETY: readable for `size` bytes.
        let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, size) };
        assert_eq!(set, 0);
        drop(there);
        let done = complete(&mut proactor);
        assert_eq!(done.result, Err(Errno::from_code(libc::ECONNRESET)));
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn send_to_a_closed_peer_is_an_error_and_no_signal() {
    on_every_driver(|mut proactor| {
        let (here, there) = pair();
        drop(there);
        let op = Op::Send { fd: here.as_raw_fd(), buf: b"x".to_vec(), flags: 0 };
        proactor.submit(op, 1);
        assert_eq!(complete(&mut proactor).result, Err(Errno::from_code(libc::EPIPE)));
    });
}

#[test]
fn accept_and_connect_leave_blocking_mode_alone() {
    on_every_driver(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        // SAFETY: fresh from the kernel.
        let client = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        proactor.submit(Op::Accept { fd: listener.as_raw_fd() }, 1);
        nothing_completes(&mut proactor);
        proactor.submit(Op::Connect { fd, addr: address.into() }, 2);
        let mut done = [complete(&mut proactor), complete(&mut proactor)];
        done.sort_by_key(|done| done.token);
        let [accepted, connected] = done;
        assert_eq!(connected.result, Ok(0));
        let peer = accepted.peer.unwrap().as_socket().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        let server = accepted.fd.unwrap();
        assert_eq!(accepted.result, Ok(server.as_raw_fd()));
        for fd in [fd, listener.as_raw_fd(), server.as_raw_fd()] {
            assert!(!is_nonblocking(fd));
            proactor.forget(fd);
        }
        // SAFETY: takes no pointers.
        let flags = unsafe { libc::fcntl(server.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    });
}

#[test]
fn refused_connect_completes_with_econnrefused() {
    on_every_driver(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        // SAFETY: fresh from the kernel.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        proactor.submit(Op::Connect { fd, addr: address.into() }, 1);
        assert_eq!(complete(&mut proactor).result, Err(Errno::from_code(libc::ECONNREFUSED)));
        proactor.forget(fd);
        drop(socket);
    });
}

#[test]
fn address_of_an_unknown_family_is_the_kernels_to_refuse() {
    on_every_driver(|mut proactor| {
        let (here, _there) = pair();
        let addr = SockAddr::from_bytes(&[0xff, 0xff, 1, 2]);
        proactor.submit(Op::Connect { fd: here.as_raw_fd(), addr }, 1);
        assert!(complete(&mut proactor).result.is_err());
    });
}

/// (read end, write end), in blocking mode.
fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: writable for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: fresh from the kernel.
    ends.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) })).into()
}

#[test]
fn pipe_in_blocking_mode_is_read_and_written_without_blocking() {
    on_every_driver(|mut proactor| {
        let (reader, mut writer) = pipe();
        let (from, to) = (reader.as_raw_fd(), writer.as_raw_fd());
        let read = Op::Read { fd: from, buf: Vec::with_capacity(8), offset: None };
        proactor.submit(read, 1);
        nothing_completes(&mut proactor);
        writer.write_all(b"abc").unwrap();
        assert_eq!(complete(&mut proactor).buf.unwrap(), b"abc");
        // 64 KiB fit into a pipe (pipe(7)): one write fills it, the next waits.
        proactor.submit(Op::Write { fd: to, buf: vec![0; 1 << 20], offset: None }, 2);
        let first = complete(&mut proactor).result.unwrap();
        assert!(first >= 4096);
        proactor.submit(Op::Write { fd: to, buf: vec![0; 1], offset: None }, 3);
        nothing_completes(&mut proactor);
        let mut rest = vec![0; first as usize];
        (&reader).read_exact(&mut rest).unwrap();
        assert_eq!(complete(&mut proactor).result, Ok(1));
        assert!(!is_nonblocking(from) && !is_nonblocking(to));
        proactor.forget(from);
        proactor.forget(to);
    });
}

#[test]
fn regular_file_is_written_and_read_at_offsets_and_in_sequence() {
    on_every_driver(|mut proactor| {
        let name = format!("lissom-proactor-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let open = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let mut file = open.unwrap();
        fs::remove_file(&path).unwrap();
        let fd = file.as_raw_fd();
        proactor.submit(Op::Write { fd, buf: b"hello world".to_vec(), offset: None }, 1);
        assert_eq!(complete(&mut proactor).result, Ok(11));
        proactor.submit(Op::Write { fd, buf: b"W".to_vec(), offset: Some(6) }, 2);
        assert_eq!(complete(&mut proactor).result, Ok(1));
        proactor.submit(Op::Read { fd, buf: Vec::with_capacity(5), offset: Some(6) }, 3);
        let buf = complete(&mut proactor).buf.unwrap();
        assert!(buf.starts_with(b"World"), "{buf:?}");
        file.seek(SeekFrom::Start(0)).unwrap();
        proactor.submit(Op::Read { fd, buf: Vec::with_capacity(64), offset: None }, 4);
        assert_eq!(complete(&mut proactor).buf.unwrap(), b"hello World");
        let beyond = Op::Read { fd, buf: Vec::with_capacity(1), offset: Some(u64::MAX) };
        proactor.submit(beyond, 5);
        assert_eq!(complete(&mut proactor).result, Err(Errno::from_code(libc::EINVAL)));
    });
}

/// Files of /proc refuse RWF_NOWAIT: the pool reads them, on a duplicate, whatever becomes of the
/// number meanwhile.
#[test]
fn file_without_nowait_is_read_by_the_pool() {
    on_every_driver(|mut proactor| {
        let file = File::open("/proc/self/status").unwrap();
        let fd = file.as_raw_fd();
        proactor.submit(Op::Read { fd, buf: Vec::with_capacity(4096), offset: Some(0) }, 1);
        drop(file);
        let done = complete(&mut proactor);
        assert!(done.result.unwrap() > 0, "{done:?}");
        assert!(done.buf.unwrap().starts_with(b"Name:"));
    });
}

#[test]
fn forget_completes_a_waiting_recv_and_returns_its_buffer() {
    on_every_driver(|mut proactor| {
        let (here, there) = pair();
        proactor.submit(recv(here.as_raw_fd(), 8), 1);
        proactor.forget(here.as_raw_fd());
        let done = complete(&mut proactor);
        assert_eq!(done.result, Err(Errno::CANCELED));
        assert!(done.buf.is_some());
        stuff(&there);
    });
}

#[test]
fn ops_on_a_closed_descriptor_complete_with_ebadf() {
    on_every_driver(|mut proactor| {
        for op in [
            recv(-1, 1),
            Op::Send { fd: -1, buf: vec![1], flags: 0 },
            Op::Read { fd: -1, buf: Vec::with_capacity(1), offset: None },
            Op::Write { fd: -1, buf: vec![1], offset: None },
            Op::Accept { fd: -1 },
            Op::Connect { fd: -1, addr: SockAddr::from_bytes(&[0; 16]) },
        ] {
            let name = format!("{op:?}");
            proactor.submit(op, 1);
            assert_eq!(complete(&mut proactor).result, Err(Errno::BAD_FD), "{name}");
        }
    });
}

#[test]
fn several_recvs_on_one_socket_share_the_data_in_order() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        for token in 0..3 {
            proactor.submit(recv(here.as_raw_fd(), 64), token);
        }
        there.write_all(b"one").unwrap();
        assert_eq!(complete(&mut proactor).token, 0);
        nothing_completes(&mut proactor);
        there.write_all(b"two").unwrap();
        assert_eq!(complete(&mut proactor).token, 1);
        there.write_all(b"three").unwrap();
        assert_eq!(complete(&mut proactor).token, 2);
        proactor.forget(here.as_raw_fd());
        let fd = here.into_raw_fd();
        // SAFETY: just released, owned by nothing else.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    });
}

/// A folder that goes at the end of the test.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("lissom-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> std::ffi::CString {
        let path = self.0.join(name).into_os_string();
        std::ffi::CString::new(std::os::unix::ffi::OsStringExt::into_vec(path)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_are_opened_written_synchronised_and_asked_about() {
    on_every_driver(|mut proactor| {
        let scratch = Scratch::new("files");
        let path = scratch.path("file");
        let (dir, flags) = (libc::AT_FDCWD, libc::O_RDWR | libc::O_CREAT);
        proactor.submit(Op::Open { dir, path: path.clone(), flags, mode: 0o640 }, 1);
        let done = complete(&mut proactor);
        let file = File::from(done.fd.unwrap());
        assert_eq!(done.result, Ok(file.as_raw_fd()));
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
        let fd = file.as_raw_fd();
        proactor.submit(Op::Write { fd, buf: b"hello".to_vec(), offset: Some(3) }, 2);
        assert_eq!(complete(&mut proactor).result, Ok(5));
        for data_only in [false, true] {
            proactor.submit(Op::Fsync { fd, data_only }, 3);
            assert_eq!(complete(&mut proactor).result, Ok(0));
        }
        let stat = |path, flags, dir| Op::Stat { dir, path, flags, mask: libc::STATX_BASIC_STATS };
        proactor.submit(stat(path, 0, libc::AT_FDCWD), 4);
        let found = complete(&mut proactor).stat.unwrap();
        assert_eq!((found.stx_size, found.stx_mode & 0o7777), (8, 0o640));
        proactor.submit(stat(c"".to_owned(), libc::AT_EMPTY_PATH, fd), 5);
        assert_eq!(complete(&mut proactor).stat.unwrap().stx_size, 8);
        proactor.submit(Op::Read { fd, buf: Vec::with_capacity(100), offset: Some(0) }, 6);
        assert_eq!(complete(&mut proactor).buf.unwrap(), b"\0\0\0hello");
    });
}

#[test]
fn file_ops_report_the_systems_errors() {
    on_every_driver(|mut proactor| {
        let scratch = Scratch::new("errors");
        let path = scratch.path("not there");
        proactor.submit(Op::Open { dir: libc::AT_FDCWD, path: path.clone(), flags: libc::O_RDONLY, mode: 0 }, 1);
        let done = complete(&mut proactor);
        assert_eq!((done.result, done.fd.is_none()), (Err(Errno::from_code(libc::ENOENT)), true));
        proactor.submit(Op::Stat { dir: libc::AT_FDCWD, path, flags: 0, mask: libc::STATX_SIZE }, 2);
        let done = complete(&mut proactor);
        assert_eq!((done.result, done.stat.is_none()), (Err(Errno::from_code(libc::ENOENT)), true));
        let (reader, _writer) = std::io::pipe().unwrap();
        proactor.submit(Op::Fsync { fd: reader.as_raw_fd(), data_only: false }, 3);
        assert_eq!(complete(&mut proactor).result, Err(Errno::from_code(libc::EINVAL)));
        proactor.submit(Op::Fsync { fd: -1, data_only: false }, 4);
        assert_eq!(complete(&mut proactor).result, Err(Errno::BAD_FD));
    });
}
