//! Servers that answer, or fail to answer, in one given way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Listens on a free loopback port and calls `serve` for each connection, in a thread of its own;
/// returns the port. The threads end with the test process.
pub(crate) fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Calls `answer` with the stream for each HTTP request head read from it, while it returns true.
pub(crate) fn http(stream: TcpStream, mut answer: impl FnMut(&mut TcpStream) -> bool) {
    let mut stream = stream;
    let mut head = Vec::new();
    let mut room = [0; 4096];
    loop {
        match stream.read(&mut room) {
            Ok(0) | Err(_) => return,
            Ok(count) => head.extend_from_slice(&room[..count]),
        }
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if !answer(&mut stream) {
                return;
            }
        }
    }
}

/// Serves every request with the same bytes.
pub(crate) fn http_constant(bytes: &'static [u8]) -> u16 {
    server(move |stream| http(stream, |stream| stream.write_all(bytes).is_ok()))
}
