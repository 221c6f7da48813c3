//! The child of a fork. One test, so that the process has one busy thread when it forks.

mod common;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{complete, nothing_happens_for, on_every_driver, pair, readable};
use lissom_proactor::{Op, Proactor};

/// Open descriptors that are epoll or eventfd objects, or anything else without a path.
fn anonymous_descriptors() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let names = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    names.filter(|name| name.starts_with("anon_inode:")).count()
}

fn in_child(proactor: &mut Proactor) {
    let open = anonymous_descriptors();
    let (here, mut there) = pair();
    let stale = proactor.submit(Op::Timeout, 0);
    let parents = proactor.remote();
    proactor.after_fork_in_child().unwrap();
    assert_eq!(anonymous_descriptors(), open, "the copies are closed, new ones are there");
    assert_eq!(proactor.pending(), 0);
    assert!(!proactor.cancel(stale));
    // Does nothing: it would wake the parent.
    parents.wake();
    parents.post(666, 0);
    proactor.submit(readable(&here), 1);
    there.write_all(b"x").unwrap();
    assert_eq!(complete(proactor).token, 1);
    proactor.submit(Op::Blocking(Box::new(|| Ok(5))), 2);
    assert_eq!(complete(proactor).result, Ok(5));
    let remote = proactor.remote();
    std::thread::spawn(move || remote.post(3, 0));
    assert_eq!(complete(proactor).token, 3);
    proactor.forget(here.as_raw_fd());
}

#[test]
fn child_gets_objects_of_its_own_and_the_parent_is_not_disturbed() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        proactor.submit(readable(&here), 1);
        // A pool thread exists at the fork; the child has none.
        proactor.submit(Op::Blocking(Box::new(|| Ok(0))), 2);
        assert_eq!(complete(&mut proactor).token, 2);
        let (receiving, mut sending) = UnixStream::pair().unwrap();
        proactor.submit(Op::RecvMany { fd: receiving.as_raw_fd() }, 3);
        // SAFETY: the child runs `in_child` and leaves by _exit. Other threads of this process are
        // idle in the pool or waiting for this test, and hold no lock that the child needs.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let ended = catch_unwind(AssertUnwindSafe(|| in_child(&mut proactor)));
            // SAFETY: ends the child here, without the harness's own exit.
            unsafe { libc::_exit(if ended.is_ok() { 0 } else { 1 }) };
        }
        assert!(child > 0);
        let mut status = 0;
        // SAFETY: writable for one status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
        nothing_happens_for(&mut proactor, Duration::from_millis(2));
        there.write_all(b"x").unwrap();
        assert_eq!(complete(&mut proactor).token, 1, "the registration is still there");
        proactor.forget(here.as_raw_fd());
        // More than a ring has buffers: it sees those that are given back after the fork.
        for round in 0..300u32 {
            sending.write_all(&round.to_be_bytes()).unwrap();
            let done = complete(&mut proactor);
            assert_eq!((done.token, done.buf.as_deref()), (3, Some(&round.to_be_bytes()[..])));
            if !done.more {
                proactor.submit(Op::RecvMany { fd: receiving.as_raw_fd() }, 3);
            }
        }
        proactor.forget(receiving.as_raw_fd());
    });
}
