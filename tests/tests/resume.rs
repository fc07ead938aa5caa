//! Stopping and starting again changes nothing: the oracle is the same run, never stopped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::OnceLock;

use nix::sys::signal::Signal;
use ringmaster_proto::ErrorKind;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_tests::process::Process;
use ringmaster_tests::sandbox::{self, EVERYTHING, End, SMALL, Sandbox};
use ringmaster_tests::watch::Watch;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// Long enough that a signal sent at step 20 arrives well before the end.
const STEPS: u64 = 400;
const STEPS_ARG: &str = "run.steps=400";

const TRAIN: [&str; 8] = [
    "train",
    "run.toml",
    "--workers",
    "2",
    "--set",
    STEPS_ARG,
    "--output",
    "json",
];

/// The run that nobody disturbs. Ask for it before making a sandbox: it needs one of its own.
fn undisturbed() -> &'static End {
    static RUN: OnceLock<End> = OnceLock::new();
    RUN.get_or_init(|| sandbox::undisturbed(RINGMASTER, TRAIN))
}

/// A live run past step 20, with everything it has open noted.
fn live_run(sandbox: &mut Sandbox) -> Process {
    let mut process = sandbox.start(TRAIN);
    Watch::open(&mut process, &sandbox.run_folder(SMALL)).wait_for_step(20);
    sandbox.note_sockets();
    process
}

/// The same command again ends where the undisturbed run ends, with the same loss at every step.
fn assert_resumes_to(expected: &End, sandbox: &Sandbox) {
    let finished = sandbox.run(TRAIN).succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

fn assert_stops_and_the_same_command_continues(stop: impl Fn(&Sandbox, &Process)) {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let process = live_run(&mut sandbox);
    stop(&sandbox, &process);
    process.finish().stopped();
    sandbox.assert_nothing_left();
    let done = sandbox.losses(SMALL).keys().copied().max().unwrap();
    assert!(
        (20..STEPS).contains(&done),
        "stopped at step {done}, in the middle"
    );
    assert_resumes_to(expected, &sandbox);
    // The checkpoint was taken at the boundary where the run stopped: no step was done twice.
    assert_eq!(sandbox.metrics(SMALL).len() as u64, STEPS);
}

#[test]
fn ctrl_c_stops_at_a_boundary_and_the_same_command_continues() {
    assert_stops_and_the_same_command_continues(|_, process| process.signal(Signal::SIGINT));
}

#[test]
fn sigterm_stops_at_a_boundary_and_the_same_command_continues() {
    assert_stops_and_the_same_command_continues(|_, process| process.signal(Signal::SIGTERM));
}

#[test]
fn the_stop_command_stops_at_a_boundary_and_the_same_command_continues() {
    assert_stops_and_the_same_command_continues(|sandbox, _| {
        let args = ["stop", SMALL, "--reason", "a test", "--output", "json"];
        let asked = sandbox.run(args).succeeded();
        assert_eq!(asked.last_object()["run"], SMALL);
    });
}

/// The journal alone says what the run is.
#[test]
fn a_stopped_run_is_resumed_without_its_run_file() {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let process = live_run(&mut sandbox);
    process.signal(Signal::SIGINT);
    process.finish().stopped();
    std::fs::remove_file(sandbox.folder().join("run.toml")).unwrap();
    let finished = sandbox
        .run(["resume", SMALL, "--output", "json"])
        .succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

/// The whole run, of which the checkpoint of every hundredth step is kept.
fn train_and_keep_checkpoints(sandbox: &Sandbox) {
    let saved = [
        "--set",
        "checkpoint.every=100",
        "--set",
        "checkpoint.keep=9",
    ];
    sandbox.run(TRAIN.into_iter().chain(saved)).succeeded();
}

/// What came after it never happened, and comes again.
#[test]
fn a_finished_run_taken_back_to_a_checkpoint_ends_where_it_ended() {
    let expected = undisturbed();
    let sandbox = Sandbox::new(RINGMASTER);
    train_and_keep_checkpoints(&sandbox);
    let refused = sandbox.run(["resume", SMALL, "--from", "step 150"]);
    let sentence = refused.refused(ErrorKind::Invalid.exit_code().into());
    assert!(sentence.contains("steps 100, 200, 300, 400"), "{sentence}");
    let back = ["resume", SMALL, "--from", "step 200", "--output", "json"];
    let finished = sandbox.run(back).succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    let metrics = sandbox.metrics(SMALL);
    let generation = |step: u64| &metrics[step as usize - 1]["generation"];
    assert_eq!(metrics.len() as u64, STEPS);
    assert_eq!(generation(200), generation(1));
    assert_ne!(generation(201), generation(1), "it was trained again");
    sandbox.run(["ledger", "verify", SMALL]).succeeded();
    sandbox.assert_nothing_left();
}

/// Another run's checkpoint is copied, optimizer and place in the corpus and all.
#[test]
fn a_run_that_goes_on_from_anothers_checkpoint_ends_where_that_one_did() {
    let expected = undisturbed();
    let sandbox = Sandbox::new(RINGMASTER);
    train_and_keep_checkpoints(&sandbox);
    let checkpoints = std::fs::read_dir(sandbox.run_folder(SMALL).join("checkpoints")).unwrap();
    let of_200 = checkpoints
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("step-000000000200-"));
    let from = format!("checkpoint.resume={:?}", of_200.unwrap());
    let other = ["--set", "run.name=other", "--set", &from];
    let finished = sandbox.run(TRAIN.into_iter().chain(other)).succeeded();
    let (digest, losses) = expected;
    assert_eq!(&finished.digest(), digest);
    let later = losses.clone().split_off(&201);
    assert_eq!(sandbox.losses("other"), later);
    sandbox.run(["ledger", "verify", "other"]).succeeded();
    sandbox.assert_nothing_left();
}

/// Two workers, then three, then one: each change at a step boundary, and the run is none the wiser.
#[test]
fn scaling_a_live_run_changes_nothing_of_it() {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let mut process = sandbox.start(TRAIN);
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for_step(20);
    sandbox.note_sockets();
    for workers in ["3", "1"] {
        let asked = ["scale", workers, SMALL, "--output", "json"];
        sandbox.run(asked).succeeded();
        let trains = |event: &Event| {
            let Event::Status(status) = event else {
                return false;
            };
            let ranked = status.workers.iter().filter(|w| w.state == "ranked");
            let all = status.workers.len().to_string();
            status.phase == "training" && ranked.count().to_string() == workers && all == workers
        };
        watch.wait_for("the other number of workers to train", trains);
    }
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    assert_eq!(
        sandbox.metrics(SMALL).len() as u64,
        STEPS,
        "no step was redone"
    );
    sandbox.assert_nothing_left();
}

#[test]
fn a_number_of_workers_that_cannot_be_is_refused_in_one_sentence() {
    let mut sandbox = Sandbox::new(RINGMASTER);
    let process = live_run(&mut sandbox);
    for workers in ["0", "1000"] {
        let asked = sandbox.run(["scale", workers, SMALL]);
        let sentence = asked.refused(ErrorKind::Invalid.exit_code().into());
        assert!(sentence.contains("workers cannot be"), "{sentence}");
    }
    process.signal(Signal::SIGINT);
    process.finish().stopped();
}

/// Two workers up to the middle, then three: what was drawn, averaged and measured until then goes
/// on as if nothing had happened.
#[test]
fn everything_drawn_and_carried_survives_a_stop_and_another_world_size() {
    let args = |workers: &'static str| {
        let mut args = TRAIN.to_vec();
        args[3] = workers;
        args.extend(EVERYTHING.iter().flat_map(|set| ["--set", set]));
        args
    };
    let sandbox = Sandbox::new(RINGMASTER);
    let whole = sandbox.run(args("1")).succeeded();
    let expected = (whole.digest(), sandbox.losses(SMALL));
    drop(sandbox);

    let mut sandbox = Sandbox::new(RINGMASTER);
    let mut process = sandbox.start(args("2"));
    Watch::open(&mut process, &sandbox.run_folder(SMALL)).wait_for_step(20);
    sandbox.note_sockets();
    process.signal(Signal::SIGINT);
    process.finish().stopped();
    let done = sandbox.metrics(SMALL).len() as u64;
    assert!(done < STEPS, "stopped in the middle");
    let finished = sandbox.run(args("3")).succeeded();
    assert_eq!((finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_the_run_is_still_resumable() {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let process = live_run(&mut sandbox);
    // Two signals that count the same but do not melt into one while they wait to be delivered.
    process.signal(Signal::SIGINT);
    process.signal(Signal::SIGTERM);
    let finished = process.finish();
    assert!(!finished.status.success(), "{}", finished.transcript());
    sandbox.wait_for_orphans();
    sandbox.assert_nothing_left();
    assert_resumes_to(expected, &sandbox);
}

#[test]
fn everything_dies_with_a_killed_supervisor_and_the_run_is_still_resumable() {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let process = live_run(&mut sandbox);
    process.signal(Signal::SIGKILL);
    process.finish();
    sandbox.wait_for_orphans();
    sandbox.assert_nothing_left();
    assert_resumes_to(expected, &sandbox);
}

/// One flipped bit: the run goes on from the checkpoint before, says so, and ends where it would have
/// ended.
#[test]
fn a_damaged_checkpoint_is_given_up_for_the_one_before() {
    let expected = undisturbed();
    let sandbox = Sandbox::new(RINGMASTER);
    let often = TRAIN.iter().chain(&["--set", "checkpoint.every=10"]);
    let mut process = sandbox.start(often);
    Watch::open(&mut process, &sandbox.run_folder(SMALL)).wait_for_step(60);
    process.signal(Signal::SIGINT);
    process.finish().stopped();
    let verify = ["checkpoint", "verify", SMALL, "--output", "json"];
    let whole = sandbox.run(verify).succeeded().stdout;
    assert!(whole.len() > 1, "something to fall back to: {whole:?}");

    let folders = std::fs::read_dir(sandbox.run_folder(SMALL).join("checkpoints")).unwrap();
    let newest = folders.map(|entry| entry.unwrap().path()).max().unwrap();
    let part = newest.join("part-00001-of-00002.safetensors");
    let mut bytes = std::fs::read(&part).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let found = sandbox.run(verify);
    let sentence = found.refused(ErrorKind::Data.exit_code().into());
    assert!(sentence.starts_with("1 of "), "{sentence}");
    let name = newest.file_name().unwrap().to_str().unwrap();
    let told = found
        .stdout
        .iter()
        .filter(|line| line.contains("\"verified\":false"));
    let told: Vec<_> = told.collect();
    assert!(told.len() == 1 && told[0].contains(name), "{told:?}");

    let finished = sandbox.run(TRAIN).succeeded();
    let logs = std::fs::read_dir(sandbox.run_folder(SMALL).join("logs")).unwrap();
    let logs = logs.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let said = logs.collect::<String>();
    let step: u64 = name["step-".len()..]
        .split('-')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let sentence = format!("the checkpoint of step {step} is damaged");
    assert!(said.contains(&sentence), "{said}");
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

#[test]
fn training_a_live_run_is_refused_and_says_where_it_is() {
    let mut sandbox = Sandbox::new(RINGMASTER);
    let process = live_run(&mut sandbox);
    let endpoint = std::fs::read(sandbox.run_folder(SMALL).join("endpoint.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_slice(&endpoint).unwrap();
    let refused = sandbox
        .run(TRAIN)
        .refused(ErrorKind::Fenced.exit_code().into());
    assert!(
        refused.contains(endpoint["address"].as_str().unwrap()),
        "{refused}"
    );
    process.signal(Signal::SIGINT);
    process.finish().stopped();
    sandbox.assert_nothing_left();
}

#[test]
fn a_finished_run_says_so_and_starts_anew_only_with_fresh() {
    let sandbox = Sandbox::new(RINGMASTER);
    let train = ["train", "run.toml", "--workers", "1", "--output", "json"];
    let digest = sandbox.run(train).succeeded().digest();
    let done = sandbox.run(train).succeeded();
    assert_eq!(done.digest(), digest);
    let said = done.transcript();
    assert!(
        said.contains("already finished") && said.contains("--fresh"),
        "{said}"
    );
    assert_eq!(sandbox.metrics(SMALL).len(), 30, "nothing was trained");
    let again = sandbox.run(train.iter().chain(&["--fresh"])).succeeded();
    assert_eq!(again.digest(), digest, "the same run from the start");
    assert_eq!(
        sandbox.metrics(SMALL).len(),
        30,
        "the metrics are the new run's alone"
    );
    sandbox.assert_nothing_left();
}
