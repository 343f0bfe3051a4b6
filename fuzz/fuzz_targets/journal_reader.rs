//! Whatever bytes a journal has, its reader neither panics nor hangs, and returns no record whose checksum is wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| ringpost_fuzz::journal::check(input));
