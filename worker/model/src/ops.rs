//! How one forward pass is computed. Every matrix product, convolution and attention of the model
//! goes through here, so that one place can count them, choose their number format, and say what a
//! backward pass keeps.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{FloatDType, Tensor, activation, module};
use ringmaster_proto::spec::{Activation, Precision, TrainSpec};

use crate::attention::Mask;
use crate::dropout::Dropout;
use crate::meter::{Meter, PartName};
use crate::segment::Tape;

/// One forward pass: number format, dropout, what the backward pass keeps, and counting. Made anew
/// for every pass, because dropout counts the places it has been at.
#[derive(Debug)]
pub struct Ops {
    precision: Precision,
    dropout: Option<Dropout>,
    tape: Option<Tape>,
    meter: Option<Meter>,
}

/// What the random numbers of a forward pass depend on besides the place in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseKey {
    /// Of the run.
    pub seed: u64,
    /// Steps consumed before this one.
    pub step: u64,
    /// The lane whose microbatch it is.
    pub lane: u32,
}

impl Ops {
    /// For inference: f32, nothing random.
    pub fn inference() -> Self {
        Self {
            precision: Precision::F32,
            dropout: None,
            tape: None,
            meter: None,
        }
    }

    /// For one microbatch of training.
    pub fn training(train: &TrainSpec, key: NoiseKey) -> Self {
        Self {
            precision: train.precision,
            dropout: Dropout::new(train.dropout, key),
            tape: train.activation_checkpointing.then(Tape::default),
            meter: None,
        }
    }

    /// Computes shapes only and counts.
    pub(crate) fn counting() -> Self {
        Self {
            meter: Some(Meter::default()),
            ..Self::inference()
        }
    }

    /// What was counted.
    pub(crate) fn meter(&self) -> Option<&Meter> {
        self.meter.as_ref()
    }

    /// Takes the segments that were recorded.
    pub(crate) fn take_tape(&mut self) -> Option<Tape> {
        self.tape.take()
    }

    /// A block of the model: with activation checkpointing only its inputs are kept, and the
    /// backward pass computes it again. Inputs come from earlier segments, and everything else the
    /// block uses is a parameter or needs no gradient.
    pub(crate) fn segment(
        &self,
        inputs: Vec<Tensor<3>>,
        block: impl Fn(&Self, &[Tensor<3>]) -> Tensor<3> + 'static,
    ) -> Tensor<3> {
        let Some(tape) = &self.tape else {
            return block(self, &inputs);
        };
        // The same dropout masks come again: a copy continues from the place where this block began.
        let inside = || Self {
            precision: self.precision,
            dropout: self.dropout.clone(),
            tape: None,
            meter: None,
        };
        let (now, later) = (inside(), inside());
        let output = block(&now, &inputs).detach().require_grad();
        if let (Some(ours), Some(used)) = (&self.dropout, &now.dropout) {
            ours.continue_from(used);
        }
        let again = move |inputs: &[Tensor<3>]| block(&later, inputs);
        tape.record(inputs, output.clone(), again);
        output
    }

    /// Counts what `work` does as part `name`.
    pub(crate) fn part<T>(&self, name: PartName, work: impl FnOnce() -> T) -> T {
        match &self.meter {
            Some(meter) => meter.part(name, work),
            None => work(),
        }
    }

    /// `x W (+ b)`: `[B, T, K] x [K, N] (+ [N]) -> [B, T, N]`.
    pub(crate) fn linear(
        &self,
        x: Tensor<3>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<3> {
        let ([batch, tokens, inputs], [_, outputs]) = (x.dims(), weight.dims());
        if let Some(meter) = &self.meter {
            meter.add([batch, tokens, inputs, outputs]);
            return Tensor::zeros([batch, tokens, outputs], &x.device());
        }
        match self.precision {
            Precision::F32 => module::linear(x, weight, bias),
            Precision::Bf16 => {
                let product = module::linear(bf16(x), bf16(weight), None).cast(FloatDType::F32);
                match bias {
                    Some(bias) => product + bias.unsqueeze(),
                    None => product,
                }
            }
        }
    }

    /// `softmax(scale Q K^T + mask) V` per head: Q `[B or 1, H, Q, d]`, K and V `[B, H, K, d]`, the
    /// mask of sides that are as these or 1; `-> [B, H, Q, d]`.
    pub(crate) fn attention(
        &self,
        [query, key, value]: [Tensor<4>; 3],
        scale: f64,
        mask: Option<&Mask>,
    ) -> Tensor<4> {
        let mut scores = self.matmul(query.mul_scalar(scale), key.swap_dims(2, 3));
        if let Some(mask) = mask {
            scores = scores + mask.added();
        }
        let scores = if self.meter.is_some() {
            scores
        } else {
            activation::softmax(scores, 3)
        };
        self.matmul(scores, value)
    }

    /// Product of the last two dimensions; the first is broadcast.
    pub(crate) fn matmul(&self, left: Tensor<4>, right: Tensor<4>) -> Tensor<4> {
        if let Some(meter) = &self.meter {
            let ([b, heads, rows, inner], [c, .., columns]) = (left.dims(), right.dims());
            let batch = b.max(c);
            meter.add([batch, heads, rows, inner, columns]);
            return Tensor::zeros([batch, heads, rows, columns], &left.device());
        }
        match self.precision {
            Precision::F32 => left.matmul(right),
            Precision::Bf16 => bf16(left).matmul(bf16(right)).cast(FloatDType::F32),
        }
    }

    /// Square convolution without bias, padded so that stride 1 keeps the size and stride s divides
    /// it by s, rounded up: `[B, C, H, W] * [O, C, k, k] -> [B, O, H / s, W / s]`, k odd.
    pub(crate) fn convolution(&self, x: Tensor<4>, kernel: Tensor<4>, stride: usize) -> Tensor<4> {
        let ([batch, _, height, width], [outputs, inputs, k, _]) = (x.dims(), kernel.dims());
        if let Some(meter) = &self.meter {
            let (height, width) = (height.div_ceil(stride), width.div_ceil(stride));
            meter.add([batch, height, width, outputs, inputs, k, k]);
            return Tensor::zeros([batch, outputs, height, width], &x.device());
        }
        let pad = k / 2;
        let options = ConvOptions::new([stride, stride], [pad, pad], [1, 1], 1);
        match self.precision {
            Precision::F32 => module::conv2d(x, kernel, None, options),
            Precision::Bf16 => {
                module::conv2d(bf16(x), bf16(kernel), None, options).cast(FloatDType::F32)
            }
        }
    }

    /// The nonlinearity.
    pub(crate) fn activate<const D: usize>(&self, x: Tensor<D>, kind: Activation) -> Tensor<D> {
        match kind {
            _ if self.meter.is_some() => x,
            Activation::Relu => activation::relu(x),
            Activation::Gelu => activation::gelu(x),
        }
    }

    /// Sets a share of the values to 0 and scales the others up, in training.
    pub(crate) fn dropout<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.dropout {
            Some(dropout) => dropout.apply(x),
            None => x,
        }
    }
}

fn bf16<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(FloatDType::BF16)
}
