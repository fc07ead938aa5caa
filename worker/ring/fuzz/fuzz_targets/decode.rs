//! Any bytes as frames; the property itself is the tests'.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/decoder.rs"]
mod decoder;

fuzz_target!(|bytes: &[u8]| decoder::check(bytes, 7));
