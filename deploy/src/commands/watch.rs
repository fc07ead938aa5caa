//! `ringmaster watch`: follows a live run until it ends.

use clap::Args;
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_proto::v1::{Sample, StepDone, WatchRunResponse, WorkerStep};
use serde::Serialize;

use crate::commands::status::StatusReport;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::signals::Signals;
use crate::supervisor::watch;

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Name of a run below ./ringmaster-runs, or its folder; without it, the newest
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Bars and lines for people, or one JSON object per event
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Shows every event; ends with the run, or with Ctrl-C, which leaves the run alone.
pub(crate) async fn run(args: WatchArgs) -> Result<Exit, CliError> {
    let folder = RunFolder::find(args.run.as_deref())?;
    let endpoint = folder.live_endpoint()?;
    let token = RunToken::read(&folder.token())?;
    let mut signals = Signals::listen()?;
    let mut stream = watch(&endpoint.address, &token).await?;
    let mut progress = match args.output {
        Output::Table => Progress::new(0),
        Output::Json => Progress::quiet(0),
    };
    let mut tick = tokio::time::interval(crate::progress::LINE_EVERY);
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = tick.tick() => {
                progress.tick();
                continue;
            }
            () = signals.next() => break,
        };
        match message {
            Ok(Some(WatchRunResponse { event: Some(event) })) => match args.output {
                Output::Table => progress.apply(&event),
                Output::Json => output::json(&EventReport::of(event)),
            },
            Ok(Some(_)) => {}
            // The coordinator is gone: the run ended, or it will say so when it is back.
            Ok(None) | Err(_) => break,
        }
    }
    progress.finish();
    Ok(Exit::Done)
}

/// One line of `watch --output json`; its field names are a contract.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum EventReport {
    Status(StatusReport),
    Step(StepReport),
    Sample {
        step: u64,
        question: String,
        reference: String,
        answer: String,
    },
    Checkpoint {
        step: u64,
        digest: String,
        key: String,
        size_bytes: u64,
    },
}

#[derive(Debug, Serialize)]
struct StepReport {
    worker: String,
    rank: u32,
    generation: u64,
    step: u64,
    loss: f64,
    tokens: u64,
    rows: u64,
    grad_norm: f64,
    lr: f64,
    skipped: bool,
    bad_rows: u64,
    digest: String,
    own_rows: u64,
    data_s: f64,
    compute_s: f64,
    reduce_s: f64,
    exposed_s: f64,
    link_s: f64,
    optimizer_s: f64,
    step_s: f64,
}

impl EventReport {
    fn of(event: Event) -> Self {
        match event {
            Event::Status(status) => Self::Status(StatusReport::of(status)),
            Event::Step(step) => Self::Step(StepReport::of(step)),
            Event::Sample(Sample {
                step,
                question,
                reference,
                answer,
            }) => Self::Sample {
                step,
                question,
                reference,
                answer,
            },
            Event::Checkpoint(made) => Self::Checkpoint {
                step: made.step,
                digest: made.digest,
                key: made.key,
                size_bytes: made.bytes,
            },
        }
    }
}

impl StepReport {
    fn of(
        WorkerStep {
            worker_id,
            rank,
            generation,
            step,
        }: WorkerStep,
    ) -> Self {
        let done: StepDone = step.unwrap_or_default();
        Self {
            worker: worker_id,
            rank,
            generation,
            step: done.step,
            loss: done.loss,
            tokens: done.tokens,
            rows: done.rows,
            grad_norm: done.grad_norm,
            lr: done.lr,
            skipped: done.skipped,
            bad_rows: done.bad_rows,
            digest: done.digest,
            own_rows: done.own_rows,
            data_s: done.data_seconds,
            compute_s: done.compute_seconds,
            reduce_s: done.reduce_seconds,
            exposed_s: done.exposed_seconds,
            link_s: done.link_seconds,
            optimizer_s: done.optimizer_seconds,
            step_s: done.step_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_names_of_the_json_are_a_contract() {
        let json = |event| serde_json::to_string(&EventReport::of(event)).unwrap();
        let step = concat!(
            r#"{"event":"step","worker":"w","rank":0,"generation":0,"step":0,"loss":0.0,"#,
            r#""tokens":0,"rows":0,"grad_norm":0.0,"lr":0.0,"skipped":false,"bad_rows":0,"#,
            r#""digest":"","own_rows":0,"data_s":0.0,"compute_s":0.0,"reduce_s":0.0,"exposed_s":0.0,"link_s":0.0,"#,
            r#""optimizer_s":0.0,"step_s":0.0}"#,
        );
        let event = WorkerStep {
            worker_id: "w".into(),
            ..WorkerStep::default()
        };
        assert_eq!(json(Event::Step(event)), step);
        let sample = r#"{"event":"sample","step":0,"question":"","reference":"","answer":""}"#;
        assert_eq!(json(Event::Sample(Sample::default())), sample);
    }
}
