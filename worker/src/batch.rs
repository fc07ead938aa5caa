//! Host arrays to tensors.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use ringmaster_model::Batch;
use ringmaster_proto::spec::ModelSpec;
use ringmaster_proto::vocab::PAD;

use crate::WorkerError;
use crate::feeder::MicroBatch;

/// A microbatch on the device.
pub(crate) fn on_device(micro: &MicroBatch, spec: &ModelSpec, device: &Device) -> Batch {
    let rows = micro.rows;
    let tokens = &micro.tokens;
    let (text, text_mask) = encoder_text(&tokens.text, [rows, spec.text_len], device);
    let decoder = [rows, spec.target_len];
    Batch {
        images: images(micro.images.clone(), rows, spec, device),
        text,
        text_mask,
        input: ids(&tokens.input, decoder, device),
        target: ids(&tokens.target, decoder, device),
        weight: Tensor::from_data(TensorData::new(tokens.weight.clone(), decoder), device),
    }
}

/// `[rows, 3, size, size]`.
pub(crate) fn images(
    pixels: Vec<f32>,
    rows: usize,
    spec: &ModelSpec,
    device: &Device,
) -> Tensor<4> {
    let shape = [rows, 3, spec.image_size, spec.image_size];
    Tensor::from_data(TensorData::new(pixels, shape), device)
}

/// Encoder ids and the mask of real tokens.
pub(crate) fn encoder_text(
    text: &[u32],
    shape: [usize; 2],
    device: &Device,
) -> (Tensor<2, Int>, Tensor<2, Bool>) {
    let real: Vec<bool> = text.iter().map(|id| *id != PAD).collect();
    (
        ids(text, shape, device),
        Tensor::from_data(TensorData::new(real, shape), device),
    )
}

fn ids(ids: &[u32], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    Tensor::from_data(TensorData::new(ids, shape), device)
}

/// Reads a one-element tensor.
pub(crate) fn scalar(tensor: Tensor<1>) -> Result<f32, WorkerError> {
    let broken = |reason: String| WorkerError::Internal(format!("device: {reason}"));
    let data = tensor
        .try_into_data()
        .map_err(|error| broken(format!("{error:?}")))?;
    let values = data
        .as_slice::<f32>()
        .map_err(|error| broken(format!("{error:?}")))?;
    values
        .first()
        .copied()
        .ok_or_else(|| broken("an empty loss".into()))
}
