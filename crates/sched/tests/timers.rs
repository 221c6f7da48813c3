//! Timers against an ordered list.

use lissom_sched::Timers;
use proptest::prelude::*;

#[test]
fn equal_deadlines_all_fire() {
    let mut timers = Timers::new();
    for value in 0..5 {
        timers.insert(10, value);
    }
    let mut fired: Vec<i32> = std::iter::from_fn(|| timers.pop_expired(10)).collect();
    fired.sort_unstable();
    assert_eq!(fired, [0, 1, 2, 3, 4]);
}

#[test]
fn pop_before_the_deadline_gives_nothing() {
    let mut timers = Timers::new();
    timers.insert(10, ());
    assert_eq!(timers.pop_expired(9), None);
    assert_eq!(timers.next_deadline(), Some(10));
}

#[test]
fn stale_key_does_not_touch_the_slot_s_next_owner() {
    let mut timers = Timers::new();
    let old = timers.insert(10, "old");
    assert_eq!(timers.remove(old), Some("old"));
    timers.insert(20, "new");
    assert_eq!(timers.remove(old), None);
    assert_eq!(timers.pop_expired(20), Some("new"));
}

proptest! {
    #[test]
    fn random_programs_match_a_sorted_list(steps in prop::collection::vec((0u8..4, 0u64..50), 1..200)) {
        let mut timers = Timers::new();
        let mut model: Vec<(u64, usize)> = Vec::new();
        let mut keys = Vec::new();
        for (serial, (action, number)) in steps.into_iter().enumerate() {
            match action {
                0 | 1 => {
                    keys.push((timers.insert(number, serial), serial));
                    model.push((number, serial));
                }
                2 if !keys.is_empty() => {
                    let (key, value) = keys.swap_remove(number as usize % keys.len());
                    let expected = model.iter().position(|&(_, v)| v == value).map(|at| model.swap_remove(at).1);
                    prop_assert_eq!(timers.remove(key), expected);
                }
                _ => {
                    while let Some(value) = timers.pop_expired(number) {
                        let at = model.iter().position(|&(_, v)| v == value).expect("known");
                        let (deadline, _) = model.swap_remove(at);
                        prop_assert!(deadline <= number);
                        prop_assert!(model.iter().all(|&(d, _)| d >= deadline));
                    }
                    prop_assert!(model.iter().all(|&(d, _)| d > number));
                }
            }
            prop_assert_eq!(timers.next_deadline(), model.iter().map(|&(d, _)| d).min());
            prop_assert_eq!(timers.len(), model.len());
        }
    }
}
