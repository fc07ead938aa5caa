//! MODEL.md is enough to rebuild the model: `rebuild.py`, which is numpy and knows an exported folder
//! alone, computes the same logits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{Device, Tensor, TensorData};
use ringmaster_model::{Batch, Model, Ops, flat};
use ringmaster_proto::RunSpec;
use ringmaster_proto::spec::ModelSpec;
use ringmaster_proto::vocab::BEGIN;
use safetensors::tensor::{Dtype, TensorView};

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

const BATCH: usize = 3;
const TEXT: usize = 6;
const TARGET: usize = 5;

/// Small sizes that differ from each other.
const SMALL: [&str; 19] = [
    "image_size=32",
    "image_width=20",
    "image_heads=2",
    "image_layers=2",
    "image_mlp_width=28",
    "text_width=28",
    "text_heads=4",
    "text_layers=2",
    "text_mlp_width=36",
    "decoder_layers=2",
    "width=24",
    "heads=3",
    "mlp_width=32",
    "fusion_mlp_width=40",
    "tokens=5",
    "fusion_layers=4",
    "vocab=300",
    "text_len=8",
    "target_len=7",
];

/// The demonstration as it is, and then every choice once.
const VARIANTS: [&[&str]; 20] = [
    &[],
    &["fusion=concat"],
    &["fusion=xattn", "text_stack=t5"],
    &["fusion=perceiver"],
    &["fusion=perceiver", "share_fusion=true", "share_layers=true"],
    &["fusion=cotok"],
    &["fusion=cotok", "token_learner=v1"],
    &["fusion=cotok", "token_learner=v11", "share_fusion=true"],
    &["resample=spatial"],
    &["resample=spatial", "token_learner=v1", "activation=gelu"],
    &["resample=spatial", "token_learner=v11"],
    &["gating=false"],
    &["combine=none"],
    &["combine=residual", "memory=last"],
    &["skip=T", "kv_norm=false", "fuse_self_attn=true"],
    &["memory=mixture", "share_fusion=true", "share_layers=true"],
    &["text_stack=t5", "activation=gelu"],
    &["image_encoder=vit", "patch=4"],
    &["image_encoder=resnet50-c4", "image_size=40"],
    &["width=28", "heads=4"],
];

#[test]
fn numpy_computes_the_same_logits_from_an_export() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let python = match environment(&cache.join("rebuild-venv")) {
        Ok(python) => python,
        Err(reason) => {
            // Straight to stderr: the test harness hides what a passing test prints.
            let line = format!("skipped: rebuilding the model needs Python with numpy: {reason}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
    };
    assert_rebuilt(&python, &[]);
    for variant in VARIANTS {
        let sets: Vec<&str> = SMALL.iter().chain(variant).copied().collect();
        assert_rebuilt(&python, &sets);
    }
}

fn assert_rebuilt(python: &Path, sets: &[&str]) {
    let sets: Vec<String> = sets.iter().map(|set| format!("model.{set}")).collect();
    let spec = RunSpec::parse("", &sets).unwrap().model;
    let folder = tempfile::tempdir().unwrap();
    let case = folder.path().join("case.safetensors");
    write_case(&spec, folder.path(), &case);
    let script = Path::new(FOLDER).join("rebuild.py");
    let mut command = Command::new(python);
    let output = run(command.arg(script).arg(folder.path()).arg(&case));
    let difference = output.unwrap_or_else(|error| panic!("{sets:?}: {error}"));
    let difference: f64 = difference.trim().parse().unwrap();
    assert!(difference < 1e-4, "{sets:?}: {difference}");
}

/// An export of a model in which no parameter has a special value, a batch, and its logits.
fn write_case(spec: &ModelSpec, folder: &Path, case: &Path) {
    let device = Device::flex();
    let model = Model::new(spec, 1, &device);
    let layout = flat::layout(&model);
    let drawn = flat::parameters(&model, &layout).into_iter().enumerate();
    let values: Vec<f32> = drawn.map(|(i, value)| value + 0.2 * wave(i)).collect();
    let model = flat::with_parameters(model, &layout, &values);

    let parameters = layout.slots.iter().map(|slot| {
        let bytes = bytes(&values[slot.offset..slot.offset + slot.len]);
        (slot.path.clone(), Dtype::F32, slot.shape.clone(), bytes)
    });
    write(&folder.join("model.safetensors"), parameters.collect());
    let config = serde_json::json!({ "model": spec });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();

    let side = spec.image_size;
    let images: Vec<f32> = (0..BATCH * 3 * side * side).map(wave).collect();
    let ids = |len: usize, step: usize| -> Vec<i64> {
        (0..BATCH * len)
            .map(|i| (10 + i * step % 280) as i64)
            .collect()
    };
    let text = ids(TEXT, 7);
    // The second text is padded by three tokens, the third by one.
    let real = |i: usize| !(TEXT + 3..2 * TEXT).contains(&i) && i != 3 * TEXT - 1;
    let real: Vec<bool> = (0..BATCH * TEXT).map(real).collect();
    let mut input = ids(TARGET, 11);
    input
        .iter_mut()
        .step_by(TARGET)
        .for_each(|id| *id = i64::from(BEGIN));

    let of_ids =
        |ids: &[i64], len| Tensor::from_data(TensorData::new(ids.to_vec(), [BATCH, len]), &device);
    let batch = Batch {
        images: Tensor::from_data(
            TensorData::new(images.clone(), [BATCH, 3, side, side]),
            &device,
        ),
        text: of_ids(&text, TEXT),
        text_mask: Tensor::from_data(TensorData::new(real.clone(), [BATCH, TEXT]), &device),
        input: of_ids(&input, TARGET),
        target: of_ids(&input, TARGET),
        weight: Tensor::ones([BATCH, TARGET], &device),
    };
    let logits = model.logits(batch, &Ops::inference()).into_data();
    let logits = bytes(logits.as_slice::<f32>().unwrap());
    let of = |ids: &[i64]| ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let real: Vec<i64> = real.into_iter().map(i64::from).collect();
    let tensors = vec![
        (
            "images".into(),
            Dtype::F32,
            vec![BATCH, 3, side, side],
            bytes(&images),
        ),
        ("text".into(), Dtype::I64, vec![BATCH, TEXT], of(&text)),
        ("real".into(), Dtype::I64, vec![BATCH, TEXT], of(&real)),
        ("input".into(), Dtype::I64, vec![BATCH, TARGET], of(&input)),
        (
            "logits".into(),
            Dtype::F32,
            vec![BATCH, TARGET, spec.vocab],
            logits,
        ),
    ];
    write(case, tensors);
}

/// Something between -1 and 1, unlike at every position.
fn wave(position: usize) -> f32 {
    (position as f32 * 0.7).sin()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn write(path: &Path, tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>) {
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            (
                name.as_str(),
                TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
            )
        })
        .collect();
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Python of a virtual environment with exactly the requirements.
fn environment(folder: &Path) -> Result<PathBuf, String> {
    let requirements = Path::new(FOLDER).join("requirements.txt");
    let wanted = std::fs::read(&requirements).map_err(|error| error.to_string())?;
    let python = folder.join("bin/python");
    // Written last, so an interrupted installation starts again.
    let installed = folder.join("installed-requirements.txt");
    if std::fs::read(&installed).is_ok_and(|there| there == wanted) {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(folder))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--requirement",
    ];
    run(Command::new(&python).args(pip).arg(&requirements))?;
    std::fs::write(installed, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

/// What a command prints; an error is the last line of what it complains.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(|error| error.to_string());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(complaint
        .lines()
        .last()
        .unwrap_or("it failed without a word")
        .to_owned())
}
