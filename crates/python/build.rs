//! Asks the headers of the interpreter being built against where the fields of its thread state lie.
//!
//! `probe/tstate.c` is compiled with `Py_BUILD_CORE` and run; what it prints becomes Rust constants. No struct
//! definition is copied, so a patch release that moves a field moves the constants with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=probe/tstate.c");
    println!("cargo:rerun-if-env-changed=PYO3_PYTHON");
    pyo3_build_config::use_pyo3_cfgs();
    let config = pyo3_build_config::get();
    let python = env::var("PYO3_PYTHON").ok().or_else(|| config.executable().map(str::to_owned)).unwrap_or_else(|| {
        panic!("no interpreter to build against: set PYO3_PYTHON to a CPython 3.11, 3.12, 3.13 or 3.14 with headers")
    });
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let constants = run_probe(&python, &out);
    fs::write(out.join("offsets.rs"), constants).expect("OUT_DIR is writable");
}

fn run_probe(python: &str, out: &Path) -> String {
    let includes = capture(
        Command::new(python)
            .args(["-c", "import sysconfig as s; print(s.get_path('include')); print(s.get_path('platinclude'))"]),
    );
    let probe = out.join("tstate-probe");
    let mut compile = cc::Build::new().get_compiler().to_command();
    for include in includes.lines() {
        compile.arg("-I").arg(include).arg("-I").arg(format!("{include}/internal"));
        compile.arg("-I").arg(format!("{include}/internal/mimalloc"));
    }
    compile.args(["-w", "-DPy_BUILD_CORE=1", "probe/tstate.c", "-o"]).arg(&probe);
    let status =
        compile.status().unwrap_or_else(|error| panic!("no C compiler to read Python's headers with: {error}"));
    assert!(status.success(), "the headers of {python} could not be read: install its development package");
    capture(&mut Command::new(&probe))
}

fn capture(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("plain text")
}
