//! The limit of open descriptors is lowered under a proactor. One test, as the limit is the process's.

mod common;

use std::io::Write;
use std::os::fd::AsRawFd;

use common::{complete, on_every_driver, pair, ready};
use lissom_proactor::{Interest, Op, Proactor};

fn limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writable for one limit.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit
}

fn set_limit(limit: libc::rlimit) {
    // SAFETY: readable for one limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn wait_on_many(proactor: &mut Proactor) {
    let pairs: Vec<_> = (0..200).map(|_| pair()).collect();
    for (here, there) in &pairs {
        proactor.submit(ready(here.as_raw_fd(), Interest::READ, false), 1);
        (&*there).write_all(b"x").unwrap();
    }
    for _ in &pairs {
        complete(proactor);
    }
}

/// The descriptors of the past were closed without a word to the proactor.
#[test]
fn fewer_descriptors_than_there_once_were_may_be_allowed() {
    let before = limit();
    on_every_driver(|mut proactor| {
        wait_on_many(&mut proactor);
        let (here, mut there) = pair();
        set_limit(libc::rlimit { rlim_cur: 100, ..before });
        proactor.submit(ready(here.as_raw_fd(), Interest::READ, false), 2);
        proactor.submit(Op::Nop, 3);
        there.write_all(b"x").unwrap();
        let mut tokens = [complete(&mut proactor).token, complete(&mut proactor).token];
        tokens.sort_unstable();
        set_limit(before);
        assert_eq!(tokens, [2, 3]);
    });
}
