//! Which device a worker computes on: chosen by looking, never by trying.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::WorkerError;

/// `--device auto | cpu | cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if one is there and the build can use it, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The N-th visible CUDA device.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cuda = |n: &str| n.parse().ok().map(Self::Cuda);
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => text
                .strip_prefix("cuda:")
                .and_then(cuda)
                .ok_or_else(|| format!("{text:?} is not auto, cpu or cuda:N")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl DeviceChoice {
    /// How many CUDA devices are visible; `None` where this build has no CUDA.
    pub fn visible_cuda() -> Option<usize> {
        cfg!(feature = "cuda").then(|| cuda_devices().len())
    }

    /// The device, without automatic differentiation.
    pub fn resolve(self) -> Result<Device, WorkerError> {
        let gpus = cuda_devices();
        let count = gpus.len();
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Auto => Ok(gpus.into_iter().next().unwrap_or_else(Device::flex)),
            Self::Cuda(n) => gpus.into_iter().nth(n).ok_or_else(|| WorkerError::Device {
                asked: self.to_string(),
                reason: if cfg!(feature = "cuda") {
                    format!("{count} CUDA devices are visible; use --device auto or cpu")
                } else {
                    "this build has no CUDA; build with --features cuda, or use --device cpu".into()
                },
            }),
        }
    }
}

/// Visible CUDA devices; empty, without a panic, where there is no driver or no GPU.
#[cfg(feature = "cuda")]
fn cuda_devices() -> Vec<Device> {
    Device::enumerate(burn::tensor::DeviceType::Cuda)
        .into_iter()
        .collect()
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> Vec<Device> {
    Vec::new()
}
