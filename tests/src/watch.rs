//! What a live run says of itself: the WatchRun stream, followed until something has happened.

use std::path::Path;

use ringmaster_proto::auth::RunToken;
use ringmaster_proto::dial;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_proto::v1::{GetRunRequest, RunStatus, WatchRunRequest};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::process::{DEADLINE, Process};

/// A connection to the coordinator of a live run.
pub struct Watch {
    runtime: Runtime,
    address: String,
    token: RunToken,
}

impl Watch {
    /// Waits until the run has written where it is.
    pub fn open(process: &mut Process, run_folder: &Path) -> Self {
        let endpoint = run_folder.join("endpoint.json");
        std::fs::create_dir_all(run_folder).expect("the run's folder");
        process.wait_for_file(&endpoint);
        let text = std::fs::read(&endpoint).expect("endpoint.json of a live run");
        let object: Value = serde_json::from_slice(&text).expect("a JSON object");
        let address = object["address"].as_str().expect("an address").to_owned();
        let token = RunToken::read(&run_folder.join("token")).expect("the run's token");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            runtime: runtime.expect("a runtime"),
            address,
            token,
        }
    }

    /// Where the coordinator listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The run as the coordinator sees it now.
    pub fn status(&self) -> RunStatus {
        let ask = async {
            let channel = dial::dial(&self.address, &self.token)
                .await
                .expect("a live coordinator");
            dial::run(channel)
                .get_run(GetRunRequest::default())
                .await
                .expect("a status")
        };
        // The timer must be made inside the runtime.
        let answer = self
            .runtime
            .block_on(async { timeout(DEADLINE, ask).await });
        answer
            .expect("an answer in time")
            .into_inner()
            .status
            .expect("a status in the answer")
    }

    /// Waits until a step of at least `step` is applied.
    pub fn wait_for_step(&self, step: u64) {
        self.wait_for(&format!("step {step}"), |event| match event {
            Event::Step(done) => done.step.as_ref().is_some_and(|done| done.step >= step),
            Event::Status(status) => status.step >= step,
            Event::Sample(_) | Event::Checkpoint(_) => false,
        });
    }

    /// Waits until a checkpoint of at least `step` is committed.
    pub fn wait_for_checkpoint(&self, step: u64) {
        self.wait_for(&format!("checkpoint at {step}"), |event| match event {
            Event::Checkpoint(checkpoint) => checkpoint.step >= step,
            Event::Status(status) => status.checkpoint_step >= step,
            Event::Step(_) | Event::Sample(_) => false,
        });
    }

    /// Follows the run's events until one `is_it`.
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&Event) -> bool) {
        let follow = async {
            let channel = dial::dial(&self.address, &self.token)
                .await
                .expect("a live coordinator");
            let stream = dial::run(channel)
                .watch_run(WatchRunRequest::default())
                .await;
            let mut events = stream.expect("a stream of events").into_inner();
            while let Some(message) = events.message().await.expect("an event") {
                if message.event.as_ref().is_some_and(&is_it) {
                    return true;
                }
            }
            false
        };
        let seen = self
            .runtime
            .block_on(async { timeout(DEADLINE, follow).await })
            .expect("an event in time");
        assert!(seen, "the run ended before {what}");
    }
}
