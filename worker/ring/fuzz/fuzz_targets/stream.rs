//! Any bytes as what a peer of a formed ring does; the property itself is the tests'.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nix::sys::signal::{SigSet, Signal};

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/stream.rs"]
mod stream;

fuzz_target!(
    // A Rust program ignores this signal from its first line; libFuzzer's does not, and a write to
    // a peer that has gone would end it. Threads inherit what the first one blocks.
    init: SigSet::from(Signal::SIGPIPE).thread_block().expect("block SIGPIPE"),
    |script: &[u8]| stream::check(script)
);
