//! Loops compiled once per SIMD level, chosen when the program runs.
//!
//! Every loop does the same operations on every level, one element at a time and none fused, so the
//! level changes the speed and no bit.

/// Runs `body` with the widest vectors that this machine has; what it calls must be inlined.
#[inline(always)]
pub(crate) fn vectorised<T>(body: impl FnOnce() -> T) -> T {
    pulp::Arch::new().dispatch(body)
}
