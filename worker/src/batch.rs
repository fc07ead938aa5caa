//! Host arrays to tensors.

#[cfg(feature = "cuda")]
use burn::tensor::DType;
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

/// Pictures of RGB bytes, rows first, as `[rows, 3, size, size]` normalised to [-1, 1]. They travel to a
/// GPU as bytes, and are normalised there by the same arithmetic.
pub(crate) fn images(pixels: Vec<u8>, rows: usize, spec: &ModelSpec, device: &Device) -> Tensor<4> {
    let size = spec.image_size;
    #[cfg(feature = "cuda")]
    if ringmaster_model::cuda::is_cuda(device) {
        let bytes = TensorData::new(pixels, [rows, size, size, 3]);
        let bytes: Tensor<4, Int> = Tensor::from_data(bytes, (device, DType::U8));
        let values = bytes
            .float()
            .div_scalar(255.0)
            .sub_scalar(0.5)
            .div_scalar(0.5);
        return values.permute([0, 3, 1, 2]);
    }
    let mut values = vec![0.0; pixels.len()];
    let of_picture = 3 * size * size;
    for (picture, values) in pixels.chunks(of_picture).zip(values.chunks_mut(of_picture)) {
        ringmaster_dataset::normalise(picture, values);
    }
    Tensor::from_data(TensorData::new(values, [rows, 3, size, size]), device)
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
