//! How one forward pass is computed. Every matrix product, convolution and attention of the model
//! goes through here, so that one place can count them, choose their number format, and say what a
//! backward pass keeps.

#[cfg(feature = "cuda")]
use burn::tensor::DType;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, FloatDType, Tensor, activation, module};
use ringmaster_proto::spec::{Activation, Precision, TrainSpec};

use crate::attention::Mask;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::dropout::Dropout;
use crate::meter::{Meter, PartName};
use crate::segment::{Keeps, Tape};

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
        Self::inference_in(Precision::F32)
    }

    /// For inference in a number format, nothing random.
    pub fn inference_in(precision: Precision) -> Self {
        Self {
            precision,
            dropout: None,
            tape: None,
            meter: None,
        }
    }

    /// For inference in the format that is made for the device: bf16 on a GPU, else f32.
    pub(crate) fn inference_on(device: &Device) -> Self {
        #[cfg(feature = "cuda")]
        if cuda::is_cuda(device) {
            return Self::inference_in(Precision::Bf16);
        }
        let _ = device;
        Self::inference()
    }

    /// For one microbatch of training.
    pub fn training(train: &TrainSpec, key: NoiseKey) -> Self {
        Self {
            precision: train.precision,
            dropout: Dropout::new(train.dropout, key),
            tape: train
                .activation_checkpointing
                .then(|| Tape::new(Keeps::Inputs)),
            meter: None,
        }
    }

    /// The same pass with a backward pass that gives its gradients in pieces, as early as they are
    /// known.
    pub fn in_pieces(mut self) -> Self {
        self.tape.get_or_insert_with(|| Tape::new(Keeps::Graph));
        self
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

    /// A block of the model, whose gradients may come as a piece of their own; with activation
    /// checkpointing only its inputs are kept, and the backward pass computes it again. Inputs come
    /// from earlier segments, and everything else the block uses is a parameter or needs no gradient.
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
        let output = block(&now, &inputs);
        if let (Some(ours), Some(used)) = (&self.dropout, &now.dropout) {
            ours.continue_from(used);
        }
        let again = move |inputs: &[Tensor<3>]| block(&later, inputs);
        tape.record(inputs, output, again)
    }

    /// Counts what `work` does as part `name`.
    pub(crate) fn part<T>(&self, name: PartName, work: impl FnOnce() -> T) -> T {
        match &self.meter {
            Some(meter) => meter.part(name, work),
            None => work(),
        }
    }

    /// Whether products are computed in bf16.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_half(&self) -> bool {
        self.precision == Precision::Bf16
    }

    /// Whether only shapes matter.
    pub(crate) fn is_counting(&self) -> bool {
        self.meter.is_some()
    }

    /// `x` in the number format of products: bf16 in a bf16 pass.
    pub fn half<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.precision {
            Precision::F32 => x,
            Precision::Bf16 => bf16(x),
        }
    }

    /// `x W (+ b)` in f32: `[B, T, K] x [K, N] (+ [N]) -> [B, T, N]`.
    pub(crate) fn linear(
        &self,
        x: Tensor<3>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<3> {
        self.affine(x, weight, bias, FloatDType::F32)
    }

    /// The same in the format of products, for what goes on into another product.
    pub(crate) fn linear_half(
        &self,
        x: Tensor<3>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<3> {
        self.affine(x, weight, bias, self.format())
    }

    /// Scores of every row of a token table, in the format of products: `[B, T, D]` and `[V, D]`,
    /// `-> [B, T, V]`.
    pub(crate) fn logits(&self, x: Tensor<3>, table: Tensor<2>) -> Tensor<3> {
        if self.meter.is_some() || self.precision == Precision::F32 {
            return self.linear(x, table.transpose(), None);
        }
        let ([batch, tokens, width], [vocab, _]) = (x.dims(), table.dims());
        let rows = x.reshape([batch * tokens, width]);
        let scores = bf16_product(rows, table, Form::RightTransposed, FloatDType::BF16);
        scores.reshape([batch, tokens, vocab])
    }

    fn affine(
        &self,
        x: Tensor<3>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        out: FloatDType,
    ) -> Tensor<3> {
        let ([batch, tokens, inputs], [_, outputs]) = (x.dims(), weight.dims());
        if let Some(meter) = &self.meter {
            meter.add([batch, tokens, inputs, outputs]);
            return Tensor::zeros([batch, tokens, outputs], &x.device());
        }
        if self.precision == Precision::F32 {
            return module::linear(x, weight, bias);
        }
        let rows = x.reshape([batch * tokens, inputs]);
        let product = bf16_product(rows, weight, Form::Plain, out);
        let product = product.reshape([batch, tokens, outputs]);
        match bias {
            Some(bias) => product + bias.cast(out).unsqueeze(),
            None => product,
        }
    }

    /// `softmax(scale Q K^T + mask) V` per head: Q `[B or 1, Q, H, d]`, K and V `[B, K, H, d]`, the
    /// mask `[B or 1, H or 1, Q or 1, K]`; `-> [B, Q, H, d]`.
    pub(crate) fn attention(
        &self,
        [query, key, value]: [Tensor<4>; 3],
        scale: f64,
        mask: Option<&Mask>,
    ) -> Tensor<4> {
        #[cfg(feature = "cuda")]
        if self.precision == Precision::Bf16 && cuda::is_cuda(&key.device()) {
            return self.attention_on_cuda([query, key, value], scale, mask);
        }
        let [query, key, value] = [query, key, value].map(|x| x.swap_dims(1, 2));
        let scores = self.matmul(query.mul_scalar(scale), key, Form::RightTransposed);
        let scores = self.masked(scores, mask);
        let shares = if self.meter.is_some() {
            scores
        } else {
            self.softmax(scores)
        };
        self.matmul(shares, value, Form::Plain).swap_dims(1, 2)
    }

    /// The same, heads read and written where they lie.
    #[cfg(feature = "cuda")]
    fn attention_on_cuda(
        &self,
        [query, key, value]: [Tensor<4>; 3],
        scale: f64,
        mask: Option<&Mask>,
    ) -> Tensor<4> {
        let ([queries, ..], [batch, ..]) = (query.dims(), key.dims());
        let query = if queries < batch {
            query.repeat_dim(0, batch)
        } else {
            query
        };
        let (of_scores, out) = (Heads([true, true, false]), FloatDType::BF16);
        let (query, key, value) = (bf16(query), bf16(key), bf16(value));
        let scores = cuda::product(query, key, Form::RightTransposed, of_scores, scale, out);
        let shares = self.softmax(self.masked(scores, mask));
        let of_sums = Heads([false, true, true]);
        cuda::product(shares, value, Form::Plain, of_sums, 1.0, out)
    }

    fn masked(&self, scores: Tensor<4>, mask: Option<&Mask>) -> Tensor<4> {
        match mask {
            Some(mask) => scores + mask.added().cast(self.format()),
            None => scores,
        }
    }

    /// Softmax over the last dimension, computed in f32.
    fn softmax(&self, scores: Tensor<4>) -> Tensor<4> {
        if self.precision == Precision::F32 {
            return activation::softmax(scores, 3);
        }
        #[cfg(feature = "cuda")]
        if cuda::is_cuda(&scores.device()) {
            return cuda::softmax::softmax(scores);
        }
        self.half(activation::softmax(scores.cast(FloatDType::F32), 3))
    }

    /// Product of the last two dimensions, in the format of products; the first dimension of `left`
    /// is broadcast.
    pub(crate) fn matmul(&self, left: Tensor<4>, right: Tensor<4>, form: Form) -> Tensor<4> {
        let ([b, ..], [batch, heads, ..]) = (left.dims(), right.dims());
        if let Some(meter) = &self.meter {
            let [rows, inner, columns] = form.sizes(&left.dims(), &right.dims());
            meter.add([batch.max(b), heads, rows, inner, columns]);
            return Tensor::zeros([batch.max(b), heads, rows, columns], &left.device());
        }
        if self.precision == Precision::F32 {
            return form.of(left, right);
        }
        let left = if b < batch {
            left.repeat_dim(0, batch)
        } else {
            left
        };
        bf16_product(bf16(left), bf16(right), form, FloatDType::BF16)
    }

    /// The plain product of two matrices, as measured by benchmarks: `[1, 1, M, K] x [1, 1, K, N]`.
    pub fn product(&self, left: Tensor<4>, right: Tensor<4>) -> Tensor<4> {
        self.matmul(left, right, Form::Plain)
    }

    /// Square convolution without bias over pictures `[B, H H, C]`, padded so that stride 1 keeps
    /// their side and stride s divides it by s, rounded up; the kernel is `[O, C, k, k]`, k odd, the
    /// result, in the format of products, `[B, (H / s)^2, O]`.
    pub(crate) fn convolution(&self, x: Tensor<3>, kernel: Tensor<4>, stride: usize) -> Tensor<3> {
        let ([batch, pixels, inputs], [outputs, _, k, _]) = (x.dims(), kernel.dims());
        let side = pixels.isqrt();
        let out = side.div_ceil(stride);
        if let Some(meter) = &self.meter {
            meter.add([batch, out, out, outputs, inputs, k, k]);
            return Tensor::zeros([batch, out * out, outputs], &x.device());
        }
        #[cfg(feature = "cuda")]
        if self.precision == Precision::Bf16 && cuda::is_cuda(&x.device()) {
            let x = bf16(x).reshape([batch, side, side, inputs]);
            let y = cuda::convolution(x, kernel, stride);
            return y.reshape([batch, out * out, outputs]);
        }
        let (x, kernel) = (self.half(x), self.half(kernel));
        let x = x.swap_dims(1, 2).reshape([batch, inputs, side, side]);
        let pad = k / 2;
        let options = ConvOptions::new([stride, stride], [pad, pad], [1, 1], 1);
        let y = module::conv2d(x, kernel, None, options);
        y.reshape([batch, outputs, out * out]).swap_dims(1, 2)
    }

    /// The largest of 3 x 3 pixels around every second one, of pictures `[B, H H, C]`:
    /// `-> [B, ceil(H / 2)^2, C]`.
    pub(crate) fn max_pool(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, pixels, channels] = x.dims();
        let side = pixels.isqrt();
        let out = side.div_ceil(2);
        if self.meter.is_some() {
            return Tensor::zeros([batch, out * out, channels], &x.device());
        }
        #[cfg(feature = "cuda")]
        if self.precision == Precision::Bf16 && cuda::is_cuda(&x.device()) {
            let y = cuda::pool::max_pool(x.reshape([batch, side, side, channels]));
            return y.reshape([batch, out * out, channels]);
        }
        let x = x.swap_dims(1, 2).reshape([batch, channels, side, side]);
        let pool = MaxPoolOptions::new([3, 3])
            .with_stride([2, 2])
            .with_padding([1, 1]);
        let y = module::max_pool2d(x, pool);
        y.reshape([batch, channels, out * out]).swap_dims(1, 2)
    }

    fn format(&self) -> FloatDType {
        match self.precision {
            Precision::F32 => FloatDType::F32,
            Precision::Bf16 => FloatDType::BF16,
        }
    }

    /// The nonlinearity, computed in f32, in the format of `x`.
    pub(crate) fn activate<const D: usize>(&self, x: Tensor<D>, kind: Activation) -> Tensor<D> {
        match kind {
            _ if self.meter.is_some() => x,
            Activation::Relu => self.relu(x),
            Activation::Gelu if self.precision == Precision::F32 => activation::gelu(x),
            Activation::Gelu => self.gelu_half(x),
        }
    }

    #[allow(clippy::unused_self, reason = "an operation like the others")]
    fn relu<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "cuda")]
        if x.dtype() == DType::BF16 && cuda::is_cuda(&x.device()) {
            return cuda::activation::relu(x);
        }
        activation::relu(x)
    }

    fn gelu_half<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "cuda")]
        if cuda::is_cuda(&x.device()) {
            return cuda::activation::gelu(x);
        }
        let format = x.dtype();
        activation::gelu(x.cast(FloatDType::F32)).cast(format)
    }

    /// `x + table` for every example: f32, `[B, T, D]` and `[T, D]`.
    #[allow(clippy::unused_self, reason = "an operation like the others")]
    pub(crate) fn add_table(&self, x: Tensor<3>, table: Tensor<2>) -> Tensor<3> {
        #[cfg(feature = "cuda")]
        if cuda::is_cuda(&x.device()) {
            return cuda::table::add(x, table);
        }
        x + table.unsqueeze()
    }

    /// `x`, f32, times a learned number, `[1]`.
    #[allow(clippy::unused_self, reason = "an operation like the others")]
    pub(crate) fn scale(&self, x: Tensor<3>, factor: Tensor<1>) -> Tensor<3> {
        #[cfg(feature = "cuda")]
        if cuda::is_cuda(&x.device()) {
            return cuda::scale::scaled(x, factor);
        }
        x * factor.unsqueeze()
    }

    /// Sets a share of the values to 0 and scales the others up, in training.
    pub(crate) fn dropout<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.dropout {
            Some(dropout) => dropout.apply(x),
            None => x,
        }
    }
}

/// How the last two dimensions of two factors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// `A B`: `[M, K]` and `[K, N]`.
    Plain,
    /// `A B^T`: `[M, K]` and `[N, K]`.
    RightTransposed,
    /// `A^T B`: `[K, M]` and `[K, N]`.
    LeftTransposed,
}

impl Form {
    /// M, K and N.
    pub(crate) fn sizes(self, left: &[usize], right: &[usize]) -> [usize; 3] {
        let (row, column) = (left.len() - 2, left.len() - 1);
        match self {
            Self::Plain => [left[row], left[column], right[column]],
            Self::RightTransposed => [left[row], left[column], right[row]],
            Self::LeftTransposed => [left[column], left[row], right[column]],
        }
    }

    /// The product by burn's own kernels.
    fn of<const D: usize>(self, left: Tensor<D>, right: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Plain => left.matmul(right),
            Self::RightTransposed => left.matmul(right.transpose()),
            Self::LeftTransposed => left.transpose().matmul(right),
        }
    }
}

/// Whether the left factor, the right one and the product of four dimensions are `[B, R, H, C]`, heads
/// between rows and columns, instead of `[B, H, R, C]`.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Heads(pub(crate) [bool; 3]);

#[cfg(feature = "cuda")]
impl Heads {
    /// Everything `[B, H, R, C]`, or without heads.
    pub(crate) const APART: Self = Self([false; 3]);

    /// Whether those of number `i` lie between.
    pub(crate) fn between(self, i: usize) -> bool {
        self.0[i]
    }
}

/// The product of factors rounded to bf16, summed in f32; leading dimensions are equal.
fn bf16_product<const D: usize>(
    left: Tensor<D>,
    right: Tensor<D>,
    form: Form,
    out: FloatDType,
) -> Tensor<D> {
    #[cfg(feature = "cuda")]
    if cuda::is_cuda(&left.device()) {
        return cuda::product(bf16(left), right, form, Heads::APART, 1.0, out);
    }
    form.of(bf16(left), bf16(right)).cast(out)
}

fn bf16<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(FloatDType::BF16)
}
