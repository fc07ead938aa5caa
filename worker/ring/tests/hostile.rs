//! Bytes from a peer that has proven its membership and then says anything at all.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/decoder.rs"]
mod decoder;
#[path = "common/stream.rs"]
mod stream;

use proptest::collection::vec;
use proptest::prelude::*;
use ringmaster_ring::frame::{HEADER_BYTES, heartbeat};

/// The most address space that this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.unwrap()
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_frames_or_a_named_error(bytes in vec(any::<u8>(), 0..300), generation: u64) {
        decoder::check(&bytes, generation);
    }

    #[test]
    fn bytes_that_are_nearly_frames_are_frames_or_a_named_error(
        generation: u64,
        body in vec(any::<u8>(), 0..100),
        changes in vec((0..HEADER_BYTES, any::<u8>()), 0..4),
    ) {
        let mut bytes = heartbeat(generation).to_vec();
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes.extend(body);
        decoder::check(&bytes, generation);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_peer_that_says_anything_is_believed_only_where_it_is_right(
        script in vec(any::<u8>(), 0..120),
    ) {
        stream::check(&script);
    }

    #[test]
    fn frames_that_arrive_in_pieces_are_whole(
        // Frames of sums, heartbeats and pauses, each of them with a cut or without.
        script in vec((0_u8..8, any::<bool>()), 0..60),
    ) {
        let script = script.into_iter().map(|(act, whole)| act | u8::from(whole) << 5);
        stream::check(&script.collect::<Vec<_>>());
    }
}

#[test]
fn no_memory_is_taken_for_a_length_that_is_only_announced() {
    // Threads and their arenas have been paid for after a few.
    let announce = |length: u32| stream::check(&[&[43_u8][..], &length.to_le_bytes()].concat());
    (0..16).for_each(|_| announce(1));
    let before = peak_kib();
    (0..32).for_each(|at| announce(u32::MAX - 2 * at));
    // Each of these frames announces 4 GiB.
    assert!(
        peak_kib() < before + 2 * 1024 * 1024,
        "{before} KiB, then {}",
        peak_kib()
    );
}
