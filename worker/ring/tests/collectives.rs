//! What the collectives compute, against sums made by one thread.

#![allow(clippy::unwrap_used)]

mod common;

use common::{LATE, addresses, listen, on_addresses, on_ring, options};
use proptest::prelude::*;
use ringmaster_ring::bench::{Case, Reduction, bus_bandwidth, run_case, slowest};
use ringmaster_ring::{Abort, Options, Ring, RingError, Tag, Transport, fixed};

const SIZES: [usize; 8] = [0, 1, 2, 4, 7, 33, 3001, 70_001];
const LANES: u32 = 5;

/// A gradient of one rank: ordinary, tiny, huge, at the limit, and not numbers at all.
fn gradient(rank: usize, index: usize) -> f32 {
    let hash = blake3::hash(&[rank as u64, index as u64].map(u64::to_le_bytes).concat());
    let bits = u32::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]));
    match bits % 16 {
        0 => f32::from_bits(bits >> 4 ^ bits),
        1 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][index % 3],
        2 => 1_677_721.6 * [1.0, -1.0][index % 2],
        _ => (bits >> 8) as f32 / 16_777_216.0 - 0.5,
    }
}

fn gradients(rank: usize, size: usize) -> Vec<f32> {
    (0..size).map(|index| gradient(rank, index)).collect()
}

/// What `body` returns on each rank of three rings: over shared memory, over TCP, and one whose first
/// rank has TCP on both sides while the others share memory.
fn everywhere<T: Send>(
    world: usize,
    body: impl Fn(Result<Ring, RingError>, Abort) -> T + Sync,
) -> Vec<T> {
    let (near, far) = (
        options(Transport::Best, LATE),
        options(Transport::Tcp, LATE),
    );
    let all = |options: &Options| vec![options.clone(); world];
    let mut mixed = all(&near);
    mixed[0] = far.clone();
    [all(&near), all(&far), mixed]
        .into_iter()
        .flat_map(|options| {
            let listeners: Vec<_> = (0..world).map(|_| listen()).collect();
            on_addresses(&listeners, &addresses(&listeners), 1, options, &body)
        })
        .collect()
}

fn ring(formed: Result<Ring, RingError>) -> Ring {
    formed.unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn exact_sum_equals_one_threads_sum_at_every_world_size() {
    for world in 1..=8 {
        let results = everywhere(world, |formed, _| {
            let mut ring = ring(formed);
            SIZES.map(|size| {
                let (mut q, mut out) = (vec![0; size], vec![f32::NAN; size]);
                let grads = gradients(ring.rank(), size);
                let mut bad = [fixed::accumulate(&grads, &mut q, LANES) as i64];
                let tag = Tag::new(3, size as u32);
                ring.all_reduce_exact(tag, &mut q, &mut out, 11.0).unwrap();
                ring.all_reduce_i64(tag, &mut bad).unwrap();
                (bits(&out), bad[0])
            })
        });
        for (at, size) in SIZES.into_iter().enumerate() {
            let mut total = vec![0_i64; size];
            let mut bad = 0;
            for rank in 0..world {
                bad += fixed::accumulate(&gradients(rank, size), &mut total, LANES) as i64;
            }
            let expected: Vec<f32> = total
                .iter()
                .map(|q| (*q as f64 * 2_f64.powi(-40) / 11.0) as f32)
                .collect();
            for result in &results {
                assert_eq!(
                    result[at],
                    (bits(&expected), bad),
                    "world {world}, size {size}"
                );
            }
        }
    }
}

#[test]
fn integer_sum_wraps_like_one_threads_sum() {
    for world in 1..=8 {
        let value = |rank: usize, index: usize| i64::MAX / 2 + (rank * 1000 + index) as i64;
        let results = everywhere(world, |formed, _| {
            let mut ring = ring(formed);
            SIZES.map(|size| {
                let mut values: Vec<_> = (0..size).map(|i| value(ring.rank(), i)).collect();
                ring.all_reduce_i64(Tag::new(0, 0), &mut values).unwrap();
                values
            })
        });
        for result in results {
            for (size, values) in SIZES.into_iter().zip(result) {
                let sum = |i| (0..world).fold(0_i64, |sum, rank| sum.wrapping_add(value(rank, i)));
                assert_eq!(values, (0..size).map(sum).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn all_ranks_hold_the_same_bits_and_close_to_the_true_sum() {
    let value = |rank: usize, index: usize| ((rank * 7919 + index * 31) % 1000) as f32 / 77.0 - 6.0;
    for (world, bf16) in (1..=8).flat_map(|world| [(world, false), (world, true)]) {
        let results = everywhere(world, |formed, _| {
            let mut ring = ring(formed);
            SIZES.map(|size| {
                let mut values: Vec<_> = (0..size).map(|i| value(ring.rank(), i)).collect();
                let tag = Tag::new(9, 1);
                match bf16 {
                    false => ring.all_reduce_f32(tag, &mut values).unwrap(),
                    true => ring.all_reduce_bf16(tag, &mut values).unwrap(),
                }
                values
            })
        });
        for at in 0..SIZES.len() {
            for result in &results {
                assert_eq!(bits(&result[at]), bits(&results[0][at]), "world {world}");
            }
            for (index, found) in results[0][at].iter().enumerate() {
                let parts = (0..world).map(|rank| f64::from(value(rank, index)));
                let (sum, magnitude) = parts.fold((0.0, 0.0), |(s, m), v| (s + v, m + v.abs()));
                // Each of at most W additions and W roundings errs by half a unit.
                let unit = if bf16 {
                    2_f64.powi(-8)
                } else {
                    2_f64.powi(-23)
                };
                let error = (f64::from(*found) - sum).abs();
                assert!(
                    error <= magnitude * unit * world as f64,
                    "world {world}, bf16 {bf16}"
                );
            }
        }
    }
}

#[test]
fn broadcast_gives_everybody_the_roots_bytes() {
    const SIZES: [usize; 4] = [0, 1, 1000, 900_001];
    for world in 1..=4 {
        let byte = |root: usize, index: usize| (root * 37 + index * 11) as u8;
        let equal = everywhere(world, |formed, _| {
            let mut ring = ring(formed);
            (0..world)
                .flat_map(|root| SIZES.map(|size| (root, size)))
                .all(|(root, size)| {
                    let mut bytes: Vec<u8> = match ring.rank() == root {
                        true => (0..size).map(|i| byte(root, i)).collect(),
                        false => vec![0xee; size],
                    };
                    ring.broadcast(Tag::new(1, root as u32), root, &mut bytes)
                        .unwrap();
                    bytes.iter().enumerate().all(|(i, b)| *b == byte(root, i))
                })
        });
        assert!(equal.iter().all(|equal| *equal), "world {world}");
    }
}

/// Whoever is not among the sources gets what they have, wherever it is in the ring.
#[test]
fn several_sources_serve_all_the_others() {
    const SIZES: [usize; 4] = [0, 1, 1000, 900_001];
    let byte = |index: usize| (index * 11) as u8;
    for world in 1..=4 {
        for chosen in 1..1u32 << world {
            let is_source = |rank: usize| chosen >> rank & 1 == 1;
            let sources: Vec<usize> = (0..world).filter(|rank| is_source(*rank)).collect();
            let equal = everywhere(world, |formed, _| {
                let mut ring = ring(formed);
                (0..).zip(SIZES).all(|(number, size)| {
                    let mut bytes: Vec<u8> = match is_source(ring.rank()) {
                        true => (0..size).map(byte).collect(),
                        false => vec![0xee; size],
                    };
                    ring.spread(Tag::new(1, number), &sources, &mut bytes)
                        .unwrap();
                    bytes.iter().enumerate().all(|(i, b)| *b == byte(i))
                })
            });
            assert!(
                equal.iter().all(|equal| *equal),
                "sources {sources:?} of {world}"
            );
        }
    }
}

#[test]
fn all_gather_returns_every_ranks_bits_in_order() {
    let value = |rank: usize| [f64::NAN, -0.0, f64::MIN_POSITIVE / 8.0, 1e300][rank];
    for world in 1..=4 {
        let gathered = everywhere(world, |formed, _| {
            let mut ring = ring(formed);
            let value = value(ring.rank());
            ring.all_gather_f64(Tag::default(), value).unwrap()
        });
        let expected: Vec<_> = (0..world).map(|rank| value(rank).to_bits()).collect();
        for gathered in gathered {
            assert_eq!(
                gathered.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                expected
            );
        }
    }
}

#[test]
fn each_link_takes_the_best_transport_that_both_its_ends_allow() {
    let named = everywhere(3, |formed, _| ring(formed).transport());
    let (shm, tcp) = ("shm", "tcp");
    assert_eq!(named, [shm, shm, shm, tcp, tcp, tcp, tcp, shm, tcp]);
}

#[test]
fn nobody_passes_a_barrier_before_everybody_reached_it() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (world, arrived) = (4, AtomicUsize::new(0));
    on_ring(world, &Options::default(), |formed, _| {
        let mut ring = ring(formed);
        for round in 1..=80 {
            arrived.fetch_add(1, Ordering::SeqCst);
            ring.barrier(Tag::new(round as u64, 0)).unwrap();
            assert!(arrived.load(Ordering::SeqCst) >= round * world);
        }
    });
}

#[test]
fn ranks_in_different_steps_are_an_error_and_not_a_sum() {
    let errors = on_ring(2, &Options::default(), |formed, _| {
        let mut ring = ring(formed);
        let step = ring.rank() as u64;
        ring.all_reduce_f32(Tag::new(step, 0), &mut [1.0; 100])
            .unwrap_err()
    });
    assert!(
        errors
            .iter()
            .any(|e| matches!(e, RingError::Protocol { .. })),
        "{errors:?}"
    );
}

#[test]
fn benchmark_reports_the_slowest_rank_on_all_ranks() {
    let times = on_ring(3, &Options::default(), |formed, _| {
        let mut ring = ring(formed);
        let mut all = Vec::new();
        for reduction in [Reduction::Exact, Reduction::F32, Reduction::Bf16] {
            let case = Case {
                mib: 0.1,
                reduction,
                repeats: 3,
            };
            let own = run_case(&mut ring, case).unwrap();
            let slowest = slowest(&mut ring, &own).unwrap();
            assert!(
                own.iter()
                    .zip(&slowest)
                    .all(|(own, slowest)| own <= slowest)
            );
            assert_eq!(slowest.len(), case.repeats);
            all.extend(slowest);
        }
        assert!(ring.bytes_sent() > 0 && ring.bytes_received() > 0);
        all
    });
    assert!(times.iter().all(|each| *each == times[0]));
    assert_eq!(bus_bandwidth(100, 4, 2.0), 75.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn any_order_of_collectives_works_at_any_world_size(
        world in 1_usize..=4,
        calls in prop::collection::vec((0_u8..4, 0_usize..200_000), 1..6),
    ) {
        everywhere(world, |formed, _| {
            let mut ring = ring(formed);
            for (step, (call, size)) in calls.iter().enumerate() {
                let tag = Tag::new(step as u64, 0);
                match call {
                    0 => {
                        let mut values = vec![1.0; *size];
                        ring.all_reduce_f32(tag, &mut values).unwrap();
                        assert!(values.iter().all(|value| *value == world as f32));
                    }
                    1 => {
                        let (mut q, mut out) = (vec![1 << 40; *size], vec![0.0; *size]);
                        ring.all_reduce_exact(tag, &mut q, &mut out, 2.0).unwrap();
                        assert!(out.iter().all(|value| *value == world as f32 / 2.0));
                    }
                    2 => {
                        let mut bytes = vec![ring.rank() as u8; *size];
                        ring.broadcast(tag, size % world, &mut bytes).unwrap();
                        assert!(bytes.iter().all(|byte| usize::from(*byte) == size % world));
                    }
                    _ => ring.barrier(tag).unwrap(),
                }
            }
        });
    }
}
