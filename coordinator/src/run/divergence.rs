//! Ranks that should hold the same state and do not: something is broken that no error told of.
//!
//! A corrupted state spoils the sums of every step after it, so the majority is no better than the
//! rest: nobody's memory of such a generation is trusted, and the run goes back to a checkpoint. One
//! exists only of states that all ranks agreed on. The journal remembers, so that the next
//! coordinator does not trust it either. Who is outvoted is named and removed; of two ranks nobody is.

use std::collections::BTreeMap;

use ringmaster_proto::{Step, WorkerId};

use super::machine::RunMachine;
use super::{Level, Millis};
use crate::record::{Held, Record};

/// How many steps with digests are remembered; ranks are never further apart than one.
const STEPS_MAX: usize = 8;

/// What the members of one generation said they hold.
#[derive(Debug, Default)]
pub(super) struct Digests(BTreeMap<Step, BTreeMap<WorkerId, String>>);

impl Digests {
    /// Takes one member's word. Whether it contradicts another's, or its own, of that step.
    pub(super) fn take(&mut self, worker: &WorkerId, held: &Held) -> bool {
        let said = self.0.entry(held.step).or_default();
        let differ = said.values().any(|digest| *digest != held.digest);
        said.insert(worker.clone(), held.digest.clone());
        while self.0.len() > STEPS_MAX {
            self.0.pop_first();
        }
        differ
    }

    /// The first step at which members differ, and those that most others contradict.
    fn outvoted(&self) -> Option<(Step, Vec<WorkerId>)> {
        let differ = |said: &&BTreeMap<WorkerId, String>| {
            let mut digests = said.values();
            let first = digests.next();
            digests.any(|digest| Some(digest) != first)
        };
        let (step, said) = self.0.iter().find(|(_, said)| differ(said))?;
        let holders = |digest: &String| said.values().filter(|other| *other == digest).count();
        let lonely = |digest: &String| 2 * holders(digest) < said.len();
        let accepted = said.values().any(|digest| 2 * holders(digest) > said.len());
        let outvoted = said.iter().filter(|(_, digest)| accepted && lonely(digest));
        Some((*step, outvoted.map(|(worker, _)| worker.clone()).collect()))
    }
}

impl RunMachine {
    /// A member of the present generation says what it holds. Whether that contradicts another.
    pub(super) fn on_digest(&mut self, now: Millis, id: &WorkerId, held: &Held) -> bool {
        let differ = self.digests.take(id, held);
        if differ {
            let name = self.named(id);
            let what = format!(
                "{name} holds another state than others at step {}",
                held.step
            );
            self.diverged(now, what);
        }
        differ
    }

    /// Nothing that any member of this generation holds is trusted any more.
    pub(super) fn diverged(&mut self, now: Millis, what: String) {
        let generation = self.generation;
        if !self.distrusted.insert(generation) {
            return;
        }
        self.log(Level::Error, format!("{what}: going back to a checkpoint"));
        self.note(Record::Diverged { generation });
        self.forget = true;
        for id in self.members.clone() {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.trusted = false;
                worker.held = None;
            }
        }
        if self.phase.running() {
            self.fence(now, what, "divergence");
        }
    }

    /// Every member has answered: those that most others contradict are named and removed.
    pub(super) fn judge(&mut self) {
        if !self.distrusted.contains(&self.generation) {
            return;
        }
        let Some((step, outvoted)) = self.digests.outvoted() else {
            return;
        };
        for id in outvoted {
            let name = self.named(&id);
            let text = format!("{name} held another state at step {step} than most ranks");
            self.log(Level::Error, text.clone());
            if self.workers.contains_key(&id) {
                self.remove(&id, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn outvoted(digests: &[&str]) -> Option<Vec<String>> {
        let mut all = Digests::default();
        for (number, digest) in digests.iter().enumerate() {
            let held = Held {
                step: Step(7),
                digest: (*digest).to_owned(),
            };
            all.take(&WorkerId::new(&format!("w{number}")).unwrap(), &held);
        }
        let named = |workers: Vec<WorkerId>| workers.iter().map(ToString::to_string).collect();
        all.outvoted().map(|(_, workers)| named(workers))
    }

    #[test]
    fn only_who_contradicts_a_majority_is_named() {
        assert_eq!(outvoted(&["a", "a", "a"]), None);
        assert_eq!(outvoted(&["a", "b", "a"]), Some(vec!["w1".to_owned()]));
        assert_eq!(outvoted(&["a", "b"]), Some(vec![]));
        assert_eq!(outvoted(&["a", "b", "c"]), Some(vec![]));
        assert_eq!(outvoted(&["a", "b", "a", "b"]), Some(vec![]));
    }
}
