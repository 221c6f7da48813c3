//! The scheduler of Lissom as pure data: who runs next, who waits on which channel, which deadline comes first.
//!
//! Nothing here switches stacks, waits, or knows what a tasklet executes. The caller asks ([`World::exchange`],
//! [`World::unpark`], ...), the answer says what has to happen, and the caller carries it out. That keeps the
//! semantics testable without an interpreter, a clock or threads.
//!
//! ```text
//!              insert                        block
//!   Idle  ───────────────►  Queued  ◄──────────────────►  Blocked (in a channel's list)
//!    ▲  ◄───────────────    ▲    │        exchange
//!    │        remove        │    │ park
//!    │                unpark│    ▼
//!    └───────────────────── Parked (input/output, time, a lock, another thread)
//! ```
//!
//! * One [`World`] holds every tasklet of the process, so that a channel can join tasklets of different threads. Its
//!   owner serialises access to it.
//! * Each thread has a **ring**: a circular list whose head is the tasklet that runs now, or, between two tasklets,
//!   the one that runs next. The "end" of the queue is the place just before the head.
//! * A tasklet is linked in at most one list at a time: its thread's ring or one channel's waiters.
//!
//! ```
//! use lissom_sched::{Direction, Exchange, World};
//!
//! let mut world = World::new();
//! let (thread, main) = world.add_thread();
//! let worker = world.add_tasklet(thread);
//! let channel = world.add_channel();
//!
//! // Nobody waits yet, so the main tasklet has to block, and the worker comes next.
//! world.insert(worker);
//! assert_eq!(world.exchange(channel, main, Direction::Receive), Exchange::WouldBlock);
//! world.block(channel, main, Direction::Receive);
//! assert_eq!(world.head(thread), Some(worker));
//!
//! // A send to a waiting receiver prefers the receiver: it runs at once, the sender last.
//! assert_eq!(world.exchange(channel, worker, Direction::Send), Exchange::SwitchTo(main));
//! assert_eq!(world.head(thread), Some(main));
//! ```
#![forbid(unsafe_code)]

mod channel;
mod list;
mod ring;
mod select;
mod timers;
mod world;

pub use channel::{Direction, Exchange};
pub use timers::{TimerKey, Timers};
pub use world::{ChannelId, State, TaskletId, ThreadId, World};
