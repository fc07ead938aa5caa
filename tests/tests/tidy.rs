//! The rules of this repository, checked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::Table;

/// A file anybody can hold in their head.
const LINES_MAX: usize = 500;

/// Where each package lies.
const PACKAGES: [(&str, &str); 10] = [
    ("ringmaster-proto", "proto"),
    ("ringmaster-dataset", "dataset"),
    ("ringmaster-coordinator", "coordinator"),
    ("ringmaster-worker", "worker"),
    ("ringmaster-agent", "worker/agent"),
    ("ringmaster-model", "worker/model"),
    ("ringmaster-ring", "worker/ring"),
    ("ringmaster", "deploy"),
    ("ringmaster-tests", "tests"),
    ("ringmaster-simulation", "tests/simulation"),
];

/// Which packages of ours each may depend on. `deploy` and `tests` may depend on all.
const MAY_DEPEND_ON: [(&str, &[&str]); 8] = [
    ("ringmaster-proto", &[]),
    ("ringmaster-ring", &[]),
    ("ringmaster-agent", &["ringmaster-proto"]),
    ("ringmaster-model", &["ringmaster-proto"]),
    ("ringmaster-dataset", &["ringmaster-proto"]),
    (
        "ringmaster-coordinator",
        &["ringmaster-proto", "ringmaster-dataset"],
    ),
    (
        "ringmaster-worker",
        &[
            "ringmaster-proto",
            "ringmaster-dataset",
            "ringmaster-agent",
            "ringmaster-model",
            "ringmaster-ring",
        ],
    ),
    (
        "ringmaster-simulation",
        &[
            "ringmaster-proto",
            "ringmaster-dataset",
            "ringmaster-coordinator",
            "ringmaster-agent",
        ],
    ),
];

/// Who alone may use a library.
const ONLY_IN: [(&str, &[&str]); 9] = [
    ("burn", &["ringmaster-model", "ringmaster-worker"]),
    ("cubecl", &["ringmaster-model"]),
    ("cudarc", &["ringmaster-ring"]),
    ("kube", &["ringmaster"]),
    ("k8s-openapi", &["ringmaster"]),
    ("clap", &["ringmaster", "ringmaster-simulation"]),
    ("anyhow", &["ringmaster"]),
    ("parquet", &["ringmaster-dataset"]),
    ("tokenizers", &["ringmaster-dataset"]),
];

/// The ring is plain blocking code below every other part.
const NOT_IN_THE_RING: [&str; 4] = ["burn", "tonic", "tokio", "axum"];

/// Files that decide: no runtime, no wire, no clock. Time and seeds are arguments.
const PURE: [&str; 11] = [
    "coordinator/src/run",
    "dataset/src/plan",
    "dataset/src/assign",
    "worker/agent/src/agent",
    "worker/agent/src/reports",
    "worker/ring/src/topology",
    "worker/ring/src/nccl/layout",
    "worker/src/engine/buckets",
    "worker/src/objective",
    "worker/src/sampling",
    "deploy/src/kubernetes/render",
];
const IMPURE_WORDS: [&str; 6] = [
    "tokio::",
    "tonic::",
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::env",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Path below the repository's root, for messages and for ARCHITECTURE.md.
fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// Every Rust file of our packages.
fn sources() -> Vec<(String, String)> {
    let mut folders: Vec<PathBuf> = PACKAGES
        .iter()
        .map(|(_, folder)| root().join(folder))
        .collect();
    let mut files = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.insert(name(&path), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    files.into_iter().collect()
}

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// Packages named in a manifest's `[dependencies]`.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let table = manifest["dependencies"].as_table().unwrap();
    table.keys().cloned().collect()
}

#[track_caller]
fn assert_none(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}:\n{}", offenders.join("\n"));
}

#[test]
fn every_file_is_short() {
    let long = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > LINES_MAX);
    assert_none(
        "over 500 lines",
        long.map(|(path, lines)| format!("{path}: {lines}"))
            .collect(),
    );
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "));
    assert_none(
        "no //! line at the top",
        silent.map(|(path, _)| path).collect(),
    );
}

#[test]
fn nothing_is_left_unfinished() {
    // Written in two parts, so that this file passes too.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("#[", "ignore"),
    ];
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    assert_none("unfinished work", found);
}

#[test]
fn packages_of_ours_depend_in_one_direction() {
    let folders = BTreeMap::from(PACKAGES);
    for (package, allowed) in MAY_DEPEND_ON {
        let ours = dependencies(folders[package]);
        let ours = ours
            .into_iter()
            .filter(|name| name.starts_with("ringmaster"));
        let wrong = ours
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert_none(&format!("{package} may not depend on"), wrong);
    }
}

#[test]
fn libraries_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (package, folder) in PACKAGES {
        let uses = dependencies(folder);
        for (library, homes) in ONLY_IN {
            if uses.contains(library) && !homes.contains(&package) {
                wrong.push(format!("{package} uses {library}"));
            }
        }
    }
    let ring = dependencies("worker/ring");
    wrong.extend(
        NOT_IN_THE_RING
            .iter()
            .filter(|name| ring.contains(**name))
            .map(|name| format!("the ring uses {name}")),
    );
    assert_none("libraries out of place", wrong);
}

#[test]
fn every_package_obeys_the_lints_of_the_workspace() {
    let obeys = |folder: &str| manifest(folder)["lints"]["workspace"].as_bool() == Some(true);
    let wrong = PACKAGES.iter().filter(|(_, folder)| !obeys(folder));
    assert_none(
        "no `[lints] workspace = true`",
        wrong.map(|(name, _)| (*name).into()).collect(),
    );
}

#[test]
fn what_decides_is_pure() {
    let sources = sources();
    let mut wrong = Vec::new();
    for pure in PURE {
        let (file, folder) = (format!("{pure}.rs"), format!("{pure}/"));
        let files: Vec<_> = sources
            .iter()
            .filter(|(path, _)| *path == file || path.starts_with(&folder))
            .collect();
        assert!(
            !files.is_empty(),
            "{pure} has moved: say here where the deciding file is now"
        );
        for (path, text) in files {
            let words = IMPURE_WORDS.iter().filter(|word| text.contains(**word));
            wrong.extend(words.map(|word| format!("{path} names {word}")));
        }
    }
    assert_none("deciding files with effects", wrong);
}

#[test]
fn the_map_names_every_module() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let modules = sources()
        .into_iter()
        .filter(|(path, _)| path.contains("src/"));
    let modules = modules.filter(|(path, _)| !path.contains("/tests"));
    let missing = modules.filter(|(path, _)| !map.contains(&format!("`{path}`")));
    // Lines to paste, from the first sentence of each module.
    let line = |(path, text): (String, String)| {
        let about = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("//! ")
            .to_owned();
        format!("- `{path}` {about}")
    };
    assert_none("missing in ARCHITECTURE.md", missing.map(line).collect());
}

#[test]
fn the_map_names_nothing_else() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let named = map
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.ends_with(".rs"));
    let gone = named.filter(|name| name.contains('/') && !root().join(name).exists());
    assert_none(
        "in ARCHITECTURE.md but not there",
        gone.map(str::to_owned).collect(),
    );
}

/// `cargo run` and then `cargo test` compile each dependency once: of the packages that the command
/// needs, the tests ask for no other features.
#[test]
fn the_tests_compile_no_dependency_of_the_command_again() {
    let command = packages_with_features(&["--edges", "normal,build"]);
    let tests = packages_with_features(&["--edges", "normal,build,dev", "--workspace"]);
    let mut again = Vec::new();
    for (package, features) in &command {
        let ours = package.starts_with("ringmaster");
        for other in tests.get(package).into_iter().flatten() {
            if !ours && !features.contains(other) {
                again.push(format!("{package}: {other}, the command has {features:?}"));
            }
        }
    }
    assert_none(
        "other features in the test build (widen them in Cargo.toml)",
        again,
    );
}

/// The feature sets in which each package is built.
fn packages_with_features(options: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let format = [
        "tree",
        "--offline",
        "--locked",
        "--prefix",
        "none",
        "--format",
        "{p}|{f}",
    ];
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo
        .args(format)
        .args(options)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut packages = BTreeMap::<String, BTreeSet<String>>::new();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.trim_end_matches(" (*)").split_once('|'));
    for (package, features) in lines {
        packages
            .entry(package.into())
            .or_default()
            .insert(features.into());
    }
    packages
}
