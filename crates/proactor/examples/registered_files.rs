//! Whether registering files with the ring would pay: `cargo run --release --example registered_files [folder]`.
//!
//! The same operations on a descriptor and on its registered index, in batches of 64 as a busy ring has them: CPU time
//! per operation, least of nine runs in turn, and what registering and forgetting one file costs, which every socket
//! that comes and goes would pay. Reads are of a file in the page cache, the dearest case: the work itself is least.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

const RUNS: usize = 9;
const BATCH: usize = 64;
const BATCHES: usize = 2_000;
const SIZE: usize = 4096;
const INDEX: u32 = 7;

/// CPU time of this process.
fn cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable for the time of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Nanoseconds of CPU time for each of `BATCHES` batches of `BATCH` operations that `entry` describes.
fn measure(
    ring: &mut IoUring,
    before: impl Fn() -> io::Result<()>,
    entry: impl Fn() -> squeue::Entry,
) -> io::Result<f64> {
    let mut spent = Duration::ZERO;
    for _ in 0..BATCHES {
        before()?;
        let start = cpu();
        for _ in 0..BATCH {
            // SAFETY: what the entry points to outlives the batch, which is waited for below.
            unsafe { ring.submission().push(&entry()) }.expect("the queue has room for a batch");
        }
        ring.submit_and_wait(BATCH)?;
        for done in ring.completion() {
            assert!(done.result() > 0, "{}", io::Error::from_raw_os_error(-done.result()));
        }
        spent += cpu() - start;
    }
    Ok(spent.as_nanos() as f64 / (BATCH * BATCHES) as f64)
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join("lissom-registered-files");
    File::create(&path)?.write_all(&vec![7; 64 * SIZE])?;
    let file = File::open(&path)?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut ring: IoUring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().build(BATCH as u32 * 2)?;
    ring.submitter().register_files_sparse(INDEX * 2)?;
    let mut buffer = vec![0_u8; SIZE];
    let place = buffer.as_mut_ptr();
    let send = || (&theirs).write_all(&[1; BATCH]);

    let mut found = [const { Vec::new() }; 5];
    for _ in 0..RUNS {
        ring.submitter().register_files_update(INDEX, &[file.as_raw_fd()])?;
        let fd = types::Fd(file.as_raw_fd());
        found[0].push(measure(&mut ring, || Ok(()), || opcode::Read::new(fd, place, SIZE as u32).build())?);
        found[1].push(measure(
            &mut ring,
            || Ok(()),
            || opcode::Read::new(types::Fixed(INDEX), place, SIZE as u32).build(),
        )?);
        ring.submitter().register_files_update(INDEX, &[ours.as_raw_fd()])?;
        let fd = types::Fd(ours.as_raw_fd());
        found[2].push(measure(&mut ring, send, || opcode::Recv::new(fd, place, 1).build())?);
        found[3].push(measure(&mut ring, send, || opcode::Recv::new(types::Fixed(INDEX), place, 1).build())?);
        let start = cpu();
        for _ in 0..BATCHES {
            ring.submitter().register_files_update(INDEX, &[file.as_raw_fd()])?;
            ring.submitter().register_files_update(INDEX, &[-1])?;
        }
        found[4].push((cpu() - start).as_nanos() as f64 / BATCHES as f64);
    }
    std::fs::remove_file(&path)?;
    for (work, plain, registered) in [("read 4 KiB, cached", 0, 1), ("receive a byte that is there", 2, 3)] {
        let (plain, registered) = (least(&found[plain]), least(&found[registered]));
        println!("{work}: {plain:.0} ns, registered {registered:.0} ns, ratio {:.2}", registered / plain);
    }
    println!("registering a file and forgetting it: {:.0} ns", least(&found[4]));
    Ok(())
}
