//! How much a value stack holds, read from the bytecode of its frame (up to 3.13; later frames know it themselves).
//!
//! Two questions can be answered with certainty while a frame is somewhere inside an instruction:
//! * What does a surrounding `try`, `with` or the like keep? The exception table of the code says for each instruction
//!   down to which depth the stack is unwound before the handler runs. What lies below has been there before the block was
//!   entered and is still there, wherever the instruction is: calling, dropping its inputs, failing, unwinding.
//! * How deep is the stack at the head of a `for` loop? As deep as any way from the beginning of the code leads to, since
//!   the compiler sees to it that all ways lead to the same.
//!
//! How deep the stack is in the middle of other instructions cannot be told: a call drops its arguments one after the other,
//! and each may run a `__del__` that parks the tasklet.

use std::ffi::c_int;

use super::offset;

/// What [`depth_at`] does not know yet.
const UNKNOWN: usize = usize::MAX;

/// Bits of `offset::FLOW`: how an opcode moves on.
const FORWARD: u8 = 1;
const BACK: u8 = 2;
const ENDS: u8 = 4;

unsafe extern "C" {
    /// `Include/cpython/compile.h`.
    fn PyCompile_OpcodeStackEffectWithJump(opcode: c_int, oparg: c_int, jump: c_int) -> c_int;
}

/// By how much an instruction changes the depth; `None` for what is no instruction of the compiler's.
fn effect(opcode: u8, argument: usize, jumps: bool) -> Option<isize> {
    if opcode == offset::RETURN_GENERATOR {
        // Behind it a generator goes on with what is sent first; the function does not say so before 3.13.
        return Some(1);
    }
    // SAFETY: a function of its arguments alone.
    let change = unsafe { PyCompile_OpcodeStackEffectWithJump(opcode.into(), argument as c_int, c_int::from(jumps)) };
    (change != c_int::MAX).then_some(change as isize)
}

/// One line of an exception table; all places count code units.
struct Handler {
    start: usize,
    end: usize,
    target: usize,
    /// What is left of the stack before the exception is pushed.
    depth: usize,
    /// Whether the place of the exception is pushed, too.
    with_place: bool,
}

/// Reads an exception table (Objects/exception_handling_notes.txt): numbers of 6-bit digits, the highest first.
fn handlers(table: &[u8]) -> impl Iterator<Item = Handler> {
    let mut bytes = table.iter();
    let mut number = move || {
        let mut value = 0_usize;
        loop {
            let byte = *bytes.next()?;
            value = value << 6 | usize::from(byte & 0x3f);
            if byte & 0x40 == 0 {
                return Some(value);
            }
        }
    };
    std::iter::from_fn(move || {
        let (start, length, target, depth) = (number()?, number()?, number()?, number()?);
        Some(Handler { start, end: start + length, target, depth: depth >> 1, with_place: depth & 1 != 0 })
    })
}

/// How many entries the block around the instruction at code unit `place` keeps, whatever the instruction is doing.
pub(super) fn kept_by_block(table: &[u8], place: usize) -> usize {
    handlers(table).find(|handler| (handler.start..handler.end).contains(&place)).map_or(0, |handler| handler.depth)
}

/// How deep the stack is before the instruction at code unit `place`, if that is the head of a `for` loop.
///
/// `code` are the bytes as the compiler has made them (`co_code`).
pub(super) fn depth_at_loop(code: &[u8], table: &[u8], place: usize) -> Option<usize> {
    let units: Vec<[u8; 2]> = code.chunks_exact(2).map(|unit| [unit[0], unit[1]]).collect();
    if units.get(place)?[0] != offset::FOR_ITER {
        return None;
    }
    let mut known = vec![UNKNOWN; units.len()];
    let pushed = |handler: Handler| (handler.target, handler.depth + 1 + usize::from(handler.with_place));
    let mut ways: Vec<(usize, usize)> = handlers(table).map(pushed).collect();
    ways.push((0, 0));
    while let Some((start, depth)) = ways.pop() {
        follow(&units, &mut known, &mut ways, start, depth)?;
    }
    known.get(place).copied().filter(|&depth| depth != UNKNOWN)
}

/// Notes the depth before each instruction from `start` on, up to one that is known or does not go on; adds the targets of
/// jumps to `ways`. `None` if the code is not what the compiler makes.
fn follow(
    units: &[[u8; 2]],
    known: &mut [usize],
    ways: &mut Vec<(usize, usize)>,
    start: usize,
    depth: usize,
) -> Option<()> {
    let (mut place, mut depth, mut argument) = (start, depth, 0_usize);
    loop {
        let [opcode, low] = *units.get(place)?;
        if known[place] != UNKNOWN {
            return (known[place] == depth).then_some(());
        }
        known[place] = depth;
        argument = argument << 8 | usize::from(low);
        let caches = units[place + 1..].iter().take_while(|unit| unit[0] == offset::CACHE).count();
        place += 1 + caches;
        if opcode == offset::EXTENDED_ARG {
            continue;
        }
        let flow = offset::FLOW[usize::from(opcode)];
        if flow & (FORWARD | BACK) != 0 {
            let target = if flow & BACK != 0 { place.checked_sub(argument)? } else { place + argument };
            ways.push((target, depth.checked_add_signed(effect(opcode, argument, true)?)?));
        }
        if flow & ENDS != 0 {
            return Some(());
        }
        depth = depth.checked_add_signed(effect(opcode, argument, false)?)?;
        argument = 0;
    }
}
