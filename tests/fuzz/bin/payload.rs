//! Fuzzes the target `payload` with libFuzzer.
#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code, reason = "each binary runs a single target")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::payload(data));
