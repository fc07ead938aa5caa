//! The numeric fingerprint: workers with equal fingerprints compute equal bits.
//!
//! Bits depend on the backend, its version, the SIMD level or GPU model, and on kernel choices that
//! no version number tells. So besides names the fingerprint holds a probe: one forward and backward
//! pass of the real model on fixed input, and one decoded picture, hashed.

use burn::tensor::Device;
use ringmaster_dataset::decode::Decoder;
use ringmaster_model::flat::{self, Layout};
use ringmaster_model::{Model, Ops};
use ringmaster_proto::spec::{ModelSpec, Precision};
use ringmaster_proto::vocab::RESERVED;

use crate::feeder::{MicroBatch, images};
use crate::objective::{Lens, Tokens};
use crate::{WorkerError, batch, engine};

/// A small photograph-like JPEG; decoders round differently on different machines.
const PICTURE: &[u8] = include_bytes!("../fixtures/probe.jpg");

/// Rows of the probe's microbatch.
const ROWS: usize = 2;

/// Probes `model` on `device`.
pub(crate) fn probe(
    model: &Model,
    layout: &Layout,
    spec: &ModelSpec,
    precision: Precision,
    device: &Device,
) -> Result<String, WorkerError> {
    let pixels = Decoder::new(spec.image_size)
        .decode(PICTURE)
        .map_err(|error| WorkerError::Internal(format!("the probe's picture: {error}")))?;
    let lens = Lens::of(spec);
    let mut tokens = Tokens::default();
    for row in 0..ROWS as u32 {
        let ids = |n: u32| -> Vec<u32> { (0..n).map(|i| RESERVED + (i * 7 + row) % 256).collect() };
        tokens.push(
            &ids(lens.text as u32 / 2),
            &ids(lens.target as u32 / 2),
            true,
            lens,
        );
    }
    let pictures = [pixels.as_slice(); ROWS];
    let micro = MicroBatch {
        lane: 0,
        images: images(pictures.into_iter()),
        tokens,
        rows: ROWS,
    };
    let batch = batch::on_device(&micro, spec, device);
    let mut gradient = vec![0.0; layout.total];
    let ops = engine::backward_pass(Ops::inference_in(precision), device);
    let loss = model.forward_backward(batch, 0.0, ops, |gradients| {
        flat::add_gradients(model, gradients, layout, &mut gradient);
    });
    let value = batch::scalar(loss)?;

    let mut hasher = blake3::Hasher::new();
    hasher.update(&pixels).update(&value.to_le_bytes());
    for block in gradient.chunks(16 * 1024) {
        let bytes: Vec<u8> = block.iter().flat_map(|g| g.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    let hash = hasher.finalize().to_hex();
    Ok(format!("{}/{}", processor(device), &hash[..16]))
}

/// Backend, its version and what it computes on.
fn processor(device: &Device) -> String {
    #[cfg(feature = "cuda")]
    if ringmaster_model::cuda::is_cuda(device) {
        let gpu = device.clone().without_autodiff().identity();
        let gpu = gpu.map_or_else(|| "unknown".to_owned(), |gpu| gpu.name);
        return format!("burn-cuda-0.22.1/{gpu}");
    }
    let _ = device;
    format!("burn-flex-0.22.1/{}", simd_level())
}

/// The widest vector extension the matrix kernels can use here.
fn simd_level() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "avx512";
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return "avx2";
        }
    }
    std::env::consts::ARCH
}
