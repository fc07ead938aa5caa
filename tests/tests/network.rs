//! Hosts that do not reach each other, and links that lose packets: real processes in network
//! namespaces of their own. The oracle is the same run on one worker, undisturbed.
//!
//! Skipped, with a word, where the machine allows no network namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::OnceLock;

use ringmaster_proto::v1::RunStatus;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_tests::hosts::{Hosts, address};
use ringmaster_tests::process::Process;
use ringmaster_tests::sandbox::{self, End, SMALL, Sandbox};
use ringmaster_tests::watch::Watch;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// Long enough for whatever happens at step 40 to be over before the end.
const STEPS: &str = "run.steps=600";

/// Of the coordinator; the workers follow.
const COORDINATOR: usize = 0;

fn undisturbed() -> &'static End {
    static RUN: OnceLock<End> = OnceLock::new();
    let train = [
        "train",
        "run.toml",
        "--workers",
        "1",
        "--set",
        STEPS,
        "--output",
        "json",
    ];
    RUN.get_or_init(|| sandbox::undisturbed(RINGMASTER, train))
}

/// A coordinator and three workers, each on a host of its own.
struct Cluster<'a> {
    hosts: &'a Hosts,
    watch: Watch,
}

/// Runs a cluster to its end while `disturb` does what it does, and expects the undisturbed run's.
/// Returns how many generations completed steps.
fn assert_unharmed_by(disturb: impl Fn(&Cluster<'_>) + Sync) -> Option<usize> {
    let hosts = Hosts::new(4)?;
    let expected = undisturbed();
    let sandbox = Sandbox::new(RINGMASTER);
    let folder = sandbox.run_folder(SMALL);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("token"), "5a".repeat(32)).unwrap();
    let path = |name: &str| format!("ringmaster-runs/{SMALL}/{name}");
    let on = |host: usize, args: &[&str]| {
        let ip = address(host).to_string();
        let mut all = args.to_vec();
        let token = path("token");
        all.extend(["--token-file", &token]);
        all.extend([
            if host == COORDINATOR {
                "--bind"
            } else {
                "--ring-bind"
            },
            &ip,
        ]);
        sandbox.start_as(hosts.on(host, sandbox.command()), all)
    };
    let (endpoint, metrics) = (path("endpoint.json"), path("metrics.jsonl"));
    let mut coordinator = on(
        COORDINATOR,
        &[
            "coordinator",
            "run.toml",
            "--set",
            STEPS,
            "--set",
            "train.transport=tcp",
            "--set",
            "membership.min_workers=2",
            "--set",
            "membership.max_workers=3",
            "--endpoint-file",
            &endpoint,
            "--metrics-file",
            &metrics,
        ],
    );
    let workers: Vec<Process> = hosts.inside(COORDINATOR, || {
        let watch = Watch::open(&mut coordinator, &folder);
        let start = |host: usize| {
            let name = format!("w{host}");
            on(
                host,
                &["worker", "--coordinator", watch.address(), "--name", &name],
            )
        };
        let workers = (1..4).map(start).collect();
        let cluster = Cluster {
            hosts: &hosts,
            watch,
        };
        cluster.wait_until("three train", |status| {
            ranked(status) == 3 && status.step >= 40
        });
        disturb(&cluster);
        workers
    });
    let end = coordinator.finish().succeeded();
    for worker in workers {
        worker.finish();
    }
    assert_eq!(&(end.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
    Some(sandbox.generations(SMALL).len())
}

fn ranked(status: &RunStatus) -> usize {
    let ranked = status
        .workers
        .iter()
        .filter(|worker| worker.state == "ranked");
    ranked.count()
}

impl Cluster<'_> {
    fn wait_until(&self, what: &str, is_it: impl Fn(&RunStatus) -> bool) {
        self.watch.wait_for(what, |event| match event {
            Event::Status(status) => status.phase == "training" && is_it(status),
            _ => false,
        });
    }
}

#[test]
fn a_host_that_is_cut_off_is_left_out_and_joins_again_and_no_bit_changes() {
    let generations = assert_unharmed_by(|cluster| {
        cluster.hosts.cut_off(2);
        cluster.wait_until("two to train on", |status| {
            status.generation > 1 && ranked(status) == 2
        });
        cluster.hosts.join(2);
        cluster.wait_until("it to be back", |status| ranked(status) == 3);
    });
    assert!(generations.is_none_or(|generations| generations >= 3));
}

#[test]
fn links_that_lose_packets_cost_time_and_no_bit() {
    assert_unharmed_by(|cluster| {
        for host in 0..4 {
            cluster.hosts.lose_packets(host, "200mbit");
        }
        cluster.wait_until("steps in spite of it", |status| status.step >= 60);
        for host in 0..4 {
            cluster.hosts.lose_no_packets(host);
        }
    });
}
