//! `ringmaster status`: where a live run stands.

use clap::Args;
use ringmaster_proto::v1::{GetRunRequest, RunStatus, WorkerStatus};
use serde::Serialize;

use super::live::{RunClient, ask};
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// Arguments of `status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Name of a run below ./ringmaster-runs, or its folder; without it, the newest
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Asks the coordinator and prints its answer.
pub(crate) async fn run(args: StatusArgs) -> Result<Exit, CliError> {
    let call = async |mut client: RunClient| client.get_run(GetRunRequest::default()).await;
    let answer = ask(args.run.as_deref(), "GetRun", call).await?;
    StatusReport::of(answer.status.unwrap_or_default()).show(args.output);
    Ok(Exit::Done)
}

/// One object of `status --output json` and of `watch`; its field names are a contract.
#[derive(Debug, Serialize)]
pub(crate) struct StatusReport {
    run: String,
    phase: String,
    reason: String,
    term: u64,
    generation: u64,
    step: u64,
    total_steps: u64,
    loss: f64,
    digest: String,
    checkpoint_step: u64,
    reduction: String,
    redo_is_exact: bool,
    admin_address: String,
    max_workers: u32,
    workers: Vec<WorkerReport>,
}

#[derive(Debug, Serialize)]
struct WorkerReport {
    worker: String,
    state: String,
    rank: Option<u32>,
    step: u64,
    lanes: Option<[u32; 2]>,
    activity: String,
    activity_seconds: f64,
    host: String,
    pid: u32,
}

impl StatusReport {
    /// Prints it.
    pub(super) fn show(&self, output: Output) {
        match output {
            Output::Json => output::json(self),
            Output::Table => self.print(),
        }
    }

    /// The report of a status as the wire carries it.
    pub(crate) fn of(status: RunStatus) -> Self {
        Self {
            run: status.run_id,
            phase: status.phase,
            reason: status.reason,
            term: status.term,
            generation: status.generation,
            step: status.step,
            total_steps: status.total_steps,
            loss: status.loss,
            digest: status.digest,
            checkpoint_step: status.checkpoint_step,
            reduction: status.reduction,
            redo_is_exact: status.redo_is_exact,
            admin_address: status.admin_address,
            max_workers: status.max_workers,
            workers: status.workers.into_iter().map(WorkerReport::of).collect(),
        }
    }

    fn print(&self) {
        output::line(&format!("run         {}", self.run));
        output::line(&format!("phase       {}: {}", self.phase, self.reason));
        output::line(&format!(
            "step        {} of {}",
            self.step, self.total_steps
        ));
        output::line(&format!("loss        {:.4}", self.loss));
        output::line(&format!(
            "generation  {} (term {})",
            self.generation, self.term
        ));
        let checkpoint = match self.checkpoint_step {
            0 => "none yet".to_owned(),
            step => format!("step {step}, {} steps ago", self.step.saturating_sub(step)),
        };
        output::line(&format!("checkpoint  {checkpoint}"));
        let redo = if self.redo_is_exact {
            "bit-identical"
        } else {
            "not bit-identical"
        };
        output::line(&format!(
            "reduction   {} (a redo is {redo})",
            self.reduction
        ));
        output::line(&format!("status page http://{}/status", self.admin_address));
        output::line(&format!("workers     at most {}", self.max_workers));
        output::line("");
        let header = [
            "worker", "state", "rank", "step", "lanes", "is at", "host", "pid",
        ];
        output::table(
            &header,
            &self
                .workers
                .iter()
                .map(WorkerReport::row)
                .collect::<Vec<_>>(),
        );
    }
}

impl WorkerReport {
    fn of(worker: WorkerStatus) -> Self {
        Self {
            worker: worker.worker_id,
            state: worker.state,
            rank: u32::try_from(worker.rank).ok(),
            step: worker.step,
            lanes: worker.lanes.try_into().ok(),
            activity: worker.activity,
            activity_seconds: worker.activity_seconds,
            host: worker.host,
            pid: worker.pid,
        }
    }

    fn row(&self) -> Vec<String> {
        let rank = self
            .rank
            .map_or_else(|| "-".to_owned(), |rank| rank.to_string());
        let lanes = self
            .lanes
            .map_or_else(|| "-".to_owned(), |[from, to]| format!("{from}..{to}"));
        let at = match self.activity.as_str() {
            "" => "-".to_owned(),
            activity => format!("{activity}, {:.1} s", self.activity_seconds),
        };
        let (worker, state, host) = (self.worker.clone(), self.state.clone(), self.host.clone());
        vec![
            worker,
            state,
            rank,
            self.step.to_string(),
            lanes,
            at,
            host,
            self.pid.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_names_of_the_json_are_a_contract() {
        let status = RunStatus {
            run_id: "r".into(),
            workers: vec![
                WorkerStatus {
                    rank: 0,
                    lanes: vec![0, 2],
                    ..WorkerStatus::default()
                },
                WorkerStatus {
                    rank: -1,
                    ..WorkerStatus::default()
                },
            ],
            ..RunStatus::default()
        };
        let json = serde_json::to_string(&StatusReport::of(status)).unwrap();
        let golden = concat!(
            r#"{"run":"r","phase":"","reason":"","term":0,"generation":0,"step":0,"total_steps":0,"#,
            r#""loss":0.0,"digest":"","checkpoint_step":0,"reduction":"","redo_is_exact":false,"#,
            r#""admin_address":"","max_workers":0,"workers":[{"worker":"","state":"","rank":0,"step":0,"#,
            r#""lanes":[0,2],"activity":"","activity_seconds":0.0,"host":"","pid":0},{"worker":"","#,
            r#""state":"","rank":null,"step":0,"lanes":null,"activity":"","activity_seconds":0.0,"#,
            r#""host":"","pid":0}]}"#,
        );
        assert_eq!(json, golden);
    }
}
