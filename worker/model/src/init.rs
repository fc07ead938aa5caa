//! Initial values: a function of (seed, parameter path, position) alone, the same on every machine.
//!
//! A normal value is the sum of twelve uniform 16-bit integers, shifted and scaled to mean 0 and
//! variance 1 (Irwin-Hall; it never exceeds 6 deviations). Integer sums have no rounding and use no
//! mathematical library, so the bits cannot differ between machines, as Box-Muller's could.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

/// Uniform integers in one normal value; 12 of them have the variance of one unit.
const TERMS: usize = 12;

/// Twice the mean of [`TERMS`] uniform integers of 0..=65535.
const TWICE_MEAN: i64 = TERMS as i64 * 65_535;

/// Where in the model a parameter stands, and how it gets its first value.
#[derive(Clone)]
pub(crate) struct Init<'a> {
    /// Without one all values are 0.
    seed: Option<u64>,
    device: &'a Device,
    path: String,
}

impl<'a> Init<'a> {
    /// The root of a model.
    pub(crate) fn new(seed: u64, device: &'a Device) -> Self {
        Self {
            seed: Some(seed),
            device,
            path: String::new(),
        }
    }

    /// The root of a model of which only the shapes matter.
    pub(crate) fn blank(device: &'a Device) -> Self {
        Self {
            seed: None,
            device,
            path: String::new(),
        }
    }

    /// The part of the model that the field `name` holds.
    pub(crate) fn at(&self, name: &str) -> Self {
        Self {
            path: self.join(name),
            ..self.clone()
        }
    }

    /// Element `index` of the list that the field `name` holds.
    pub(crate) fn item(&self, name: &str, index: usize) -> Self {
        self.at(name).at(&index.to_string())
    }

    /// A parameter drawn from N(0, `deviation`^2).
    pub(crate) fn normal<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        deviation: f64,
    ) -> Param<Tensor<D>> {
        let len = shape.iter().product();
        let values = match self.seed {
            Some(seed) => normal(seed, &self.join(name), len, deviation),
            None => vec![0.0; len],
        };
        self.parameter(values, shape)
    }

    /// A parameter that starts at `value` throughout.
    pub(crate) fn constant<const D: usize>(
        &self,
        shape: [usize; D],
        value: f64,
    ) -> Param<Tensor<D>> {
        self.parameter(vec![value as f32; shape.iter().product()], shape)
    }

    fn parameter<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(
            TensorData::new(values, shape),
            self.device,
        ))
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}

/// `len` values of N(0, `deviation`^2), named by seed and path.
pub(crate) fn normal(seed: u64, path: &str, len: usize, deviation: f64) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&seed.to_le_bytes())
        .update(b"init")
        .update(path.as_bytes());
    let mut bytes = vec![0; len * TERMS * 2];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
        .chunks_exact(TERMS * 2)
        .map(|chunk| {
            let sum: i64 = chunk
                .chunks_exact(2)
                .map(|b| i64::from(u16::from_le_bytes([b[0], b[1]])))
                .sum();
            ((2 * sum - TWICE_MEAN) as f64 / 131_072.0 * deviation) as f32
        })
        .collect()
}
