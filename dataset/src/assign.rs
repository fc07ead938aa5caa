//! Which rank owns which lanes. Pure: any process computes the same answer.

use std::ops::Range;

use ringmaster_proto::{Rank, WorldSize};

/// The contiguous lanes of `rank` in a world of `world` ranks; sizes differ by at most one, and the
/// ranges of all ranks cover `0..lanes` exactly once. Empty for a rank outside the world.
pub fn lanes_of_rank(lanes: u32, rank: Rank, world: WorldSize) -> Range<u32> {
    if rank.0 >= world.0 {
        return lanes..lanes;
    }
    let start = |r: u32| u64::from(r) * u64::from(lanes) / u64::from(world.0);
    // Both are at most `lanes`, so the narrowing is exact.
    start(rank.0) as u32..start(rank.0 + 1) as u32
}

/// The lanes that `rank` does not own and would own if any one other rank were gone, ascending: ranks
/// close up, so those are its neighbours'.
pub fn standby_lanes(lanes: u32, rank: Rank, world: WorldSize) -> Vec<u32> {
    let own = lanes_of_rank(lanes, rank, world);
    let fewer = WorldSize(world.0.saturating_sub(1));
    let before = rank.0.checked_sub(1).map(Rank);
    let after = (rank.0 + 1 < world.0).then_some(rank);
    let would = |as_rank| lanes_of_rank(lanes, as_rank, fewer);
    let mut others: Vec<u32> = before.into_iter().chain(after).flat_map(would).collect();
    others.retain(|lane| !own.contains(lane));
    others.sort_unstable();
    others.dedup();
    others
}

/// Share of the ranks' time that lanes keep busy: a step lasts as long as the rank with the most
/// lanes, so this is `lanes / (world * max lanes of a rank)`, 0 to 1.
pub fn efficiency(lanes: u32, world: WorldSize) -> f64 {
    if world.0 == 0 || lanes == 0 {
        return 0.0;
    }
    let most = lanes.div_ceil(world.0);
    f64::from(lanes) / (f64::from(world.0) * f64::from(most))
}
