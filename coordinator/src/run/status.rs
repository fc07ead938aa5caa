//! What people are told of a run.

use ringmaster_dataset::assign::lanes_of_rank;
use ringmaster_proto::{Rank, WorkerId, WorldSize, v1};

use super::End;
use super::machine::RunMachine;
use super::membership::Worker;
use super::phase::Phase;

impl RunMachine {
    /// The run as it stands.
    pub fn status(&self) -> v1::RunStatus {
        let newest = self.lineage.newest(self.checkpoints.committed());
        let error_kind = match &self.phase {
            Phase::Ended(End::Failed { kind, .. }) => kind.to_string(),
            _ => String::new(),
        };
        v1::RunStatus {
            run_id: self.config.spec.run.name.clone(),
            phase: self.phase.name().to_owned(),
            reason: self.reason.clone(),
            term: self.term.0,
            generation: self.generation.0,
            step: self.newest.step.0,
            total_steps: self.config.total_steps().0,
            loss: self.loss,
            digest: self.newest.digest.clone(),
            checkpoint_step: newest.map_or(0, |checkpoint| checkpoint.state.step.0),
            reduction: self.config.spec.train.reduction.as_str().to_owned(),
            workers: self
                .workers
                .iter()
                .map(|(id, w)| self.worker_status(id, w))
                .collect(),
            admin_address: self.config.admin_address.clone(),
            error_kind,
            redo_is_exact: self.config.exact(),
            max_workers: self.largest,
            connect_seconds: self.formed_in.0,
            copy_seconds: self.formed_in.1,
        }
    }

    fn worker_status(&self, id: &WorkerId, worker: &Worker) -> v1::WorkerStatus {
        let ranked = worker.bound == Some(self.generation);
        let rank = ranked
            .then(|| self.members.iter().position(|member| member == id))
            .flatten();
        let state = if worker.session.is_none() {
            "lost"
        } else if worker.draining.is_some() {
            "draining"
        } else if rank.is_some() {
            "ranked"
        } else if worker.ring_address.is_some() {
            "spare"
        } else {
            "preparing"
        };
        let world = WorldSize(u32::try_from(self.members.len()).unwrap_or(u32::MAX));
        let rank = rank.and_then(|rank| u32::try_from(rank).ok());
        let lanes = rank.map(|rank| {
            let lanes = lanes_of_rank(self.config.spec.data.lanes, Rank(rank), world);
            vec![lanes.start, lanes.end]
        });
        let doing = worker.doing.filter(|_| ranked);
        v1::WorkerStatus {
            worker_id: id.to_string(),
            state: state.to_owned(),
            rank: rank.and_then(|rank| i32::try_from(rank).ok()).unwrap_or(-1),
            host: worker.host.clone(),
            pid: worker.pid,
            step: worker.step,
            lanes: lanes.unwrap_or_default(),
            activity: doing.map_or_else(String::new, |doing| doing.name().to_owned()),
            activity_seconds: doing.map_or(0.0, |doing| doing.seconds()),
        }
    }
}
