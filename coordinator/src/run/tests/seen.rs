//! What a harness shows of a run: phases, generations, what workers heard.

use ringmaster_proto::WorkerId;
use ringmaster_proto::v1;
use ringmaster_proto::v1::directive::Body as Said;

use super::harness::{Net, id};
use crate::record::{Committed, GenerationRecord, Record};

impl Net {
    pub(super) fn phase(&self) -> String {
        self.machine.status().phase
    }

    pub(super) fn generations(&self) -> Vec<&GenerationRecord> {
        let mut generations = Vec::new();
        for record in &self.journal {
            if let Record::Generation(generation) = record {
                generations.push(generation);
            }
        }
        generations
    }

    pub(super) fn last_generation(&self) -> &GenerationRecord {
        self.generations().last().unwrap()
    }

    pub(super) fn members(&self) -> Vec<&str> {
        self.last_generation()
            .members
            .iter()
            .map(WorkerId::as_str)
            .collect()
    }

    pub(super) fn committed(&self) -> Vec<Committed> {
        let committed = |record: &Record| match record {
            Record::CheckpointCommitted(committed) => Some(committed.clone()),
            _ => None,
        };
        self.journal.iter().filter_map(committed).collect()
    }

    /// The last FormRing a worker heard.
    pub(super) fn form_ring(&self, name: &str) -> v1::FormRing {
        let form = |said: &Said| match said {
            Said::FormRing(form) => Some(form.clone()),
            _ => None,
        };
        self.workers[&id(name)]
            .heard
            .iter()
            .rev()
            .find_map(form)
            .unwrap()
    }

    pub(super) fn stopped_with(&self, name: &str) -> Option<v1::Outcome> {
        let stop = |said: &Said| match said {
            Said::Stop(stop) => v1::Outcome::try_from(stop.outcome).ok(),
            _ => None,
        };
        self.workers[&id(name)].heard.iter().rev().find_map(stop)
    }
}
