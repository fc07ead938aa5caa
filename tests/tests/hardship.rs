//! Machines that do their work badly: a disk that is full, a worker that gets no time, a thread that
//! hangs. The oracle is the same run on one worker, undisturbed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../worker/ring/tests/common/proxy.rs"]
mod proxy;

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use proxy::Proxy;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_tests::namespace::{Kind, Namespace};
use ringmaster_tests::s3::S3Server;
use ringmaster_tests::sandbox::{self, End, RUNS, SMALL, Sandbox};
use ringmaster_tests::watch::Watch;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

const STEPS: u64 = 300;

fn train(workers: &str) -> Vec<&str> {
    let steps = ["--set", "run.steps=300", "--set", "checkpoint.every=20"];
    let mut args = vec!["train", "run.toml", "--workers", workers];
    args.extend(steps);
    args.extend(["--output", "json"]);
    args
}

/// The run on one worker that nobody disturbs. Ask for it before making a sandbox.
fn undisturbed() -> &'static End {
    static RUN: OnceLock<End> = OnceLock::new();
    RUN.get_or_init(|| sandbox::undisturbed(RINGMASTER, train("1")))
}

/// Nothing can be saved or recorded from step 40 on, until after the last step.
#[test]
fn a_full_disk_delays_checkpoints_and_never_the_training() {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let runs = sandbox.folder().join(RUNS);
    let mount = format!(
        "mkdir -p {0} && mount -t tmpfs -o size=64m tmpfs {0}",
        runs.display()
    );
    let mounts = match Namespace::new(Kind::Mounts, &mount) {
        Ok(mounts) => mounts,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    sandbox.look_in(&mounts);
    let command = mounts.enter_at(sandbox.folder(), sandbox.command());
    let mut process = sandbox.start_as(command, train("2"));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for_checkpoint(20);
    watch.wait_for_step(40);
    let filler = sandbox.run_folder(SMALL).parent().unwrap().join("filler");
    fill(&filler);
    watch.wait_for_step(STEPS);
    assert_ne!(
        watch.status().phase,
        "finished",
        "its last state is saved nowhere"
    );
    std::fs::remove_file(&filler).unwrap();
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

/// Takes all the room there is.
fn fill(path: &Path) {
    let mut filler = std::fs::File::create(path).unwrap();
    for size in [1 << 16, 1 << 8, 1] {
        while filler.write_all(&vec![0; size]).is_ok() {}
    }
}

/// Whatever is asked of the store takes half a second.
#[test]
fn a_slow_store_costs_no_generation_and_no_bit() {
    let expected = undisturbed();
    let server = S3Server::start();
    let mut sandbox = Sandbox::new(RINGMASTER);
    sandbox.use_store(&server);
    server.take_time(Duration::from_millis(500));
    let store = format!("run.store={}", server.url("store"));
    let args = train("2").into_iter().chain(["--set", &store]);
    let finished = sandbox.run(args).succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    assert_eq!(sandbox.generations(SMALL).len(), 1);
    sandbox.assert_nothing_left();
}

/// Reports and directives arrive when they are old; the workers are near each other.
#[test]
fn a_coordinator_far_away_costs_no_generation_and_no_bit() {
    let expected = undisturbed();
    let sandbox = Sandbox::new(RINGMASTER);
    let folder = sandbox.run_folder(SMALL);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("token"), "5a".repeat(32)).unwrap();
    let path = |name: &str| format!("{RUNS}/{SMALL}/{name}");
    let [endpoint, metrics, token] = ["endpoint.json", "metrics.jsonl", "token"].map(path);
    let coordinator = [
        "coordinator",
        "run.toml",
        "--set",
        "run.steps=300",
        "--set",
        "checkpoint.every=20",
        "--set",
        "membership.min_workers=2",
        "--endpoint-file",
        &endpoint,
        "--metrics-file",
        &metrics,
        "--token-file",
        &token,
    ];
    let mut coordinator = sandbox.start(coordinator);
    let watch = Watch::open(&mut coordinator, &folder);
    let far = Proxy::far(watch.address().parse().unwrap(), Duration::from_millis(150));
    let address = far.address().to_string();
    let workers = ["w1", "w2"].map(|name| {
        let args = ["worker", "--coordinator", &address, "--name", name];
        sandbox.start(args.into_iter().chain(["--token-file", &token]))
    });
    let finished = coordinator.finish().succeeded();
    for worker in workers {
        worker.finish().succeeded();
    }
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    assert_eq!(sandbox.generations(SMALL).len(), 1);
    sandbox.assert_nothing_left();
}

/// A worker that is stopped and goes on again and again is slow, not lost.
#[test]
fn a_worker_that_gets_little_time_costs_no_generation_and_no_bit() {
    let expected = undisturbed();
    let sandbox = Sandbox::new(RINGMASTER);
    let mut process = sandbox.start(train("3"));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for_step(20);
    let slow = watch.status().workers[1].pid;
    for _ in 0..20 {
        // Time is what it is short of.
        sandbox.signal(slow, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(90));
        sandbox.signal(slow, Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(10));
    }
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    assert_eq!(sandbox.generations(SMALL).len(), 1);
}

/// Its heartbeats go on, its links live, its stream is served: only what it is at does not change.
#[test]
fn a_worker_whose_trainer_hangs_is_named_and_the_others_go_on() {
    let expected = undisturbed();
    let sandbox = Sandbox::new(RINGMASTER);
    let mut process = sandbox.start(train("3"));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for_step(20);
    let status = watch.status();
    let rank_1 = status
        .workers
        .iter()
        .find(|worker| worker.rank == 1)
        .unwrap();
    let thread = loop {
        let Some(thread) = hang(rank_1.pid, "trainer") else {
            return eprintln!("skipped: this machine allows no tracing of our own processes");
        };
        // Who waits for rows is not to blame, however long: that is another moment.
        if at(&watch, 1) != "waiting for rows" {
            break thread;
        }
        ptrace::detach(thread, None).unwrap();
    };
    watch.wait_for(
        "a generation without it",
        |event| matches!(event, Event::Step(done) if done.generation > status.generation),
    );
    ptrace::detach(thread, None).unwrap();
    let finished = process.finish().succeeded();
    let told = finished
        .stderr
        .iter()
        .find(|line| line.contains("stuck, over its limit"));
    let told = told.unwrap_or_else(|| panic!("{:?}", finished.stderr));
    assert!(told.contains("rank 1"), "{told}");
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

/// What a rank that does not go on is at.
fn at(watch: &Watch, rank: i32) -> String {
    let activity = std::cell::RefCell::new(String::new());
    watch.wait_for("a rank that does not go on", |event| {
        let Event::Status(status) = event else {
            return false;
        };
        let worker = status.workers.iter().find(|worker| worker.rank == rank);
        let stays = worker.filter(|worker| worker.activity_seconds > 1.0);
        stays.is_some_and(|worker| {
            activity.borrow_mut().clone_from(&worker.activity);
            true
        })
    });
    activity.into_inner()
}

/// Stops one thread of a process and no other, as a hang in a driver would.
fn hang(process: u32, name: &str) -> Option<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let is_it = |path: &Path| std::fs::read_to_string(path.join("comm")).unwrap().trim() == name;
    let mut paths = tasks.map(|entry| entry.unwrap().path());
    let task = paths
        .find(|path| is_it(path))
        .expect("a thread of that name");
    let thread = Pid::from_raw(task.file_name()?.to_str()?.parse().unwrap());
    ptrace::seize(thread, ptrace::Options::empty()).ok()?;
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    Some(thread)
}
