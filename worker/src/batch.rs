//! Host arrays to tensors.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use ringmaster_dataset::{Form, Images};
use ringmaster_model::Batch;
#[cfg(feature = "cuda")]
use ringmaster_model::cuda::is_cuda;
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
        images: images(&micro.images, rows, spec, device),
        text,
        text_mask,
        input: ids(&tokens.input, decoder, device),
        target: ids(&tokens.target, decoder, device),
        weight: Tensor::from_data(TensorData::new(tokens.weight.clone(), decoder), device),
    }
}

/// What a device takes of pictures: a GPU their bytes, which it normalises itself; the host what was
/// normalised beside the training.
pub(crate) fn form(device: &Device) -> Form {
    if is_cuda(device) {
        Form::Bytes
    } else {
        Form::Values
    }
}

/// Pictures as `[rows, 3, size, size]` normalised to [-1, 1], by the same arithmetic wherever it is done.
pub(crate) fn images(images: &Images, rows: usize, spec: &ModelSpec, device: &Device) -> Tensor<4> {
    let size = spec.image_size;
    let shape = [rows, 3, size, size];
    let pixels = images.as_bytes();
    if images.form() == Form::Values {
        let values = TensorData::from_bytes_vec(pixels.to_vec(), shape, DType::F32);
        return Tensor::from_data(values, device);
    }
    #[cfg(feature = "cuda")]
    if is_cuda(device) {
        let bytes = TensorData::new(pixels.to_vec(), [rows, size, size, 3]);
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
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A build without GPUs has no such device.
#[cfg(not(feature = "cuda"))]
fn is_cuda(_: &Device) -> bool {
    false
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
