//! What a worker computes on a GPU, held against the same worker on the CPU. Where no GPU is visible
//! there is nothing to hold against it, and every test says so and passes.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ringmaster_proto::RunSpec;
use ringmaster_worker::DeviceChoice;
use ringmaster_worker::step_bench::{StepBench, Stepped};

/// Of a loss: products are rounded to bf16 in other places.
const LOSS: f64 = 2e-3;

/// Of a gradient's norm.
const NORM: f64 = 2e-2;

const STEPS: usize = 3;

/// Every kernel has a part in one of these.
const MODELS: [&[&str]; 6] = [
    &[],
    &["image_encoder=resnet50-c4"],
    &["image_encoder=vit", "activation=gelu", "text_stack=t5"],
    &["resample=spatial", "token_learner=v11"],
    &["fusion=concat", "width=192", "heads=3"],
    &["fusion=cotok", "combine=residual"],
];

fn spec(model: &[&str], more: &[&str]) -> RunSpec {
    let model = model.iter().map(|choice| format!("model.{choice}"));
    let usual = [
        "train.precision=bf16",
        "data.lanes=2",
        "data.lane_batch=6",
        "model.preset=tiny",
    ];
    let sets: Vec<String> = usual.iter().chain(more).map(ToString::to_string).collect();
    RunSpec::parse("", &sets.into_iter().chain(model).collect::<Vec<_>>()).unwrap()
}

/// Some steps and the digest after them.
fn train(spec: RunSpec, device: DeviceChoice) -> (Vec<Stepped>, String) {
    let mut bench = StepBench::new(spec, device).unwrap();
    let steps = (0..STEPS).map(|_| bench.step().unwrap()).collect();
    (steps, bench.digest().unwrap())
}

fn gpu() -> Option<DeviceChoice> {
    let visible = DeviceChoice::visible_cuda().unwrap_or(0);
    if visible == 0 {
        eprintln!("no CUDA device is visible: nothing is tested");
    }
    (visible > 0).then_some(DeviceChoice::Cuda(0))
}

#[test]
fn a_gpu_trains_as_the_cpu_does_within_the_rounding_of_bf16() {
    let Some(gpu) = gpu() else { return };
    for model in MODELS {
        let (ours, _) = train(spec(model, &[]), gpu);
        let (theirs, _) = train(spec(model, &[]), DeviceChoice::Cpu);
        for (step, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            let differ = |a: f64, b: f64| (a - b).abs() / b.abs();
            let (loss, norm) = (differ(a.loss, b.loss), differ(a.grad_norm, b.grad_norm));
            assert!(
                loss < LOSS && norm < NORM,
                "{model:?}, step {step}: loss {} and {}, norm {} and {}",
                a.loss,
                b.loss,
                a.grad_norm,
                b.grad_norm
            );
        }
    }
}

#[test]
fn a_gpu_computes_the_same_bits_every_time() {
    let Some(gpu) = gpu() else { return };
    for model in MODELS {
        for more in [
            &["train.reduction=exact"][..],
            &["train.activation_checkpointing=true", "train.dropout=0.1"],
        ] {
            let (_, first) = train(spec(model, more), gpu);
            let (_, second) = train(spec(model, more), gpu);
            assert_eq!(first, second, "{model:?} {more:?}");
        }
    }
}
