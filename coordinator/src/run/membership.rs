//! Who is in the next generation, and with which rank.

use ringmaster_proto::{Generation, WorkerId};

use super::lease::Lease;
use super::stuck::{Doing, Usual};
use super::{Millis, Session};
use crate::record::Held;
use ringmaster_proto::v1;

/// What the machine knows of one worker.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) host: String,
    pub(super) pid: u32,
    /// Of its process, which a later one of its name does not share.
    pub(super) incarnation: u64,
    /// Its stream, if it has one.
    pub(super) session: Option<Session>,
    pub(super) lease: Lease,
    /// It has not attended this coordinator, which knows of it from the journal.
    pub(super) awaited: bool,
    /// Order of first attendance.
    pub(super) joined: u64,
    /// Where its ring listens; absent while it prepares.
    pub(super) ring_address: Option<String>,
    pub(super) fingerprint: String,
    /// It has formed in the generation it is bound to.
    pub(super) formed: bool,
    /// Whether what it holds is the run's state, as far as anybody can tell.
    pub(super) trusted: bool,
    /// The state it holds, as last reported.
    pub(super) held: Option<Held>,
    /// The generation it may still act in; see the module doc of `run`.
    pub(super) bound: Option<Generation>,
    /// Why it is leaving.
    pub(super) draining: Option<String>,
    /// Steps applied, as last reported.
    pub(super) step: u64,
    /// When it was last told something that it has to do.
    pub(super) asked: Millis,
    /// What it was at when it last said so.
    pub(super) doing: Option<Doing>,
    /// How long its part of a step takes.
    pub(super) usual: Usual,
    /// Size of a training state, as it says.
    pub(super) state_bytes: u64,
    /// Said last in this generation; repeated when it attends again.
    pub(super) last: Option<v1::Directive>,
}

impl Worker {
    pub(super) fn new(joined: u64, now: Millis) -> Self {
        Self {
            host: String::new(),
            pid: 0,
            incarnation: 0,
            session: None,
            lease: Lease::new(now),
            awaited: false,
            joined,
            ring_address: None,
            fingerprint: String::new(),
            formed: false,
            trusted: true,
            held: None,
            bound: None,
            draining: None,
            step: 0,
            asked: now,
            doing: None,
            usual: Usual::default(),
            state_bytes: 0,
            last: None,
        }
    }

    /// It says what it holds. Memory counts unless the worker was in a generation that diverged, or
    /// holds another state of the same step than before, without having formed since.
    pub(super) fn says_it_holds(&mut self, held: Option<Held>) {
        let changed = |was: &Held, is: &Held| was.step == is.step && was.digest != is.digest;
        let spoiled = match (&self.held, &held) {
            (Some(was), Some(is)) => !self.formed && changed(was, is),
            _ => false,
        };
        self.trusted &= !spoiled;
        self.held = held.filter(|_| self.trusted);
    }

    /// Whether it can be given a rank.
    pub(super) fn rankable(&self) -> bool {
        self.session.is_some() && self.ring_address.is_some() && self.bound.is_none()
    }
}

/// A worker that can be given a rank.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) worker: WorkerId,
    pub(super) host: String,
    /// Its rank in the last generation.
    pub(super) was: Option<usize>,
    pub(super) holds: bool,
    pub(super) joined: u64,
}

/// Ranks, in order.
///
/// Those who had a rank come first, in that order, then holders of a state, then the others as they
/// joined; whoever is beyond `max` is a spare. Ranks of one host are adjacent, so that most links
/// of the ring stay inside a host.
pub(super) fn assign(mut candidates: Vec<Candidate>, max: usize) -> Vec<WorkerId> {
    candidates.sort_by_key(|c| (c.was.unwrap_or(usize::MAX), !c.holds, c.joined));
    candidates.truncate(max);
    let hosts: Vec<String> = candidates.iter().map(|c| c.host.clone()).collect();
    let first = |host: &String| hosts.iter().position(|h| h == host);
    candidates.sort_by_key(|c| first(&c.host));
    candidates.into_iter().map(|c| c.worker).collect()
}

/// Whether there are enough workers to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Quorum {
    /// Not yet, and why.
    Wait(String),
    /// Yes, and why.
    Go(String),
}

/// Decides whether to begin with `ready` workers. `window_ends` is the end of the join window where
/// one applies: the first generation waits that long for more than the least.
pub(super) fn quorum(
    ready: usize,
    (min, max): (usize, usize),
    window_ends: Option<Millis>,
    now: Millis,
) -> Quorum {
    if ready < min {
        return Quorum::Wait(format!("{ready} of at least {min} workers are ready"));
    }
    match window_ends {
        Some(ends) if ready < max && now < ends => {
            let left = (ends.0 - now.0).div_ceil(1_000);
            Quorum::Wait(format!(
                "{ready} workers are ready; {left} s left for more to join"
            ))
        }
        _ => Quorum::Go(format!("{ready} workers are ready")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn candidate(name: &str, host: &str, was: Option<usize>, joined: u64) -> Candidate {
        Candidate {
            worker: WorkerId::new(name).unwrap(),
            host: host.to_owned(),
            was,
            holds: was.is_some(),
            joined,
        }
    }

    fn names(ranks: &[WorkerId]) -> Vec<&str> {
        ranks.iter().map(WorkerId::as_str).collect()
    }

    #[test]
    fn survivors_keep_their_order_and_joiners_come_last() {
        let ranks = assign(
            vec![
                candidate("d", "x", None, 1),
                candidate("c", "x", Some(2), 2),
                candidate("a", "x", Some(0), 3),
            ],
            8,
        );
        assert_eq!(names(&ranks), ["a", "c", "d"]);
    }

    #[test]
    fn ranks_of_one_host_are_adjacent() {
        let hosts = ["x", "y", "x", "z", "y"];
        let all = ["a", "b", "c", "d", "e"].iter().zip(hosts).enumerate();
        let ranks = assign(
            all.map(|(i, (n, h))| candidate(n, h, None, i as u64))
                .collect(),
            5,
        );
        assert_eq!(names(&ranks), ["a", "c", "b", "e", "d"]);
    }

    #[test]
    fn workers_beyond_the_largest_world_are_spares() {
        let all = ["a", "b", "c"].iter().enumerate();
        let ranks = assign(
            all.map(|(i, n)| candidate(n, "x", None, i as u64))
                .collect(),
            2,
        );
        assert_eq!(names(&ranks), ["a", "b"]);
    }

    #[test]
    fn too_few_workers_wait_whatever_the_time() {
        let late = Millis(1_000_000);
        assert!(matches!(quorum(1, (2, 4), None, late), Quorum::Wait(_)));
        assert!(matches!(quorum(2, (2, 4), None, Millis(0)), Quorum::Go(_)));
    }

    #[test]
    fn the_join_window_ends_early_when_everybody_is_there() {
        let window = Some(Millis(5_000));
        assert!(matches!(
            quorum(2, (2, 4), window, Millis(4_999)),
            Quorum::Wait(_)
        ));
        assert!(matches!(
            quorum(2, (2, 4), window, Millis(5_000)),
            Quorum::Go(_)
        ));
        assert!(matches!(
            quorum(4, (2, 4), window, Millis(0)),
            Quorum::Go(_)
        ));
    }
}
