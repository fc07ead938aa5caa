//! Which state the next generation starts from.

use std::collections::BTreeMap;

use ringmaster_proto::{Generation, Step};

use super::checkpoint::Lineage;
use crate::record::{Committed, Held, Origin};

/// A worker that could continue, and what it holds.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) held: Option<Held>,
    /// It was in the last generation and has answered its fence.
    pub(super) survivor: bool,
}

/// The decision, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResumePoint {
    pub(super) state: Held,
    pub(super) origin: Origin,
    pub(super) reason: String,
}

/// Decides where to continue.
///
/// Survivors' memory first. In `exact` runs the state most of them hold, the higher on a tie: a
/// lone rank ahead copies back, since the redo is bit-identical. In other runs the highest, since a
/// redo would not be. Others' memory counts only when no survivor holds a state. A checkpoint on
/// the surviving lineage counts when nobody holds a state, or only an older one.
pub(super) fn decide(
    holders: &[Holder],
    exact: bool,
    checkpoints: &[Committed],
    lineage: &Lineage,
) -> ResumePoint {
    let memory = in_memory(holders, exact);
    let newest = lineage.newest(checkpoints);
    match (memory, newest) {
        (Some((state, _, _)), Some(checkpoint)) if checkpoint.state.step > state.step => {
            from_checkpoint(checkpoint, "it is newer than any state in memory")
        }
        (Some((state, count, of)), _) => ResumePoint {
            reason: format!("step {} is held by {count} of {of} in memory", state.step),
            state,
            origin: Origin::Memory,
        },
        (None, Some(checkpoint)) => from_checkpoint(checkpoint, "nobody holds a state in memory"),
        (None, None) => ResumePoint {
            state: Held {
                step: Step(0),
                digest: String::new(),
            },
            origin: Origin::Initial,
            reason: "there is neither a state in memory nor a checkpoint".to_owned(),
        },
    }
}

/// The chosen state in memory, how many hold it, and of how many.
fn in_memory(holders: &[Holder], exact: bool) -> Option<(Held, usize, usize)> {
    let any_survivor = holders
        .iter()
        .any(|holder| holder.survivor && holder.held.is_some());
    let mut counts: BTreeMap<&Held, usize> = BTreeMap::new();
    for holder in holders
        .iter()
        .filter(|holder| holder.survivor || !any_survivor)
    {
        if let Some(held) = &holder.held {
            *counts.entry(held).or_default() += 1;
        }
    }
    let of = counts.values().sum();
    let rank = |held: &Held, count: usize| match exact {
        true => (count as u64, held.step.0),
        false => (held.step.0, count as u64),
    };
    let (state, count) = counts
        .into_iter()
        .max_by_key(|(held, count)| rank(held, *count))?;
    Some((state.clone(), count, of))
}

/// To continue from `checkpoint`, and why.
pub(super) fn from_checkpoint(checkpoint: &Committed, why: &str) -> ResumePoint {
    ResumePoint {
        state: checkpoint.state.clone(),
        origin: Origin::Checkpoint(checkpoint.manifest_key()),
        reason: format!(
            "the checkpoint of step {} is used: {why}",
            checkpoint.state.step
        ),
    }
}

/// Whether `generation` took `step` on the past that survived: no later generation resumed before
/// it.
pub(super) fn survived(lineage: &[(Generation, Step)], generation: Generation, step: Step) -> bool {
    lineage
        .iter()
        .all(|(later, resume)| *later <= generation || *resume >= step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(step: Option<u64>, survivor: bool) -> Holder {
        Holder {
            held: step.map(|step| Held {
                step: Step(step),
                digest: format!("d{step}"),
            }),
            survivor,
        }
    }

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

    fn step(holders: &[Holder], exact: bool) -> u64 {
        decide(holders, exact, &[], &Lineage::default())
            .state
            .step
            .0
    }

    #[test]
    fn most_members_decide_in_an_exact_run_and_a_tie_goes_to_the_higher() {
        let [a, b, c] = [7, 7, 8].map(|step| holder(Some(step), true));
        assert_eq!(step(&[a.clone(), b.clone(), c.clone()], true), 7);
        assert_eq!(step(&[a, c], true), 8);
    }

    #[test]
    fn the_highest_decides_where_a_redo_is_not_identical() {
        let [a, b, c] = [7, 7, 8].map(|step| holder(Some(step), true));
        assert_eq!(step(&[a, b, c], false), 8);
    }

    #[test]
    fn joiners_with_an_old_state_do_not_outvote_a_survivor() {
        let holders = [
            holder(Some(9), true),
            holder(Some(3), false),
            holder(Some(3), false),
        ];
        assert_eq!(step(&holders, true), 9);
    }

    #[test]
    fn a_checkpoint_off_the_surviving_lineage_is_not_resumed() {
        // Generation 2 resumed at step 10, so what generation 1 did after step 10 never happened.
        let lineage = Lineage::new(vec![(Generation(1), Step(0)), (Generation(2), Step(10))]);
        let checkpoints = [checkpoint(1, 10), checkpoint(1, 20)];
        let point = decide(&[holder(None, false)], true, &checkpoints, &lineage);
        assert_eq!(
            point.origin,
            Origin::Checkpoint(checkpoints[0].manifest_key())
        );
    }

    #[test]
    fn a_newer_checkpoint_beats_an_older_memory() {
        let checkpoints = [checkpoint(1, 20)];
        let holders = [holder(Some(5), false)];
        let point = decide(&holders, true, &checkpoints, &Lineage::default());
        assert_eq!(point.state.step, Step(20));
    }
}
