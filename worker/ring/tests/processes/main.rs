//! What happens when ranks are real processes that are killed, stopped and continued.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod crew;
mod rank;

use std::time::{Duration, Instant};

use common::{LATE, MARGIN, TRANSPORTS};
use crew::{Crew, End};
use nix::sys::signal::Signal;
use rank::Work;

/// A sum that takes long enough to be interrupted: 16 MB on the wire per rank and direction.
const LARGE_SUM: Work = Work::Sum(2_000_000);

/// More than the buffers between two ranks hold.
const LARGE_COPY: Work = Work::Broadcast(64_000_000);

/// A silence that a rank on a busy machine keeps, and a test can wait for.
const SILENCE: Duration = Duration::from_secs(2);

/// Not a property: what the processes of the other tests run.
#[test]
fn one_rank() {
    if let Ok(address) = std::env::var(rank::CONTROL) {
        rank::run(&address);
    }
}

/// What every rank but `victim` says when it ends.
fn ends_without(crew: &mut Crew, victim: usize) -> Vec<(usize, End)> {
    let survivors = (0..crew.world()).filter(|rank| *rank != victim);
    survivors.map(|rank| (rank, crew.end(rank))).collect()
}

#[test]
fn a_process_killed_in_the_middle_of_a_sum_is_the_one_that_all_survivors_accuse() {
    let cases = [(2, 1), (3, 0), (5, 0), (5, 2), (5, 4)].map(|case| (case, LARGE_SUM));
    let copies = [(3, 0), (5, 0), (5, 1)].map(|case| (case, LARGE_COPY));
    for ((world, victim), work) in cases.into_iter().chain(copies) {
        for transport in TRANSPORTS {
            // A silence that plays no part: only the kernel tells of this death.
            let mut crew = Crew::form(world, transport, 3 * LATE, work);
            crew.until_done(2);
            let killed = Instant::now();
            crew.signal(victim, Signal::SIGKILL);
            for (rank, end) in ends_without(&mut crew, victim) {
                let what =
                    format!("{world} ranks, {work:?}, victim {victim}, rank {rank}: {end:?}");
                assert_eq!(end.accused, Some(victim), "{what}");
                assert_eq!(end.kind, "lost", "{what}");
                assert!(end.at - killed < MARGIN, "{what}");
            }
        }
    }
}

#[test]
fn an_idle_ring_notices_a_killed_process() {
    for (world, victim) in [(2, 0), (5, 3)] {
        for transport in TRANSPORTS {
            let mut crew = Crew::form(world, transport, 3 * LATE, Work::Idle);
            crew.until_done(1);
            let killed = Instant::now();
            crew.signal(victim, Signal::SIGKILL);
            for (rank, end) in ends_without(&mut crew, victim) {
                let what = format!("world {world}, victim {victim}, rank {rank}: {end:?}");
                assert_eq!(end.accused, Some(victim), "{what}");
                assert!(end.at - killed < MARGIN, "{what}");
            }
        }
    }
}

/// Stops a rank until everybody else has ended, checks what they say, and returns what the rank
/// says itself when it goes on.
fn stop_until_accused(crew: &mut Crew, victim: usize) -> End {
    let stopped = Instant::now();
    crew.stop(victim);
    let ends = ends_without(crew, victim);
    for (rank, end) in &ends {
        assert_eq!(end.accused, Some(victim), "rank {rank}: {end:?}");
        let patient = end.at - stopped;
        assert!(patient < SILENCE + MARGIN, "rank {rank}: {end:?}");
    }
    // Only a neighbour can hear that nothing comes; it tells the others.
    let silent = ends.iter().filter(|(_, end)| end.kind == "silent");
    let silent: Vec<usize> = silent.map(|(rank, _)| *rank).collect();
    let all_near = silent.iter().all(|rank| crew.are_neighbours(*rank, victim));
    assert!(!silent.is_empty() && all_near, "victim {victim}: {ends:?}");
    crew.signal(victim, Signal::SIGCONT);
    crew.end(victim)
}

#[test]
fn a_stopped_process_is_silent_and_accuses_nobody_else_when_it_goes_on() {
    for (world, victim) in [(2, 0), (3, 1), (5, 2)] {
        for work in [LARGE_SUM, Work::Sum(100), LARGE_COPY, Work::Idle] {
            for transport in TRANSPORTS {
                let mut crew = Crew::form(world, transport, SILENCE, work);
                crew.until_done(1);
                let end = stop_until_accused(&mut crew, victim);
                // What it finds is what the others said of it while it could not listen.
                let others = end.accused.filter(|rank| *rank != victim);
                let what = format!("world {world}, {work:?}, victim {victim}: {end:?}");
                assert_eq!(others, None, "{what}");
                assert_ne!(end.kind, "silent", "{what}");
            }
        }
    }
}

#[test]
fn a_sum_goes_on_after_a_stop_shorter_than_the_silence() {
    for world in [2, 3] {
        for transport in TRANSPORTS {
            let mut crew = Crew::form(world, transport, LATE, LARGE_SUM);
            for round in 1..=3 * world {
                crew.until_done(crew.most_done() + 1);
                crew.stop(round % world);
                // Not a wait for anything: this is how long the stop lasts, three heartbeats.
                std::thread::sleep(Duration::from_millis(750));
                crew.signal(round % world, Signal::SIGCONT);
            }
            // Every rank checks every sum before it reports it.
            crew.until_done(crew.most_done() + 2);
        }
    }
}
