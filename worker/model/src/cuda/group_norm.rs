//! Group norm of images whose channels come last, and the rectifier after it. burn would bring the
//! channels to the front and back, and read the images once for each of a dozen operations; here they
//! are read twice each way, the fewest that statistics allow.
//!
//! A group's statistics take part of every pixel, so blocks find them for a share of an image's pixels
//! and channel by channel, which reads whole rows of memory; what they find is small, and combined in
//! a fixed order.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DType, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::common::{Defines, bits, blocks, empty, fold, pixel_vector, text};
use super::source::buffer;

const TEXT: &str = text!("common.cu", "group_norm.cu", "group_norm_backward.cu");
const THREADS: usize = 256;

/// Elements of a block: 128 of a thread, or down to 32 where there would be too few blocks.
const SHARE: usize = 128 * THREADS;
const SMALLEST_SHARE: usize = 32 * THREADS;

/// Blocks that are enough: eight for each multiprocessor of an H100. Fixed, because sums depend on it.
const ENOUGH: usize = 1056;

/// What a group norm is besides its tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    groups: usize,
    epsilon: f64,
    /// Whether a rectifier follows.
    rectify: bool,
}

/// A group norm that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait GroupNorm: Backend {
    /// The norm of bf16 images.
    fn group_norm_images(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        kind: Kind,
    ) -> FloatTensor<Self>;
}

/// What its passes are made of.
#[backend_extension(Cube)]
pub(crate) trait GroupNormParts: Backend {
    /// The norm, and of every group the mean and the reciprocal of the deviation.
    fn group_norm_images_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        kind: Kind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of x, gamma and beta, given these and the gradient of the norm.
    fn group_norm_images_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kind: Kind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Group norm of bf16 images `[B, T, C]`, T pixels each, in `groups` groups of channels, with parameters
/// `[C]` of f32, where `rectify` says so followed by a rectifier: `-> [B, T, C]`, bf16.
pub(crate) fn group_norm(
    x: Tensor<3>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    rectify: bool,
) -> Tensor<3> {
    let kind = Kind {
        groups,
        epsilon,
        rectify,
    };
    let (x, gamma, beta) = (
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
    );
    let y = <Dispatch as GroupNorm>::group_norm_images(x, gamma, beta, kind);
    Tensor::from_dispatch(y)
}

impl GroupNorm for CubeBackend {
    fn group_norm_images(
        x: CubeTensor,
        gamma: CubeTensor,
        beta: CubeTensor,
        kind: Kind,
    ) -> CubeTensor {
        Self::group_norm_images_forward(x, gamma, beta, kind).0
    }
}

impl GroupNormParts for CubeBackend {
    fn group_norm_images_forward(
        x: CubeTensor,
        gamma: CubeTensor,
        beta: CubeTensor,
        kind: Kind,
    ) -> (CubeTensor, CubeTensor) {
        let [x, gamma, beta] = [x, gamma, beta].map(into_contiguous);
        let y = empty(&x, x.shape(), DType::BF16);
        let plan = Plan::of(
            &x,
            kind,
            pixel_vector(x.shape()[2], &[&x], &[&gamma, &beta]),
        );
        let found = plan.found(&x);
        let moments = empty(&x, [plan.images, kind.groups, 2], DType::F32);
        plan.launch("group_norm_measure", plan.shares(), &[&x, &found]);
        let warps = [
            blocks((plan.images * kind.groups).div_ceil(THREADS / 32)),
            1,
            1,
        ];
        plan.launch("group_norm_moments", warps, &[&found, &moments]);
        let buffers = [&x, &gamma, &beta, &moments, &y];
        plan.launch("group_norm_apply", plan.shares(), &buffers);
        (y, moments)
    }

    fn group_norm_images_backward(
        x: CubeTensor,
        gamma: CubeTensor,
        beta: CubeTensor,
        moments: CubeTensor,
        grad: CubeTensor,
        kind: Kind,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [x, gamma, beta] = [x, gamma, beta].map(into_contiguous);
        let [moments, grad] = [moments, grad].map(into_contiguous);
        let dx = empty(&x, x.shape(), DType::BF16);
        let vector = pixel_vector(x.shape()[2], &[&x, &grad], &[&gamma, &beta]);
        let plan = Plan::of(&x, kind, vector);
        let found = plan.found(&x);
        let sums = empty(&x, [plan.images, 2, plan.channels], DType::F32);
        let means = empty(&x, [plan.images, kind.groups, 2], DType::F32);
        let buffers = [&x, &gamma, &beta, &moments, &grad, &found];
        plan.launch("group_norm_sums", plan.shares(), &buffers);
        let images = [blocks(plan.images), 1, 1];
        plan.launch("group_norm_means", images, &[&found, &gamma, &sums, &means]);
        let buffers = [&x, &gamma, &beta, &moments, &means, &grad, &dx];
        plan.launch("group_norm_backward", plan.shares(), &buffers);
        let [dgamma, dbeta] = fold(&sums);
        (dx, dgamma, dbeta)
    }
}

/// How images are shared out among blocks.
struct Plan {
    kind: Kind,
    images: usize,
    tokens: usize,
    channels: usize,
    vector: usize,
    /// Tokens of a block.
    share: usize,
}

impl Plan {
    fn of(x: &CubeTensor, kind: Kind, vector: usize) -> Self {
        let shape = x.shape();
        let [images, tokens, channels] = [shape[0], shape[1], shape[2]];
        assert_eq!(channels % kind.groups, 0, "groups are of one size");
        let elements = shape.num_elements() / ENOUGH;
        let share = elements.clamp(SMALLEST_SHARE, SHARE) / channels;
        Self {
            kind,
            images,
            tokens,
            channels,
            vector,
            share: share.clamp(1, tokens),
        }
    }

    /// Blocks over shares, images and as many channels as a block has.
    fn shares(&self) -> [u32; 3] {
        let across = (self.channels / self.vector).div_ceil(THREADS);
        let shares = self.tokens.div_ceil(self.share);
        [blocks(shares), blocks(self.images), blocks(across)]
    }

    /// For two numbers per share and channel.
    fn found(&self, on: &CubeTensor) -> CubeTensor {
        let shares = self.tokens.div_ceil(self.share);
        empty(on, [self.images, shares, 2, self.channels], DType::F32)
    }

    fn launch(&self, entry: &'static str, grid: [u32; 3], buffers: &[&CubeTensor]) {
        let kernel = Defines::of(entry)
            .with("CHANNELS", self.channels)
            .with("GROUPS", self.kind.groups)
            .with("VECTOR", self.vector)
            .with("RELU", u8::from(self.kind.rectify))
            .kernel(entry, TEXT, THREADS);
        let shares = self.tokens.div_ceil(self.share);
        let sizes = [self.images, self.tokens, self.share, shares];
        let mut words: Vec<u64> = sizes.map(|size| size as u64).to_vec();
        words.push(bits(self.kind.epsilon));
        let resources = buffers.iter().map(|tensor| buffer(tensor)).collect();
        kernel.launch(buffers[0], grid, resources, words);
    }
}

/// x, gamma and beta as saved, the moments, and the kind.
type Saved<B> = ([NodeId; 3], FloatTensor<B>, Kind);

#[derive(Debug)]
struct Step;

impl<B: Backend + GroupNormParts> Backward<B, 3> for Step {
    type State = Saved<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (saved, moments, kind) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [x, gamma, beta] =
            saved.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let (dx, dgamma, dbeta) =
            B::group_norm_images_backward(x, gamma, beta, moments, grad, kind);
        for (parent, gradient) in ops.parents.into_iter().zip([dx, dgamma, dbeta]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: Backend + GroupNorm + GroupNormParts, C: CheckpointStrategy> GroupNorm for Autodiff<B, C> {
    fn group_norm_images(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        kind: Kind,
    ) -> FloatTensor<Self> {
        let inputs = [&x, &gamma, &beta];
        let [a, b, c] = inputs.map(|t| t.primitive().clone());
        let (y, moments) = B::group_norm_images_forward(a, b, c, kind);
        let nodes = inputs.map(|t| t.node());
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = inputs.map(|t| prep.checkpoint(t));
                prep.finish((saved, moments, kind), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
