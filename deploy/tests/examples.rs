//! The example run files are what they say.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ringmaster_model::cost;
use ringmaster_proto::RunSpec;

/// What each file of `examples/ablations` changes of `base.toml`: a key of `[model]` and its value.
const ABLATIONS: [(&str, &[(&str, &str)]); 16] = [
    ("base", &[]),
    ("combine-none", &[("combine", "\"none\"")]),
    ("combine-residual", &[("combine", "\"residual\"")]),
    (
        "fusion-concat",
        &[("fusion", "\"concat\""), ("fusion_layers", "16")],
    ),
    ("fusion-cotok", &[("fusion", "\"cotok\"")]),
    ("fusion-perceiver", &[("fusion", "\"perceiver\"")]),
    ("iterations-1", &[("iterations", "1")]),
    ("iterations-2", &[("iterations", "2")]),
    ("iterations-8", &[("iterations", "8")]),
    ("layers-16", &[("fusion_layers", "16")]),
    ("layers-8", &[("fusion_layers", "8")]),
    ("no-gating", &[("gating", "false")]),
    ("resample-spatial", &[("resample", "\"spatial\"")]),
    ("tokens-128", &[("tokens", "128")]),
    ("tokens-16", &[("tokens", "16")]),
    ("tokens-32", &[("tokens", "32")]),
];

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn parse(name: &str) -> RunSpec {
    let path = examples().join(format!("{name}.toml"));
    RunSpec::parse(&fs::read_to_string(path).unwrap(), &[]).expect(name)
}

/// Names of the run files in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let runs = files.filter(|path| path.extension().is_some_and(|name| name == "toml"));
    runs.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn scenes_toml_is_the_built_in_run_spelled_out() {
    let spelled_out = parse("scenes");
    let built_in = RunSpec::parse("", &[]).unwrap();
    assert_eq!(built_in.changes(&spelled_out), []);
}

#[test]
fn pre_training_is_the_recipe() {
    let spec = parse("pretrain-40m");
    assert_eq!((spec.global_batch(), spec.run.steps), (512, Some(300_000)));
    assert_eq!(spec.model.image_size, 224);
    assert_eq!((spec.train.lr, spec.train.weight_decay), (3e-4, 0.05));
    assert_eq!(spec.train.warmup_steps, 8_000);
    assert_eq!(spec.data.sources.len(), 9);
}

#[test]
fn fine_tuning_goes_on_from_pre_training() {
    let before = parse("pretrain-40m");
    let root = format!("{}/{}", before.run.store, before.run.name);
    for (name, objective) in [
        ("finetune-vqa2", "tasks.question_answering"),
        ("finetune-gqa", "tasks.question_answering"),
        ("finetune-snli-ve", "tasks.entailment"),
    ] {
        let spec = parse(name);
        assert_eq!(spec.init.from.as_deref(), Some(root.as_str()), "{name}");
        let tokenizer = format!("{root}/{}", ringmaster_proto::keys::TOKENIZER);
        assert_eq!(spec.data.tokenizer, Some(tokenizer), "{name}");
        assert_eq!((spec.global_batch(), spec.run.steps), (128, Some(100_000)));
        assert_eq!((spec.train.dropout, spec.train.label_smoothing), (0.1, 0.1));
        assert_eq!(spec.train.lr, 5e-5);
        let weights = spec.tasks.weights().into_iter();
        let trained: Vec<&str> = weights
            .filter(|(_, w)| *w > 0.0)
            .map(|(key, _)| key)
            .collect();
        assert_eq!(trained, [objective], "{name}");
        // The same model but for the size of its pictures.
        let changes = before.changes(&spec).into_iter();
        let of_model: Vec<String> = changes
            .map(|change| change.key)
            .filter(|key| key.starts_with("model."))
            .collect();
        assert_eq!(of_model, ["model.image_size", "model.preset"], "{name}");
    }
}

#[test]
fn every_ablation_changes_the_keys_of_its_row_and_nothing_else() {
    let listed: BTreeSet<String> = ABLATIONS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(names(&examples().join("ablations")), listed);
    let base = parse("ablations/base");
    for (name, changed) in ABLATIONS {
        let spec = parse(&format!("ablations/{name}"));
        assert_eq!(spec.run.name, format!("ablation-{name}"));
        let changes = base.changes(&spec).into_iter();
        let mut found: BTreeMap<String, String> =
            changes.map(|change| (change.key, change.after)).collect();
        found.remove("run.name");
        let expected = changed
            .iter()
            .map(|(key, value)| (format!("model.{key}"), (*value).to_owned()));
        assert_eq!(found, expected.collect(), "{name}");
    }
}

#[test]
fn the_base_of_the_ablations_is_pre_training_at_a_third_of_its_length() {
    let (whole, third) = (parse("pretrain-40m"), parse("ablations/base"));
    assert_eq!(whole.run.steps, third.run.steps.map(|steps| 3 * steps));
    assert_eq!(whole.model, third.model);
    assert_eq!(whole.data, third.data);
    let changes = whole.changes(&third).into_iter();
    let of_training: Vec<String> = changes
        .map(|change| change.key)
        .filter(|key| key.starts_with("train.") || key.starts_with("tasks."))
        .collect();
    // Scaled by hand there, and by the length of the run here.
    let scaled = [
        "tasks.reference_batches",
        "tasks.update_every",
        "train.warmup_steps",
    ];
    assert_eq!(of_training, scaled);
}

/// Builds the model of every file by its shapes, one at a time, and compares its size with the
/// analytic figures of the paper's table rows.
#[test]
fn every_model_has_the_size_of_its_row() {
    // GFLOPs at 8 answer tokens, a multiply-accumulate being two, as computed by hand from the
    // layers' formulas; the paper's own are within 11 % of them.
    let rows = [
        ("pretrain-40m", 39.8),
        ("finetune-gqa", 54.1),
        ("ablations/base", 39.8),
        ("ablations/combine-none", 39.8),
        ("ablations/combine-residual", 39.8),
        ("ablations/fusion-concat", 58.0),
        ("ablations/fusion-cotok", 43.8),
        ("ablations/fusion-perceiver", 40.5),
        ("ablations/iterations-1", 37.1),
        ("ablations/iterations-2", 38.0),
        ("ablations/iterations-8", 43.5),
        ("ablations/layers-16", 28.4),
        ("ablations/layers-8", 22.6),
        ("ablations/no-gating", 39.8),
        ("ablations/resample-spatial", 41.0),
        ("ablations/tokens-128", 69.1),
        ("ablations/tokens-16", 18.5),
        ("ablations/tokens-32", 25.6),
    ];
    for (name, gflops) in rows {
        let counted = cost(&parse(name).model, 32, 8);
        let found = 2.0 * counted.macs() as f64 / 1e9;
        assert!((found / gflops - 1.0).abs() < 0.01, "{name}: {found}");
    }
}
