//! Properties of the run spec.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use ringmaster_proto::RunSpec;
use ringmaster_proto::spec::{Auto, Every};

fn parse(text: &str) -> Result<RunSpec, String> {
    RunSpec::parse(text, &[]).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_the_demonstration_run() {
    let spec = parse("").unwrap();
    assert_eq!(spec.run.name, "scenes");
    assert_eq!(spec.membership.max_workers, spec.data.lanes);
}

#[test]
fn an_unknown_key_is_named() {
    for (text, word) in [
        ("[train]\nlearning_rate = 1", "learning_rate"),
        ("[model]\ndepth = 3", "depth"),
        ("[trian]\nlr = 1", "trian"),
        ("[model]\npreset = \"huge\"", "huge"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn an_impossible_combination_names_its_key() {
    for (set, key) in [
        ("membership.max_workers=9", "membership.max_workers"),
        ("model.patch=7", "model.patch"),
        ("model.fusion_layers=3", "model.fusion_layers"),
        ("run.name=Bad Name", "run.name"),
        ("data.validation=1.5", "data.validation"),
        ("train.lr=-1", "train.lr"),
        ("checkpoint.every=0", "checkpoint.every"),
        ("checkpoint.keep_every=7", "checkpoint.keep_every"),
        ("data.augment.scale=[0.0, 1.0]", "data.augment.scale"),
        ("data.augment.scale=[0.5, 0.4]", "data.augment.scale"),
        ("data.augment.scale=[0.5, 1.1]", "data.augment.scale"),
        ("data.augment.scale=[nan, 1.0]", "data.augment.scale"),
        ("data.augment.ratio=[0.0, 1.0]", "data.augment.ratio"),
        ("data.augment.ratio=[1.0, inf]", "data.augment.ratio"),
        ("data.augment.flip=1.5", "data.augment.flip"),
    ] {
        let error = RunSpec::parse("", &[set.to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains(key), "{set}: {error}");
    }
}

#[test]
fn checkpoints_are_taken_every_so_many_steps_or_as_often_as_pays() {
    let every = |value: &str| {
        let set = [format!("checkpoint.every={value}")];
        RunSpec::parse("", &set)
            .map(|spec| spec.checkpoint.every)
            .map_err(|error| error.to_string())
    };
    assert_eq!(every("7"), Ok(Every::Steps(7)));
    assert_eq!(every("auto"), Ok(Every::Auto(Auto::Auto)));
    let error = every("sometimes").unwrap_err();
    assert!(error.contains("a number of steps, or \"auto\""), "{error}");
}

#[test]
fn an_override_without_a_section_is_refused() {
    let error = RunSpec::parse("", &["lr=1".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("section.key=value"), "{error}");
}

#[test]
fn a_resume_may_change_length_and_membership_but_not_bits() {
    let before = parse("").unwrap();
    let allowed = [
        "run.steps=7",
        "membership.max_workers=2",
        "checkpoint.every=9",
        "eval.rows=0",
        "train.overlap=false",
        "train.transport=tcp",
        "data.takeover=false",
        "data.cache={ path = \"/tmp/x\", bytes = 100_000_000 }",
    ];
    let refused = [
        "train.lr=0.1",
        "data.lanes=8",
        "data.augment.flip=0.5",
        "data.augment={ scale = [0.5, 1.0] }",
        "run.seed=2",
        "model.width=64",
    ];
    for (set, ok) in allowed
        .iter()
        .map(|s| (s, true))
        .chain(refused.iter().map(|s| (s, false)))
    {
        let after = RunSpec::parse("", &[(*set).to_owned()]).unwrap();
        let changes = before.changes(&after);
        assert!(!changes.is_empty(), "{set}");
        assert_eq!(
            changes.iter().all(|change| change.allowed),
            ok,
            "{set}: {changes:?}"
        );
        assert_eq!(before.identity_hash() == after.identity_hash(), ok, "{set}");
    }
}

proptest! {
    #[test]
    fn the_canonical_form_reads_back_equal(lr in 1e-6_f64..1.0, seed: u32, lanes in 1_u32..64) {
        let sets = [format!("train.lr={lr:e}"), format!("run.seed={seed}"), format!("data.lanes={lanes}")];
        let spec = RunSpec::parse("", &sets).unwrap();
        let back = RunSpec::parse(&spec.to_toml().unwrap(), &[]).unwrap();
        prop_assert_eq!(&back, &spec, "as a run file");
        let back = RunSpec::from_canonical(&spec.canonical()).unwrap();
        prop_assert_eq!(spec.hash(), back.hash());
        prop_assert_eq!(back, spec);
    }
}
