//! NCCL itself, as far as this host has it: every outcome is a sentence, none is a panic.
//!
//! Without a GPU or a library these hold because both are missed in time, with one GPU because NCCL
//! refuses two ranks on one device, and with either because `self_check` says which it was.

#![cfg(feature = "nccl")]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::on_ring;
use ringmaster_ring::nccl::{Library, Nccl, self_check};
use ringmaster_ring::{Options, Tag};

/// One line that says something, without a panic's marks.
fn assert_sentence(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "{text}");
    assert!(
        !text.contains("panicked") && !text.contains("unwrap"),
        "{text}"
    );
}

#[test]
fn loading_gives_a_library_or_one_sentence_with_the_next_move() {
    match Library::load() {
        Ok(library) => {
            let version = library.version();
            let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
            let version = (parts.next().unwrap(), parts.next().unwrap());
            assert!(version >= (2, 18), "{version:?}");
        }
        Err(error) => {
            let text = error.to_string();
            assert_sentence(&text);
            assert!(text.contains("libnccl.so.2"), "{text}");
            assert!(text.contains("install NCCL 2.18 or later"), "{text}");
        }
    }
}

#[test]
fn checking_a_device_ends_with_a_sentence() {
    match self_check(0) {
        Ok(report) => {
            println!("{report}");
            assert!(report.starts_with("NCCL 2."), "{report}");
        }
        Err(reason) => {
            println!("not checked: {reason}");
            assert_sentence(&reason);
        }
    }
    assert_sentence(&self_check(4096).unwrap_err());
}

#[test]
fn two_ranks_on_one_device_go_on_over_tcp() {
    let sums = on_ring(2, &Options::default(), |formed, _| {
        let mut ring = formed.unwrap();
        let patience = Duration::from_secs(60);
        let tag = Tag::new(1, 0);
        let formed = Nccl::form(&mut ring, tag, Some(0), patience).unwrap();
        assert!(formed.is_none());
        let mut values = [1.0; 1000];
        ring.all_reduce_f32(tag, &mut values).unwrap();
        values
    });
    assert_eq!(sums, [[2.0; 1000]; 2]);
}

#[test]
fn a_rank_without_a_device_leaves_all_without() {
    let without = on_ring(3, &Options::default(), |formed, _| {
        let mut ring = formed.unwrap();
        let device = (ring.rank() != 1).then_some(0);
        let patience = Duration::from_secs(60);
        let formed = Nccl::form(&mut ring, Tag::default(), device, patience).unwrap();
        formed.is_none()
    });
    assert_eq!(without, [true; 3]);
}
