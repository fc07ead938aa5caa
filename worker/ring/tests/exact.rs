//! The exact sum of any gradients, over any number of ranks, against one thread's sum of the lanes.

#![allow(clippy::unwrap_used)]

mod common;

use common::{LATE, TRANSPORTS, on_ring, options};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use ringmaster_ring::{Tag, Transport, fixed};

/// What the limit of a gradient is taken for.
const LANES: u32 = 8;

/// The largest gradient whose fixed point is not above the limit.
fn limit() -> f32 {
    let limit = fixed::limit(LANES) * 2_f64.powi(-40);
    let rounded = limit as f32;
    match f64::from(rounded) > limit {
        true => rounded.next_down(),
        false => rounded,
    }
}

/// Any bits at all, and often those at an edge of what a sum can hold.
fn gradients() -> impl Strategy<Value = f32> {
    let (limit, unit) = (limit(), 2_f32.powi(-40));
    let edges = [
        limit,
        limit.next_up(),
        limit.next_down(),
        unit,
        // Halves of a unit, which round to even.
        unit * 0.5,
        unit * 1.5,
        unit * 2.5,
        0.0,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];
    let edges =
        (select(edges.to_vec()), select(vec![1.0, -1.0])).prop_map(|(edge, sign)| edge * sign);
    prop_oneof![any::<u32>().prop_map(f32::from_bits), edges, -1.0_f32..1.0]
}

/// What one rank ends with: the bits of all totals, and how many gradients were bad.
type Sum = (Vec<u32>, i64);

/// Each rank's end of the sum of `lanes`, lane `l` being rank `l % world`'s.
fn on_ranks(world: usize, lanes: &[Vec<f32>], divisor: f64, transport: Transport) -> Vec<Sum> {
    on_ring(world, &options(transport, LATE), |formed, _| {
        let mut ring = formed.unwrap();
        let (mut q, mut bad) = (vec![0; lanes[0].len()], [0]);
        for lane in lanes.iter().skip(ring.rank()).step_by(world) {
            bad[0] += fixed::accumulate(lane, &mut q, LANES) as i64;
        }
        let mut out = vec![f32::NAN; q.len()];
        ring.all_reduce_exact(Tag::new(1, 0), &mut q, &mut out, divisor)
            .unwrap();
        ring.all_reduce_i64(Tag::new(1, 1), &mut bad).unwrap();
        (out.iter().map(|value| value.to_bits()).collect(), bad[0])
    })
}

/// The same by one thread, with its own way back from fixed point.
fn by_one_thread(lanes: &[Vec<f32>], divisor: f64) -> Sum {
    let (mut q, mut bad) = (vec![0_i64; lanes[0].len()], 0);
    for lane in lanes {
        bad += fixed::accumulate(lane, &mut q, LANES) as i64;
    }
    let total = |q: &i64| (*q as f64 * 2_f64.powi(-40) / divisor) as f32;
    (q.iter().map(|q| total(q).to_bits()).collect(), bad)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_world_has_the_bits_and_the_bad_count_of_one_thread(
        lanes in prop_oneof![
            // Shorter than a world, exchanged whole, and in segments.
            0_usize..10,
            Just(0),
            10_usize..300,
            2_000_usize..9_000,
        ].prop_flat_map(|size| vec(vec(gradients(), size), LANES as usize)),
        divisor in select(vec![1.0, 3.0, 8.0, 1e-3, 12_345.0]),
    ) {
        let expected = by_one_thread(&lanes, divisor);
        for transport in TRANSPORTS {
            for world in 1..=LANES as usize {
                for (rank, sum) in on_ranks(world, &lanes, divisor, transport).iter().enumerate() {
                    prop_assert_eq!(sum, &expected, "rank {} of {}", rank, world);
                }
            }
        }
    }
}

#[test]
fn eight_lanes_at_the_limit_do_not_overflow_and_one_step_beyond_is_bad() {
    let limit = limit();
    let lanes = vec![vec![limit, -limit, limit.next_up(), f32::NAN]; LANES as usize];
    let (totals, bad) = by_one_thread(&lanes, 1.0);
    let expected = [8.0 * limit, -8.0 * limit, 0.0, 0.0].map(f32::to_bits);
    assert_eq!(totals, expected);
    assert_eq!(bad, 2 * i64::from(LANES));
    for transport in TRANSPORTS {
        for world in 1..=LANES as usize {
            let sums = on_ranks(world, &lanes, 1.0, transport);
            assert_eq!(sums, vec![(totals.clone(), bad); world]);
        }
    }
}
