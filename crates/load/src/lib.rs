//! A load tool for HTTP/1.1 and echo servers.
//!
//! One thread and one edge-triggered epoll instance open tens of thousands of connections, send
//! requests on them in a closed loop or at a fixed rate, and count what comes back. The parts, in
//! the order in which a run passes through them:
//!
//! ```text
//!  args ── Args as typed ──▶ plan ── checked, resolved ──▶ engine ── Outcome ──▶ report
//!                             │                              │
//!                             └─ limits (files, ports, CPU)  ├─ conn      one connection
//!                                                            │   └─ http, chunked   its answers
//!                                                            ├─ reactor   epoll and a fine timer
//!                                                            ├─ pace      when to send what
//!                                                            ├─ stats     latencies and errors
//!                                                            ├─ progress  JSON lines for a caller
//!                                                            └─ watch     the server's CPU and memory
//! ```
//!
//! # Platform
//!
//! Linux (epoll, timerfd, `/proc`).

#![forbid(unsafe_code)]

pub mod args;
pub mod chunked;
pub mod conn;
pub mod engine;
pub mod http;
pub mod limits;
pub mod pace;
pub mod plan;
pub mod progress;
pub mod reactor;
pub mod report;
pub mod stats;
pub mod watch;
