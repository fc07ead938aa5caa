//! Checkpoints: which parts make a whole, which wholes are kept.

use std::collections::BTreeMap;

use ringmaster_proto::checkpoint::{CheckpointManifest, FORMAT_VERSION, Part};
use ringmaster_proto::spec::CheckpointSpec;
use ringmaster_proto::{Generation, Step, keys, v1};

use super::resume::survived;
use crate::record::{Committed, Held};

/// Sets of parts collected at once; a generation writes one at a time, so more are leftovers.
const COLLECTING_MAX: usize = 4;

impl Committed {
    /// Key of its manifest below the run's root.
    pub fn manifest_key(&self) -> String {
        keys::checkpoint_manifest(&self.folder)
    }
}

/// Where each generation resumed: tells which past survived.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage(Vec<(Generation, Step)>);

impl Lineage {
    /// From the journal's generation records, ascending.
    pub(super) fn new(generations: Vec<(Generation, Step)>) -> Self {
        Self(generations)
    }

    /// A generation was recorded.
    pub(super) fn push(&mut self, generation: Generation, resume: Step) {
        // Later generations resume at or after most earlier ones; those that cannot decide anything
        // any more are forgotten, so that a long life stays small.
        self.0.retain(|(_, earlier)| *earlier < resume);
        self.0.push((generation, resume));
    }

    /// The newest checkpoint on the surviving past.
    pub(super) fn newest<'a>(&self, checkpoints: &'a [Committed]) -> Option<&'a Committed> {
        let alive = checkpoints
            .iter()
            .filter(|c| survived(&self.0, c.generation, c.state.step));
        alive.max_by_key(|c| (c.state.step, c.generation))
    }

    /// Which checkpoints to delete: all but the newest on the surviving past, and those that are kept
    /// for ever. Never the last one, whatever its past.
    pub(super) fn expired(
        &self,
        checkpoints: &[Committed],
        spec: &CheckpointSpec,
    ) -> Vec<Committed> {
        let survived = |c: &Committed| survived(&self.0, c.generation, c.state.step);
        let mut ranked: Vec<&Committed> = checkpoints.iter().collect();
        ranked.sort_by_key(|c| (survived(c), c.state.step, c.generation));
        let alive = ranked.iter().filter(|c| survived(c)).count();
        let newest = (spec.keep as usize).min(alive).max(1).min(ranked.len());
        let for_ever = |c: &Committed| {
            spec.keep_every > 0 && c.state.step.0.is_multiple_of(spec.keep_every) && survived(c)
        };
        let older = ranked[..ranked.len() - newest].iter();
        older
            .filter(|c| !for_ever(c))
            .map(|c| (*c).clone())
            .collect()
    }
}

/// The newest of `checkpoints` on the past that survived the resume points in `lineage`.
pub(crate) fn newest_surviving(
    lineage: &[(Generation, Step)],
    checkpoints: &[Committed],
) -> Option<Committed> {
    Lineage::new(lineage.to_vec()).newest(checkpoints).cloned()
}

/// Whether a state is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Its manifest is in the store.
    Committed,
    /// Its manifest is on the way.
    Committing,
    /// Parts are missing.
    No,
}

/// The parts of this generation, and the checkpoints of the run.
pub(super) struct Checkpoints {
    collecting: BTreeMap<Held, BTreeMap<u32, Part>>,
    committing: Vec<Held>,
    committed: Vec<Committed>,
    damaged: Vec<Damaged>,
    looking: Looking,
}

/// Whether the store was asked what is there, because nothing that is known can be resumed: a coordinator
/// that was replaced may have completed a checkpoint after its successor had looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looking {
    /// Not since anything was found.
    NotYet,
    /// It has not answered.
    Asked,
    /// There is nothing else.
    InVain,
}

/// A checkpoint that is not what its manifest says, so that nothing resumes from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its folder below the run's root.
    pub folder: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Checkpoints {
    /// Starts from what is in the store.
    pub(super) fn new(committed: Vec<Committed>, damaged: Vec<Damaged>) -> Self {
        Self {
            collecting: BTreeMap::new(),
            committing: Vec::new(),
            committed,
            damaged,
            looking: Looking::NotYet,
        }
    }

    /// Whether it is time to ask the store, or to wait for its answer, or to give up.
    pub(super) fn look(&mut self) -> Looking {
        let asked = match self.looking {
            Looking::NotYet => Looking::Asked,
            known => known,
        };
        std::mem::replace(&mut self.looking, asked)
    }

    /// What is in the store; returns how many that may be resumed were not known.
    pub(super) fn found(&mut self, found: Vec<Committed>, damaged: Vec<Damaged>) -> usize {
        let known = self.committed.len();
        for one in found {
            let same = |folder: &str| folder == one.folder;
            if !self.committed.iter().any(|c| same(&c.folder))
                && !self.damaged.iter().any(|d| same(&d.folder))
            {
                self.committed.push(one);
            }
        }
        for one in damaged {
            if !self.damaged.iter().any(|d| d.folder == one.folder) {
                self.damaged.push(one);
            }
        }
        let new = self.committed.len() - known;
        self.looking = match new {
            0 => Looking::InVain,
            _ => Looking::NotYet,
        };
        new
    }

    /// Those that are known to be damaged.
    pub(super) fn damaged(&self) -> &[Damaged] {
        &self.damaged
    }

    /// A worker could not verify the checkpoint with this manifest key: it is no longer resumed.
    /// Returns it, unless that is known. It stays in the store, for people to look at.
    pub(super) fn distrust(&mut self, key: &str, reason: &str) -> Option<Committed> {
        let at = self
            .committed
            .iter()
            .position(|committed| committed.manifest_key() == key)?;
        let committed = self.committed.remove(at);
        self.damaged.push(Damaged {
            folder: committed.folder.clone(),
            reason: reason.to_owned(),
        });
        Some(committed)
    }

    /// Every checkpoint, oldest first.
    pub(super) fn committed(&self) -> &[Committed] {
        &self.committed
    }

    /// A part of `generation` was written by one of `world` ranks. Returns all parts of the state
    /// once the last is there. An error says why the report is refused.
    pub(super) fn collect(
        &mut self,
        generation: Generation,
        world: usize,
        written: &v1::PartWritten,
    ) -> Result<Option<Vec<Part>>, String> {
        let state = Held {
            step: Step(written.step),
            digest: written.digest.clone(),
        };
        let folder = keys::checkpoint(generation, state.step, &state.digest);
        if written.parts as usize != world || written.part >= written.parts {
            return Err(format!(
                "part {} of {} in a world of {world}",
                written.part, written.parts
            ));
        }
        let key = keys::checkpoint_part(&folder, written.part, written.parts);
        if written.key != key {
            return Err(format!("part key {} where {key} is expected", written.key));
        }
        if self.saved(&state) != Saved::No {
            return Ok(None);
        }
        let part = Part {
            key,
            bytes: written.bytes,
            blake3: written.blake3.clone(),
        };
        let parts = self.collecting.entry(state.clone()).or_default();
        parts.insert(written.part, part);
        if parts.len() < world {
            while self.collecting.len() > COLLECTING_MAX {
                self.collecting.pop_first();
            }
            return Ok(None);
        }
        let parts = self.collecting.remove(&state).unwrap_or_default();
        self.committing.push(state);
        Ok(Some(parts.into_values().collect()))
    }

    /// The generation is over: its incomplete sets never become checkpoints.
    pub(super) fn abandon(&mut self) {
        self.collecting.clear();
    }

    /// A manifest is in the store.
    pub(super) fn commit(&mut self, committed: Committed) {
        self.committing.retain(|state| *state != committed.state);
        self.committed.push(committed);
    }

    /// Forgets those that retention gives up, and returns them.
    pub(super) fn expire(&mut self, lineage: &Lineage, spec: &CheckpointSpec) -> Vec<Committed> {
        let expired = lineage.expired(&self.committed, spec);
        self.committed.retain(|kept| !expired.contains(kept));
        expired
    }

    /// Whether `state` is saved.
    pub(super) fn saved(&self, state: &Held) -> Saved {
        if self.committed.iter().any(|c| c.state == *state) {
            Saved::Committed
        } else if self.committing.contains(state) {
            Saved::Committing
        } else {
            Saved::No
        }
    }
}

/// The manifest and record of a complete set.
pub(super) fn manifest(
    run: &str,
    identity: String,
    generation: Generation,
    state: Held,
    parts: Vec<Part>,
) -> (CheckpointManifest, Committed) {
    let folder = keys::checkpoint(generation, state.step, &state.digest);
    let manifest = CheckpointManifest {
        format_version: FORMAT_VERSION,
        run: run.to_owned(),
        identity,
        generation,
        step: state.step,
        digest: state.digest.clone(),
        parts,
    };
    let bytes = manifest.bytes();
    (
        manifest,
        Committed {
            generation,
            state,
            folder,
            bytes,
        },
    )
}

#[cfg(test)]
mod tests {
    use ringmaster_proto::spec::{Every, Resume};

    use super::*;

    fn checkpoint(generation: u64, step: u64) -> Committed {
        Committed {
            generation: Generation(generation),
            state: Held {
                step: Step(step),
                digest: format!("d{step}"),
            },
            folder: format!("checkpoints/{generation}-{step}"),
            bytes: 1,
        }
    }

    fn written(digest: &str, step: u64, part: u32, generation: u64) -> v1::PartWritten {
        let folder = keys::checkpoint(Generation(generation), Step(step), digest);
        v1::PartWritten {
            step,
            digest: digest.to_owned(),
            part,
            parts: 2,
            key: keys::checkpoint_part(&folder, part, 2),
            bytes: 3,
            blake3: "b".to_owned(),
        }
    }

    #[test]
    fn a_checkpoint_names_parts_of_one_generation_step_and_digest_only() {
        let mut checkpoints = Checkpoints::new(Vec::new(), Vec::new());
        let generation = Generation(3);
        let mut collect = |w: &v1::PartWritten| checkpoints.collect(generation, 2, w);
        assert_eq!(collect(&written("aa", 10, 0, 3)), Ok(None));
        assert_eq!(
            collect(&written("bb", 10, 1, 3)),
            Ok(None),
            "another digest"
        );
        assert_eq!(collect(&written("aa", 20, 1, 3)), Ok(None), "another step");
        assert!(
            collect(&written("aa", 10, 1, 2)).is_err(),
            "another generation"
        );
        assert_eq!(
            collect(&written("aa", 10, 0, 3)),
            Ok(None),
            "the same part again"
        );
        let whole = collect(&written("aa", 10, 1, 3));
        let folder = keys::checkpoint(generation, Step(10), "aa");
        let keys: Vec<String> = whole
            .ok()
            .flatten()
            .into_iter()
            .flatten()
            .map(|part| part.key)
            .collect();
        let expected = [0, 1].map(|part| keys::checkpoint_part(&folder, part, 2));
        assert_eq!(keys, expected);
    }

    fn keeping(keep: u32, keep_every: u64) -> CheckpointSpec {
        CheckpointSpec {
            every: Every::Steps(1),
            keep,
            keep_every,
            resume: Resume::Latest,
        }
    }

    #[test]
    fn what_is_kept_for_ever_is_kept_besides_the_newest() {
        let lineage = Lineage::new(vec![(Generation(1), Step(0)), (Generation(2), Step(25))]);
        let steps = [
            (1, 10),
            (1, 20),
            (1, 30),
            (2, 30),
            (2, 40),
            (2, 50),
            (2, 60),
        ];
        let all = steps.map(|(generation, step)| checkpoint(generation, step));
        let gone = lineage.expired(&all, &keeping(1, 20));
        let gone: Vec<_> = gone
            .iter()
            .map(|c| (c.generation.0, c.state.step.0))
            .collect();
        // Step 30 of generation 1 never happened.
        assert_eq!(gone, [(1, 30), (1, 10), (2, 30), (2, 50)]);
        assert_eq!(lineage.expired(&all, &keeping(1, 10)), [all[2].clone()]);
    }

    #[test]
    fn retention_never_deletes_the_last() {
        let lineage = Lineage::new(vec![(Generation(1), Step(0)), (Generation(2), Step(5))]);
        let off_lineage = checkpoint(1, 10);
        assert!(
            lineage
                .expired(std::slice::from_ref(&off_lineage), &keeping(1, 0))
                .is_empty()
        );
        assert!(lineage.expired(&[], &keeping(1, 0)).is_empty());
        for keep in 0..4 {
            let all = [checkpoint(2, 10), checkpoint(2, 20)];
            assert!(lineage.expired(&all, &keeping(keep, 0)).len() < all.len());
        }
    }

    #[test]
    fn retention_keeps_the_newest_that_survived() {
        let lineage = Lineage::new(vec![(Generation(1), Step(0)), (Generation(2), Step(15))]);
        let all = [
            checkpoint(1, 10),
            checkpoint(1, 20),
            checkpoint(2, 16),
            checkpoint(2, 18),
        ];
        let gone = lineage.expired(&all, &keeping(2, 0));
        assert_eq!(gone, [checkpoint(1, 20), checkpoint(1, 10)]);
    }

    #[test]
    fn forgetting_old_generations_changes_no_decision() {
        let all = [(1, 0), (2, 10), (3, 5), (4, 12), (5, 12)];
        let mut short = Lineage::default();
        let mut long = Vec::new();
        for (generation, step) in all {
            short.push(Generation(generation), Step(step));
            long.push((Generation(generation), Step(step)));
        }
        for generation in 1..=5 {
            for step in 0..20 {
                let (generation, step) = (Generation(generation), Step(step));
                assert_eq!(
                    survived(&short.0, generation, step),
                    survived(&long, generation, step),
                    "generation {generation} step {step}"
                );
            }
        }
    }
}
