//! Synthetic events only: fake workers answer directives, the harness plays network, store and
//! clock.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod adopting;
mod damaged;
mod ending;
mod going_back;
mod harness;
mod ledger;
mod membership;
mod random;
mod recovery;
mod scaling;
mod seen;
mod stuck;
