//! A real coordinator on ports of its own, and clients that behave and misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use ringmaster_dataset::Store;
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::v1::directive::Body as Said;
use ringmaster_proto::v1::watch_run_response::Event as Watched;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{
    Alive, Boundary, Directive, Fenced, Formed, GetRunRequest, Held, Hello, PartWritten, Prepared,
    StepDone, StopRunRequest, WatchRunRequest, WorkerReport,
};
use ringmaster_proto::{Generation, PROTOCOL_VERSION, RunSpec, Step, dial, keys};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::{CoordinatorError, CorpusFacts, Options, Outcome, Timing, checkpoints, history, serve};

/// No answer takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Run {
    folder: tempfile::TempDir,
    address: String,
    admin: String,
    token: RunToken,
    shutdown: CancellationToken,
    served: JoinHandle<Result<Outcome, CoordinatorError>>,
}

async fn start(folder: tempfile::TempDir) -> Run {
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, admin_address) = (grpc.local_addr().unwrap(), admin.local_addr().unwrap());
    let text = [
        "run.name=\"t\"",
        "membership.min_workers=1",
        "membership.join_window=\"0s\"",
    ];
    let token = RunToken::generate().unwrap();
    let options = Options {
        spec: RunSpec::parse("", &text.map(str::to_owned)).unwrap(),
        root: Store::open(folder.path().to_str().unwrap()).unwrap(),
        corpus: CorpusFacts {
            corpus_hash: "c".into(),
            validation_hash: String::new(),
            tokenizer_hash: "t".into(),
            init_hash: String::new(),
            total_steps: 100,
        },
        token: token.clone(),
        metrics_file: Some(folder.path().join("metrics.jsonl")),
        admin_address: admin_address.to_string(),
        adopt: true,
        timing: Timing::default(),
    };
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(grpc, admin, options, shutdown.clone()));
    let (address, admin) = (address.to_string(), admin_address.to_string());
    Run {
        folder,
        address,
        admin,
        token,
        shutdown,
        served,
    }
}

impl Run {
    async fn new() -> Self {
        start(tempfile::tempdir().unwrap()).await
    }

    async fn channel(&self) -> dial::TokenChannel {
        dial::dial(&self.address, &self.token).await.unwrap()
    }

    async fn end(self) -> (tempfile::TempDir, Result<Outcome, CoordinatorError>) {
        let end = tokio::time::timeout(PATIENCE, self.served)
            .await
            .unwrap()
            .unwrap();
        (self.folder, end)
    }
}

/// A worker that answers by hand.
struct Worker {
    reports: mpsc::Sender<WorkerReport>,
    directives: Streaming<Directive>,
    term: u64,
}

impl Worker {
    async fn attend(run: &Run, worker_id: &str, protocol: u32) -> Result<Self, Status> {
        Self::attend_knowing(0, run, worker_id, protocol).await
    }

    /// As a worker that has heard of `term`.
    async fn attend_knowing(
        term: u64,
        run: &Run,
        worker_id: &str,
        protocol: u32,
    ) -> Result<Self, Status> {
        let (reports, outgoing) = mpsc::channel(16);
        let hello = Hello {
            protocol,
            build: "b".into(),
            host: "h".into(),
            pid: 7,
            ..Default::default()
        };
        let first = report(worker_id, term, 0, Body::Hello(hello));
        reports.send(first).await.unwrap();
        let mut client = dial::coordinator(run.channel().await);
        let directives = client
            .attend(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        Ok(Self {
            reports,
            directives,
            term: 0,
        })
    }

    async fn say(&self, generation: u64, body: Body) {
        self.reports
            .send(report("w0", self.term, generation, body))
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> Option<Directive> {
        let heard = tokio::time::timeout(PATIENCE, self.directives.message())
            .await
            .unwrap();
        let heard = heard.unwrap();
        self.term = heard.as_ref().map_or(self.term, |directive| directive.term);
        heard
    }

    /// From Welcome to Start, in generation `generation`.
    async fn train(&mut self, generation: u64) {
        assert!(matches!(
            self.hear().await.unwrap().body,
            Some(Said::Welcome(_))
        ));
        let prepared = Prepared {
            ring_address: "127.0.0.1:1".into(),
            fingerprint: "f".into(),
            ..Default::default()
        };
        self.say(0, Body::Prepared(prepared)).await;
        let form = self.hear().await.unwrap();
        assert_eq!(form.generation, generation);
        let Some(Said::FormRing(form)) = form.body else {
            panic!("{form:?}")
        };
        let held = Some(state(form.resume.unwrap().step));
        self.say(
            generation,
            Body::Formed(Formed {
                held,
                ..Default::default()
            }),
        )
        .await;
        assert!(matches!(
            self.hear().await.unwrap().body,
            Some(Said::Start(_))
        ));
    }

    /// Ends at a boundary after `step`, with its state saved.
    async fn save_and_end(&mut self, root: &Store, generation: u64, step: u64) {
        let drain = self.hear().await.unwrap();
        assert!(matches!(drain.body, Some(Said::Drain(_))), "{drain:?}");
        let digest = state(step).digest;
        let folder = keys::checkpoint(Generation(generation), Step(step), &digest);
        let key = keys::checkpoint_part(&folder, 0, 1);
        root.put(&key, vec![1; 10].into()).await.unwrap();
        let blake3 = state(1).digest;
        let written = PartWritten {
            step,
            digest,
            part: 0,
            parts: 1,
            key,
            bytes: 10,
            blake3,
        };
        self.say(generation, Body::PartWritten(written)).await;
        let boundary = Boundary::Stop.into();
        let fenced = Fenced {
            held: Some(state(step)),
            boundary,
        };
        self.say(generation, Body::Fenced(fenced)).await;
        assert!(matches!(
            self.hear().await.unwrap().body,
            Some(Said::Stop(_))
        ));
        assert!(self.hear().await.is_none(), "the stream ends after Stop");
    }
}

fn report(worker_id: &str, term: u64, generation: u64, body: Body) -> WorkerReport {
    let (run_id, worker_id) = ("t".into(), worker_id.into());
    WorkerReport {
        run_id,
        worker_id,
        term,
        generation,
        body: Some(body),
    }
}

fn state(step: u64) -> Held {
    Held {
        step,
        digest: format!("{step:064x}"),
    }
}

async fn admin_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn without_the_runs_token_nothing_is_answered() {
    let run = Run::new().await;
    let stranger = RunToken::generate().unwrap();
    let channel = dial::dial(&run.address, &stranger).await.unwrap();
    let refused = dial::run(channel.clone())
        .get_run(GetRunRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let reports = tokio_stream::iter([report("w0", 0, 0, Body::Alive(Alive::default()))]);
    let refused = dial::coordinator(channel).attend(reports).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn another_protocol_is_refused_with_both_versions() {
    let run = Run::new().await;
    let other = PROTOCOL_VERSION + 1;
    let refused = Worker::attend(&run, "w0", other).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let text = refused.message();
    let both = text.contains(&format!("protocol {other}"))
        && text.contains(&format!("coordinator {PROTOCOL_VERSION}"));
    assert!(both, "{text}");
}

#[tokio::test]
async fn a_worker_id_that_is_no_name_is_refused() {
    let run = Run::new().await;
    let refused = Worker::attend(&run, "../w0", PROTOCOL_VERSION)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// One worker completes step 1, and everybody who asks hears of it.
async fn one_step(run: &Run, worker: &mut Worker) {
    let mut client = dial::run(run.channel().await);
    let watch = client.watch_run(WatchRunRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    worker.train(1).await;
    let done = StepDone {
        step: 1,
        loss: 0.1 + 0.2,
        ..Default::default()
    };
    worker.say(1, Body::StepDone(done)).await;
    let watched = loop {
        let event = tokio::time::timeout(PATIENCE, watch.message())
            .await
            .unwrap();
        if let Some(Watched::Step(step)) = event.unwrap().unwrap().event {
            break step;
        }
    };
    assert_eq!(watched.step.unwrap().step, 1);
    let request = GetRunRequest { run_id: "t".into() };
    let status = client.get_run(request).await.unwrap();
    let status = status.into_inner().status.unwrap();
    assert_eq!((status.phase.as_str(), status.step), ("training", 1));
    assert_eq!(status.workers[0].lanes, [0, 4]);
}

#[tokio::test]
async fn the_admin_pages_tell_what_the_run_does() {
    let run = Run::new().await;
    let mut worker = Worker::attend(&run, "w0", PROTOCOL_VERSION).await.unwrap();
    one_step(&run, &mut worker).await;
    let metrics = admin_get(&run.admin, "/metrics").await;
    assert!(
        metrics.contains("coordinator_steps_committed_total{run=\"t\"} 1"),
        "{metrics}"
    );
    let status = admin_get(&run.admin, "/status").await;
    assert!(status.contains("\"phase\":\"training\""), "{status}");
    for path in ["/healthz", "/readyz"] {
        assert!(
            admin_get(&run.admin, path)
                .await
                .starts_with("HTTP/1.1 200"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_run_stops_with_a_checkpoint_and_goes_on_under_a_new_term() {
    let run = Run::new().await;
    let mut worker = Worker::attend(&run, "w0", PROTOCOL_VERSION).await.unwrap();
    one_step(&run, &mut worker).await;
    let root = Store::open(run.folder.path().to_str().unwrap()).unwrap();
    let mut client = dial::run(run.channel().await);
    client.stop_run(StopRunRequest::default()).await.unwrap();
    worker.save_and_end(&root, 1, 1).await;
    let (folder, end) = run.end().await;
    let digest = state(1).digest;
    assert_eq!(
        end.unwrap(),
        Outcome::Stopped {
            step: Step(1),
            digest
        }
    );
    let lines = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    assert!(lines.contains("\"loss\":0.30000000000000004"), "{lines}");
    let manifests = checkpoints(&root).await.unwrap();
    assert_eq!(
        manifests.iter().map(|m| m.step).collect::<Vec<_>>(),
        [Step(1)]
    );
    let told = history(&root).await.unwrap().unwrap();
    assert_eq!(told.stopped.unwrap().step, Step(1));

    let again = start(folder).await;
    let mut worker = Worker::attend(&again, "w0", PROTOCOL_VERSION)
        .await
        .unwrap();
    worker.train(2).await;
    assert_eq!(worker.term, 2, "a new coordinator is a new term");
    again.shutdown.cancel();
    worker.save_and_end(&root, 2, 1).await;
    assert!(matches!(
        again.end().await.1,
        Ok(Outcome::Stopped { step: Step(1), .. })
    ));
}

#[tokio::test]
async fn of_two_coordinators_the_older_is_fenced() {
    let old = Run::new().await;
    let mut worker = Worker::attend(&old, "w0", PROTOCOL_VERSION).await.unwrap();
    assert!(matches!(
        worker.hear().await.unwrap().body,
        Some(Said::Welcome(_))
    ));
    let root = Store::open(old.folder.path().to_str().unwrap()).unwrap();
    let (_, mut journal) = crate::journal::Journal::open(&root).await.unwrap();
    let term = crate::record::Record::TermStarted {
        term: ringmaster_proto::Term(2),
    };
    journal.append(&term).await.unwrap();
    let prepared = Prepared {
        ring_address: "127.0.0.1:1".into(),
        fingerprint: "f".into(),
        ..Default::default()
    };
    worker.say(0, Body::Prepared(prepared)).await;
    assert!(
        worker.hear().await.is_none(),
        "it falls silent before anyone hears of a generation"
    );
    let error = old.end().await.1.unwrap_err();
    assert_eq!(error.kind(), ringmaster_proto::ErrorKind::Fenced, "{error}");
}

/// It writes nothing, so only a worker can tell it.
#[tokio::test]
async fn a_replaced_coordinator_ends_when_a_worker_knows_the_newer_one() {
    let old = Run::new().await;
    let root = Store::open(old.folder.path().to_str().unwrap()).unwrap();
    let stray = Worker::attend_knowing(2, &old, "w0", PROTOCOL_VERSION).await;
    assert!(stray.unwrap().hear().await.is_none(), "it is sent away");
    let again = Worker::attend(&old, "w1", PROTOCOL_VERSION).await;
    assert!(
        again.unwrap().hear().await.is_some(),
        "nobody has replaced it"
    );
    let (_, mut journal) = crate::journal::Journal::open(&root).await.unwrap();
    let term = crate::record::Record::TermStarted {
        term: ringmaster_proto::Term(2),
    };
    journal.append(&term).await.unwrap();
    let mut knowing = Worker::attend_knowing(2, &old, "w0", PROTOCOL_VERSION)
        .await
        .unwrap();
    assert!(knowing.hear().await.is_none());
    let error = old.end().await.1.unwrap_err();
    assert_eq!(error.kind(), ringmaster_proto::ErrorKind::Fenced, "{error}");
}

#[tokio::test]
async fn a_stop_before_any_worker_attends_ends_the_run() {
    let run = Run::new().await;
    run.shutdown.cancel();
    let end = run.end().await.1;
    assert!(
        matches!(end, Ok(Outcome::Stopped { step: Step(0), .. })),
        "{end:?}"
    );
}
