//! A host that a coordinator runs on: the real server, started again after what may pass.

use std::rc::Rc;
use std::time::Duration;

use ringmaster_coordinator::{CoordinatorError, CorpusFacts, Options, Outcome, Timing, serve};
use ringmaster_proto::ErrorKind;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::hosts::World;
use super::net::Port;

/// Where workers attend.
pub(crate) const GRPC: u16 = 7_000;

/// Where nobody looks.
const ADMIN: u16 = 7_001;

/// Deadlines shorter than usual, so that a run with faults takes a minute of virtual time.
const TIMING: Timing = Timing {
    heartbeat_ms: 500,
    lease_ms: 4_000,
    fence_ms: 1_000,
    forming_ms: 8_000,
    draining_ms: 30_000,
    stuck_ms: 30_000,
    unknown_ms: 600_000,
    slowest_copy: 10_000_000,
    scrub_ms: 3_600_000,
    confirm_ms: 2_000,
};

/// Serves the run until it is over or somebody else does.
pub(crate) async fn live(world: Rc<World>, host: usize) -> turmoil::Result {
    loop {
        let (grpc, admin) = (Port::bind(GRPC).await?, Port::bind(ADMIN).await?);
        let options = Options {
            spec: world.plan.spec.clone(),
            root: world.root.clone(),
            corpus: CorpusFacts {
                corpus_hash: "c".into(),
                validation_hash: String::new(),
                tokenizer_hash: "t".into(),
                init_hash: String::new(),
                total_steps: world.plan.steps,
            },
            token: world.token.clone(),
            metrics_file: Some(world.records_of(host)),
            admin_address: String::new(),
            adopt: true,
            timing: TIMING,
        };
        world.coordinator_starts(host);
        let ended = serve(grpc, admin, options, CancellationToken::new()).await;
        if matches!(ended, Ok(Outcome::Finished { .. })) {
            world.completes();
        }
        // An error may hold a random name.
        let how = ended.as_ref().map_err(CoordinatorError::kind);
        world.trace(|| format!("coordinator {host} ends: {how:?}"));
        match ended {
            Ok(Outcome::Finished { step, digest }) => {
                if step.0 != world.plan.steps || !world.oracle().is_digest(step.0, &digest) {
                    world.object(format!("the run ended at step {step} with {digest}"));
                }
                world.finish();
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Retry => {
                sleep(Duration::from_millis(700)).await;
            }
            Err(error) if error.kind() == ErrorKind::Fenced => return Ok(()),
            other => {
                world.object(format!("coordinator {host} ends: {other:?}"));
                return Ok(());
            }
        }
    }
}
