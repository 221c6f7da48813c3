//! Settings from the environment, checked once when the module is loaded.

use std::sync::OnceLock;

use lissom_proactor::DriverKind;
use lissom_proactor::driver::UnknownDriver;

/// What a user may choose.
#[derive(Debug)]
pub(crate) struct Settings {
    /// `LISSOM_STACK_SIZE`: bytes of machine stack per tasklet.
    pub(crate) stack_size: usize,
    /// `LISSOM_THREAD_STACK_SIZE`: the same for tasklets that stand for threads.
    pub(crate) thread_stack_size: usize,
    /// `LISSOM_DRIVER`: how the proactor waits.
    pub(crate) driver: DriverKind,
}

/// On 3.11 one counter limits Python and C recursion alike, so a stack must carry a thousand levels of either.
const DEFAULT_STACK_SIZE: usize = if cfg!(Py_3_12) { 256 * 1024 } else { 2 * 1024 * 1024 };

/// Code written for threads expects to go deep: a thread has 8 MiB. Address space costs nothing, but stacks further apart
/// need more pages of page table, so bare tasklets stay closer together.
const DEFAULT_THREAD_STACK_SIZE: usize = if cfg!(Py_3_12) { 1024 * 1024 } else { DEFAULT_STACK_SIZE };

/// The least that the interpreter's own uncounted stack use and a useful depth need.
const MIN_STACK_SIZE: usize = 192 * 1024;
const MAX_STACK_SIZE: usize = 64 * 1024 * 1024;

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// Reads and checks the environment.
///
/// # Errors
/// A line that says which setting is wrong and what is allowed.
pub(crate) fn load() -> Result<(), String> {
    let stack_size = size("LISSOM_STACK_SIZE", DEFAULT_STACK_SIZE)?;
    let thread_stack_size = size("LISSOM_THREAD_STACK_SIZE", DEFAULT_THREAD_STACK_SIZE)?;
    let driver = std::env::var("LISSOM_DRIVER").map_or(Ok(DriverKind::Auto), |name| {
        let unknown = |choices| format!("LISSOM_DRIVER={name} is not supported: {choices}");
        name.parse().map_err(|choices: UnknownDriver| unknown(choices))
    })?;
    let _ = SETTINGS.set(Settings { stack_size, thread_stack_size, driver });
    Ok(())
}

fn size(name: &str, default: usize) -> Result<usize, String> {
    std::env::var(name).map_or(Ok(default), |text| parse_size(name, &text))
}

fn parse_size(name: &str, text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.trim_end().to_ascii_lowercase() {
        lower if lower.ends_with('k') => (lower[..lower.len() - 1].to_owned(), 1024),
        lower if lower.ends_with('m') => (lower[..lower.len() - 1].to_owned(), 1024 * 1024),
        lower => (lower, 1),
    };
    let size = digits.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    match size {
        Some(size) if (MIN_STACK_SIZE..=MAX_STACK_SIZE).contains(&size) => Ok(size.next_multiple_of(4096)),
        _ => Err(format!(
            "{name}={text} is not a stack size: give bytes, or a number with K or M, from {}K to {}M",
            MIN_STACK_SIZE / 1024,
            MAX_STACK_SIZE / 1024 / 1024
        )),
    }
}

/// The settings in force.
pub(crate) fn get() -> &'static Settings {
    SETTINGS.get().expect("loaded when the module was")
}
