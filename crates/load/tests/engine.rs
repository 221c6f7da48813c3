//! The engine against servers that behave well or badly.

#[path = "support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use clap::Parser;
use lissom_load::args::Args;
use lissom_load::plan::Plan;
use lissom_load::report::Report;
use support::{http, http_constant, server};

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Runs the tool's engine with these arguments against 127.0.0.1:`port`.
fn load(port: u16, arguments: &str) -> Report {
    let port = port.to_string();
    let fixed = ["lissom-load", "--port", &port];
    let arguments = fixed.into_iter().chain(arguments.split_whitespace());
    let plan = Plan::new(Args::try_parse_from(arguments).expect("arguments")).expect("plan");
    let outcome = lissom_load::engine::run(&plan).expect("run");
    Report::new(&plan, &outcome)
}

#[test]
fn keep_alive_requests_are_counted_without_errors() {
    let report = load(http_constant(HELLO), "-c 20 -n 1000");
    assert_eq!(report.errors_total, 0, "{:?}", report.errors);
    assert_eq!(report.requests.completed, 1000);
    assert_eq!(report.latency_us.count, 1000);
    assert_eq!(report.connections.opened, 20);
    assert_eq!(report.requests.bytes, 1000 * HELLO.len() as u64);
}

#[test]
fn duration_ends_the_run_and_late_answers_are_kept() {
    let port = server(|stream| {
        http(stream, |stream| {
            thread::sleep(Duration::from_millis(300));
            stream.write_all(HELLO).is_ok()
        });
    });
    let report = load(port, "-c 4 -d 0.2");
    assert_eq!(report.errors_total, 0, "{:?}", report.errors);
    assert_eq!((report.requests.completed, report.requests.drained), (0, 4));
    assert!(report.latency_us.p50 >= 300_000.0);
}

#[test]
fn echo_larger_than_any_buffer_is_checked_byte_by_byte() {
    let echo = |flip: bool| {
        server(move |mut stream| {
            let mut writer = stream.try_clone().expect("clone");
            let mut room = vec![0; 65536];
            while let Ok(count @ 1..) = stream.read(&mut room) {
                room[0] ^= u8::from(flip);
                if writer.write_all(&room[..count]).is_err() {
                    return;
                }
            }
        })
    };
    let report = load(echo(false), "-c 3 -n 9 --echo 3000000");
    assert_eq!((report.requests.completed, report.errors_total), (9, 0));
    let report = load(echo(true), "-c 1 -n 1 --echo 100");
    assert_eq!(report.errors.get("mismatch"), Some(&1));
}

#[test]
fn fixed_rate_counts_the_wait_before_sending() {
    // One connection, 100 ms for each answer, twenty requests due within 20 ms: the last is answered
    // about two seconds after it was due, though each takes only 100 ms from when it is sent.
    let port = server(|stream| {
        http(stream, |stream| {
            thread::sleep(Duration::from_millis(100));
            stream.write_all(HELLO).is_ok()
        });
    });
    let report = load(port, "-c 1 -n 20 --rate 1000");
    assert_eq!((report.latency_us.count, report.errors_total), (20, 0));
    assert!(report.latency_us.max >= 1_900_000.0, "{:?}", report.latency_us);
    assert!(report.service_us.p50 < 1_000_000.0, "{:?}", report.service_us);
}

#[test]
fn fixed_rate_that_the_server_cannot_keep_leaves_requests_unsent() {
    let port = server(|stream| {
        http(stream, |stream| {
            thread::sleep(Duration::from_millis(100));
            stream.write_all(HELLO).is_ok()
        });
    });
    let report = load(port, "-c 1 -d 0.5 --rate 100 --timeout 0.5");
    let unsent = report.errors.get("unsent").copied().unwrap_or(0);
    assert!((30..50).contains(&unsent), "{:?}", report.errors);
}

#[test]
fn fixed_rate_is_kept() {
    let report = load(http_constant(HELLO), "-c 8 -d 1 --rate 400");
    assert_eq!((report.latency_us.count, report.errors_total), (400, 0));
}

#[test]
fn nothing_listening_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    drop(listener);
    let report = load(port, "-c 7 -n 10");
    assert_eq!(report.errors.get("refused"), Some(&7));
    assert_eq!((report.connections.opened, report.requests.completed), (0, 0));
}

#[test]
fn bad_status_is_an_error_and_no_completed_request() {
    let port = http_constant(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let report = load(port, "-c 2 -d 0.2");
    assert_eq!(report.requests.completed, 0);
    assert!(report.errors["bad_status"] > 0);
}

#[test]
fn answers_cut_short_are_told_apart() {
    let cut = |bytes: &'static [u8]| {
        server(move |stream| {
            http(stream, |stream| {
                let _ = stream.write_all(bytes);
                false
            });
        })
    };
    let short = cut(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
    assert!(load(short, "-c 1 -d 0.05").errors.contains_key("short_body"));
    assert!(load(cut(b""), "-c 1 -d 0.05").errors.contains_key("eof"));
    let nonsense = cut(b"what?\r\n\r\n");
    assert!(load(nonsense, "-c 1 -d 0.05").errors.contains_key("protocol"));
}

#[test]
fn reset_is_an_error_and_the_connection_is_opened_again() {
    let port = server(|stream| {
        let socket = socket2::SockRef::from(&stream);
        // Closing then sends RST (socket(7), SO_LINGER).
        socket.set_linger(Some(Duration::ZERO)).expect("linger");
        http(stream, |_| false);
    });
    let report = load(port, "-c 1 -d 0.5");
    assert!(report.errors["reset"] >= 2, "{:?}", report.errors);
    assert!(report.connections.reopened >= 2);
}

#[test]
fn silence_is_a_timeout() {
    let port = server(|stream| http(stream, |_| true));
    let report = load(port, "-c 3 -d 0.1 --timeout 0.2");
    assert_eq!(report.errors.get("timeout"), Some(&3));
}

#[test]
fn connection_close_is_no_error() {
    let port = server(|stream| {
        http(stream, |stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end");
            false
        });
    });
    let report = load(port, "-c 2 -n 20");
    assert_eq!((report.requests.completed, report.errors_total), (20, 0));
    assert!(report.connections.reopened >= 18);
}

#[test]
fn primed_connections_were_answered_before_the_measurement() {
    let report = load(http_constant(HELLO), "-c 5 -n 10 --prime");
    assert_eq!((report.connections.opened, report.requests.completed), (5, 10));
    let silent = server(|stream| http(stream, |_| true));
    let report = load(silent, "-c 5 -n 10 --prime --timeout 0.2");
    assert_eq!(report.connections.opened, 0);
    assert_eq!(report.errors.get("timeout"), Some(&5));
}

#[test]
fn pending_limits_the_connections_being_opened() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let port = server(move |stream| {
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        thread::sleep(Duration::from_millis(20));
        // Before the answer: the tool opens the next connection when it has that.
        now.fetch_sub(1, SeqCst);
        http(stream, |stream| stream.write_all(HELLO).is_ok());
    });
    let report = load(port, "-c 20 -n 1 --prime --pending 3");
    assert_eq!((report.connections.opened, report.errors_total), (20, 0));
    assert_eq!(seen.load(SeqCst), 3);
}

#[test]
fn quickack_spares_the_delayed_acknowledgement() {
    // Head and body in two writes without TCP_NODELAY, as http.server sends them: the body waits for
    // the head's acknowledgement, which the kernel delays by 40 ms once the exchange is ping-pong.
    let port = server(|stream| {
        http(stream, |stream| {
            let (head, body) = HELLO.split_at(HELLO.len() - 5);
            stream.write_all(head).is_ok() && stream.write_all(body).is_ok()
        });
    });
    let slow = load(port, "-c 1 -n 30");
    let quick = load(port, "-c 1 -n 30 --quickack");
    assert_eq!(slow.errors_total + quick.errors_total, 0);
    assert!(slow.latency_us.p50 > 30_000.0, "{:?}", slow.latency_us);
    assert!(quick.latency_us.p50 < 30_000.0, "{:?}", quick.latency_us);
}
