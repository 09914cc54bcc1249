#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code, reason = "one target each")]
mod entries;

libfuzzer_sys::fuzz_target!(|input: &[u8]| entries::jwks(input));
