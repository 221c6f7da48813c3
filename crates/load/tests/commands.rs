//! The two programs, started as a user would.

#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A running native-echo, ended with the test.
struct Echo {
    child: Child,
    port: String,
}

impl Echo {
    fn start() -> Self {
        let mut child =
            Command::new(env!("CARGO_BIN_EXE_native-echo")).stdout(Stdio::piped()).spawn().expect("native-echo starts");
        let mut port = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut port).expect("a line");
        let port = port.trim().to_owned();
        Self { child, port }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lissom-load")).args(arguments).output().expect("lissom-load starts")
}

#[test]
fn json_report_and_progress_lines_are_well_formed() {
    let echo = Echo::start();
    let pid = echo.child.id().to_string();
    let output = run(&[
        "--port",
        &echo.port,
        "--echo",
        "1024",
        "-c",
        "200",
        "-d",
        "0.4",
        "--warmup",
        "0.1",
        "--settle",
        "0.1",
        "--progress=0.05",
        "--server-pid",
        &pid,
        "--json",
        "-",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["connections"]["opened"], 200);
    assert!(report["requests"]["completed"].as_u64() > Some(0));
    assert!(report["server"]["open"]["rss_kib"].as_u64() > Some(0));
    let lines = String::from_utf8(output.stderr).expect("text");
    let phases: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"))
        .map(|line| line["phase"].as_str().expect("phase").to_owned())
        .collect();
    for phase in ["open", "settle", "warmup", "measure", "done"] {
        assert!(phases.iter().any(|seen| seen == phase), "{phase} in {phases:?}");
    }
}

#[test]
fn table_is_for_people() {
    let echo = Echo::start();
    let output = run(&["--port", &echo.port, "--echo", "10", "-n", "100"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("p99") && text.contains("errors                 none"), "{text}");
}

#[test]
fn errors_exit_with_1_and_usage_with_2() {
    let port = support::http_constant(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let code = |arguments: &[&str]| run(arguments).status.code();
    assert_eq!(code(&["--port", &port.to_string(), "-n", "1", "-c", "1", "--json=-"]), Some(1));
    assert_eq!(code(&["http://192.0.2.7/"]), Some(2));
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["--port", "1", "--cpu", "100000"]), Some(2));
    assert_eq!(code(&["--port", "1", "--server-pid", "4294967295"]), Some(2));
}

#[test]
fn hard_limit_on_files_is_explained() {
    let tool = env!("CARGO_BIN_EXE_lissom-load");
    let script = format!("ulimit -n 64 && exec setpriv --bounding-set -all {tool} --port 1 -c 500");
    let as_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let script = if as_root {
        // Root may raise the hard limit as long as it has CAP_SYS_RESOURCE.
        script
    } else {
        script.replace("setpriv --bounding-set -all ", "")
    };
    let output = Command::new("sh").args(["-c", &script]).output().expect("sh starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("ulimit -Hn"), "{text}");
}
