//! From files to the parameters that a worker starts from.
#![allow(clippy::unwrap_used)]

mod maps;

use std::path::Path;

use ringmaster_proto::checkpoint::{FORMAT_VERSION, Part};
use ringmaster_proto::{ErrorKind, Generation, Step};
use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::checkpoint::{Cut, Place};
use crate::export::{Weights, export};
use crate::optimizer::State;

/// A small run with `sets` on top.
fn spec(sets: &[&str]) -> RunSpec {
    let small = [
        "run.name=t",
        "run.steps=10",
        "model.image_size=16",
        "model.image_width=8",
        "model.image_heads=2",
        "model.image_layers=1",
        "model.text_width=8",
        "model.text_heads=2",
        "model.text_layers=1",
        "model.decoder_layers=1",
        "model.width=8",
        "model.heads=2",
        "model.tokens=3",
        "model.iterations=1",
        "model.fusion_layers=1",
        "model.mlp_width=16",
        "model.image_mlp_width=16",
        "model.text_mlp_width=16",
        "model.fusion_mlp_width=16",
        "model.vocab=300",
    ];
    let sets: Vec<String> = small.iter().chain(sets).map(ToString::to_string).collect();
    RunSpec::parse("", &sets).unwrap()
}

/// Another file or folder for `init.from`.
fn from(path: &Path) -> String {
    format!("init.from={:?}", path.to_str().unwrap())
}

fn store(folder: &Path) -> Store {
    Store::open(folder.to_str().unwrap()).unwrap()
}

/// Parameters unlike any that are drawn, each bit pattern as plain as the last.
fn trained(layout: &Layout) -> Vec<f32> {
    let value = |i: usize| (i as f32 + 0.5) * if i.is_multiple_of(2) { 1e-3 } else { -1e-3 };
    (0..layout.total).map(value).collect()
}

/// A run below `root` that has reached the state of [`trained`].
async fn run(root: &Store, spec: &RunSpec) -> TrainedRun {
    let layout = layout(&spec.model).unwrap();
    let mut state = State::blank(layout.total);
    (state.parameters, state.step) = (trained(&layout), 7);
    run_at(root, spec, state).await
}

/// A run below `root` that has reached `state`.
async fn run_at(root: &Store, spec: &RunSpec, state: State) -> TrainedRun {
    let layout = layout(&spec.model).unwrap();
    let digest = state.digest(&layout);
    let mut parts = Vec::new();
    for part in 0..2 {
        let place = Place {
            generation: Generation(1),
            part,
            parts: 2,
        };
        let cut = Cut::of(place, &state, digest.clone(), &layout);
        let (written, stored) = cut.encode().unwrap();
        root.put(&written.key, stored).await.unwrap();
        let (key, bytes, blake3) = (written.key, written.bytes, written.blake3);
        parts.push(Part { key, bytes, blake3 });
    }
    root.put(keys::TOKENIZER, Bytes::from_static(b"{}"))
        .await
        .unwrap();
    TrainedRun {
        root: root.clone(),
        model: spec.model.clone(),
        manifest: CheckpointManifest {
            format_version: FORMAT_VERSION,
            run: spec.run.name.clone(),
            identity: spec.identity_hash(),
            generation: Generation(1),
            step: Step(state.step),
            digest,
            parts,
        },
    }
}

/// What a worker of the run `spec` starts from.
async fn loaded(spec: &RunSpec, root: &Store, initial: &Initial) -> Vec<f32> {
    let layout = layout(&spec.model).unwrap();
    load(root, &initial.hash, &layout).await.unwrap()
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[tokio::test]
async fn a_run_its_export_and_its_file_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let old = store(&folder.path().join("old"));
    let trained_spec = spec(&[]);
    let old_run = run(&old, &trained_spec).await;
    let out = folder.path().join("out");
    let weights = Weights::Parameters;
    let export = async || {
        let out = store(&out);
        export(&trained_spec, &old, &old_run.manifest, weights, &out).await
    };
    let config = export().await.unwrap();
    let expected = trained(&layout(&trained_spec.model).unwrap());
    assert_eq!(config.parameters, expected.len());

    let sources = [
        (folder.path().join("old"), Some(old_run.clone())),
        (out.clone(), None),
        (out.join(MODEL_FILE), None),
    ];
    for (number, (path, old_run)) in sources.into_iter().enumerate() {
        let new = spec(&["run.seed=99", &from(&path)]);
        let root = store(&folder.path().join(format!("new-{number}")));
        assert_eq!(stored(&new, &root).await.unwrap(), None);
        let initial = make(&new, &root, old_run).await.unwrap();
        assert!(initial.account.seeded.is_empty());
        assert!(initial.account.sources[0].unused.is_empty());
        assert!(same_bits(&loaded(&new, &root, &initial).await, &expected));
        // It is known from now on, though what it was made of may go.
        assert_eq!(stored(&new, &root).await.unwrap(), Some(initial));
        let other = spec(&["run.seed=98", &from(&path)]);
        assert_eq!(stored(&other, &root).await.unwrap(), None);
    }
    let refusal = export().await.unwrap_err().to_string();
    assert!(refusal.contains("choose another folder"), "{refusal}");
}

#[tokio::test]
async fn a_moving_average_is_what_a_run_gives_on_and_may_be_exported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old");
    let (old, spec_of_old) = (store(&path), spec(&["train.ema=0.5"]));
    let layout = layout(&spec_of_old.model).unwrap();
    let mut state = State::blank(layout.total);
    let average: Vec<f32> = (0..layout.total).map(|i| 1.0 / (i as f32 + 1.0)).collect();
    (state.parameters, state.ema) = (trained(&layout), Some(average.clone()));
    let old_run = run_at(&old, &spec_of_old, state).await;
    for (weights, expected) in [
        (Weights::Parameters, &trained(&layout)),
        (Weights::Ema, &average),
    ] {
        let out = store(&folder.path().join(format!("{weights:?}")));
        let manifest = &old_run.manifest;
        let config = export(&spec_of_old, &old, manifest, weights, &out).await;
        assert_eq!(config.unwrap().weights, weights);
        let file = out.get(MODEL_FILE).await.unwrap();
        assert!(same_bits(
            &parameters::decode(&file, &layout).unwrap(),
            expected
        ));
    }
    let (new, root) = (spec(&[&from(&path)]), store(&folder.path().join("new")));
    let initial = make(&new, &root, Some(old_run)).await.unwrap();
    assert!(same_bits(&loaded(&new, &root, &initial).await, &average));

    let plain = store(&folder.path().join("plain"));
    let manifest = run(&plain, &new).await.manifest;
    let out = store(&folder.path().join("none"));
    let refusal = export(&new, &plain, &manifest, Weights::Ema, &out).await;
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("no moving average"), "{refusal}");
}

#[tokio::test]
async fn another_image_size_interpolates_and_another_depth_keeps_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let old = store(&folder.path().join("old"));
    let old_run = run(&old, &spec(&[])).await;
    let path = folder.path().join("old");
    let new = spec(&["model.image_size=32", "model.text_layers=2", &from(&path)]);
    let root = store(&folder.path().join("new"));
    let initial = make(&new, &root, Some(old_run)).await.unwrap();
    let account = &initial.account;
    assert_eq!(account.sources[0].interpolated.len(), 2, "{account:?}");
    assert!(
        account.sources[0]
            .interpolated
            .iter()
            .all(|line| line.ends_with("2x2 to 4x4"))
    );
    assert!(!account.seeded.is_empty());
    assert!(
        account
            .seeded
            .iter()
            .all(|path| path.starts_with("text_encoder.layers.1."))
    );

    let layout = layout(&new.model).unwrap();
    let values = loaded(&new, &root, &initial).await;
    let device = DeviceChoice::Cpu.resolve().unwrap();
    let seeded = Model::new(&new.model, new.run.seed, &device);
    let seeded = flat::parameters(&seeded, &layout);
    for slot in layout
        .slots
        .iter()
        .filter(|slot| account.seeded.contains(&slot.path))
    {
        let range = slot.offset..slot.offset + slot.len;
        assert!(
            same_bits(&values[range.clone()], &seeded[range]),
            "{}",
            slot.path
        );
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(&folder.path().join("new"));
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let head = [("head.weight".to_owned(), vec![2, 2])];
    let foreign = write("foreign.safetensors", &file(&head));
    let broken = write("broken.safetensors", b"not a tensor in sight");
    let nowhere = folder.path().join("nowhere");
    let weights = |path: &Path, map: &str| {
        let path = path.to_str().unwrap();
        format!("init.weights=[{{ url = {path:?}, map = {map:?} }}]")
    };
    let cases = [
        (from(&foreign), "init.weights, with a map"),
        (from(&broken), "broken.safetensors"),
        (
            from(&nowhere),
            "neither a run with a checkpoint nor an exported model",
        ),
        (
            weights(&foreign, "t5"),
            "none of its 1 tensors (head.weight",
        ),
        (
            weights(&foreign, "bert"),
            "built-in maps are t5, vit, resnet50",
        ),
        (weights(&nowhere, "t5"), "does not exist"),
    ];
    for (set, words) in cases {
        let error = make(&spec(&[&set]), &root, None).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words) && !text.contains('\n'), "{text}");
        assert!(
            matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Data),
            "{text}"
        );
    }
    let wide = spec(&["model.text_mlp_width=32"]);
    let old_run = run(&store(&folder.path().join("wide")), &wide).await;
    let new = spec(&[&from(&folder.path().join("wide"))]);
    let text = make(&new, &root, Some(old_run))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("[8, 32]") && text.contains("[8, 16]"),
        "{text}"
    );
}

/// A safetensors file; each value of a tensor is [`value`] of its name and position.
fn file(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product()).map(|i| value(name, i));
            values.flat_map(f32::to_le_bytes).collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// Unlike for every name and position.
fn value(name: &str, position: usize) -> f32 {
    let hash = blake3::hash(format!("{name} {position}").as_bytes());
    f32::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) / 4096.0
}
