//! Ranks far from each other: every byte of every link takes its time.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::time::Duration;

use common::{LATE, addresses, listen, on_addresses, options};
use proxy::Proxy;
use ringmaster_ring::{Tag, Transport};

#[test]
fn links_that_take_their_time_break_no_ring_and_change_no_sum() {
    const WORLD: usize = 3;
    let delay = Duration::from_millis(60);
    let listeners: Vec<_> = (0..WORLD).map(|_| listen()).collect();
    let behind = addresses(&listeners);
    let links: Vec<_> = behind.iter().map(|to| Proxy::far(*to, delay)).collect();
    let addrs: Vec<_> = links.iter().map(Proxy::address).collect();
    let all = vec![options(Transport::Tcp, LATE); WORLD];
    let value = |rank: usize, index: usize| ((rank + 1) * (index % 97 + 1)) as f32;
    on_addresses(&listeners, &addrs, 1, all, |ring, _| {
        let mut ring = ring.unwrap();
        for (step, size) in (0..).zip([1, 1000, 300_001, 7]) {
            let rank = ring.rank();
            let mut values: Vec<_> = (0..size).map(|index| value(rank, index)).collect();
            ring.all_reduce_f32(Tag::new(step, 0), &mut values).unwrap();
            for (index, found) in values.iter().enumerate() {
                let sum: f32 = (0..WORLD).map(|rank| value(rank, index)).sum();
                assert_eq!(*found, sum, "element {index} of {size}");
            }
        }
    });
}
