//! The interleavings of the mailbox, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lissom-proactor --test loom --release`
//! (with a target folder of its own, as the flag rebuilds everything).
#![allow(unexpected_cfgs, reason = "`loom` is set by the command above only")]
#![cfg(loom)]

mod sync {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};
}

#[allow(dead_code, reason = "the crate uses what these models do not")]
#[path = "../src/mailbox.rs"]
mod mailbox;

use loom::sync::{Arc, Condvar, Mutex};
use mailbox::{Bell, Mailbox};

/// An eventfd with a sleeper: a ring is remembered until a sleep takes it.
#[derive(Default)]
struct ModelBell {
    rung: Mutex<usize>,
    sleeper: Condvar,
    rings: std::sync::atomic::AtomicUsize,
}

impl Bell for ModelBell {
    fn ring(&self) {
        self.rings.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        *self.rung.lock().unwrap() += 1;
        self.sleeper.notify_one();
    }
}

impl ModelBell {
    /// Loom reports a deadlock if nobody rings.
    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while *rung == 0 {
            rung = self.sleeper.wait(rung).unwrap();
        }
        *rung = 0;
    }
}

/// All interleavings with at most four preemptions (loom's documentation finds two or three enough
/// for most defects); without a bound, two producers take more than four minutes.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(test);
}

type Model = Mailbox<usize, ModelBell>;

/// One turn of the proactor: how many sleeps it took.
fn turn(mailbox: &Model, got: &mut Vec<usize>, called: &mut bool) -> usize {
    let sleeps = mailbox.may_sleep();
    if sleeps {
        mailbox.bell().sleep();
    }
    let found = mailbox.awake();
    *called |= found.called;
    if found.letters {
        let mut letters = Vec::new();
        mailbox.take(&mut letters);
        got.extend(letters);
    }
    usize::from(sleeps)
}

#[test]
fn every_letter_of_two_producers_wakes_the_consumer() {
    model(|| {
        let mailbox = Arc::new(Model::new(ModelBell::default()));
        let producers: Vec<_> = (0..2)
            .map(|letter| {
                let mailbox = Arc::clone(&mailbox);
                loom::thread::spawn(move || mailbox.post(letter))
            })
            .collect();
        let (mut got, mut sleeps) = (Vec::new(), 0);
        while got.len() < 2 {
            sleeps += turn(&mailbox, &mut got, &mut false);
        }
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, [0, 1]);
        let rings = mailbox.bell().rings.load(std::sync::atomic::Ordering::Relaxed);
        assert!(rings <= sleeps, "{rings} rings for {sleeps} sleeps");
    });
}

#[test]
fn bare_wake_up_is_not_lost_beside_a_letter() {
    model(|| {
        let mailbox = Arc::new(Model::new(ModelBell::default()));
        let poster = Arc::clone(&mailbox);
        let waker = Arc::clone(&mailbox);
        let posting = loom::thread::spawn(move || poster.post(7));
        let waking = loom::thread::spawn(move || waker.wake());
        let (mut got, mut called) = (Vec::new(), false);
        while got.is_empty() || !called {
            turn(&mailbox, &mut got, &mut called);
        }
        posting.join().unwrap();
        waking.join().unwrap();
        assert_eq!(got, [7]);
    });
}

#[test]
fn letter_posted_while_the_mailbox_closes_is_dropped_once() {
    model(|| {
        let mailbox = Arc::new(Mailbox::<Arc<()>, _>::new(ModelBell::default()));
        let letter = Arc::new(());
        let (poster, copy) = (Arc::clone(&mailbox), Arc::clone(&letter));
        let posting = loom::thread::spawn(move || poster.post(copy));
        mailbox.close();
        posting.join().unwrap();
        assert_eq!(Arc::strong_count(&letter), 1, "neither kept nor lost");
    });
}

#[test]
fn letter_posted_while_a_forked_child_closes_is_kept_by_nobody_else() {
    model(|| {
        let mailbox = Arc::new(Mailbox::<Arc<()>, _>::new(ModelBell::default()));
        let letter = Arc::new(());
        let (poster, copy) = (Arc::clone(&mailbox), Arc::clone(&letter));
        let posting = loom::thread::spawn(move || poster.post(copy));
        let owned = mailbox.close_in_child();
        mailbox.post(Arc::clone(&letter));
        mailbox.close();
        posting.join().unwrap();
        // The poster's, if it came before; never the one that was posted after.
        assert!(Arc::strong_count(&letter) <= 2, "a closed mailbox takes nothing (lock was free: {owned})");
    });
}

#[test]
fn end_of_the_consumer_disturbs_neither_posters_nor_wakers() {
    model(|| {
        let mailbox = Arc::new(Mailbox::<Arc<()>, _>::new(ModelBell::default()));
        let letter = Arc::new(());
        let (poster, copy) = (Arc::clone(&mailbox), Arc::clone(&letter));
        let waker = Arc::clone(&mailbox);
        let posting = loom::thread::spawn(move || poster.post(copy));
        let waking = loom::thread::spawn(move || waker.wake());
        if mailbox.may_sleep() {
            mailbox.bell().sleep();
        }
        mailbox.awake();
        mailbox.close();
        posting.join().unwrap();
        waking.join().unwrap();
        assert_eq!(Arc::strong_count(&letter), 1, "neither kept nor lost");
    });
}
