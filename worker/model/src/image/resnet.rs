//! ResNet-50 (He et al. 2016; the stride in the 3x3 convolution) up to stage C4: stride 16, 1024
//! channels, with group norm.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use ringmaster_proto::spec::Activation;

use crate::init::Init;
use crate::linear::Convolution;
use crate::norm::GroupNorm;
use crate::ops::Ops;

/// Blocks of the stages C2, C3, C4.
const STAGES: [usize; 3] = [3, 4, 6];

/// Channels of the stem, and of the narrow part of C2's blocks.
const WIDTH: usize = 64;

/// A block's output has this many times the channels of its narrow part.
const EXPANSION: usize = 4;

/// A convolution and its norm.
#[derive(Module, Debug)]
struct Unit {
    convolution: Convolution,
    norm: GroupNorm,
}

impl Unit {
    fn new(init: &Init, channels: [usize; 2], kernel: usize, stride: usize) -> Self {
        Self {
            convolution: Convolution::new(&init.at("convolution"), channels, kernel, stride),
            norm: GroupNorm::new(&init.at("norm"), channels[1]),
        }
    }

    fn forward(&self, x: Tensor<4>, ops: &Ops) -> Tensor<4> {
        self.norm.forward(self.convolution.forward(x, ops))
    }
}

/// `x <- relu(shortcut(x) + expand(relu(middle(relu(reduce(x))))))`.
#[derive(Module, Debug)]
struct Bottleneck {
    reduce: Unit,
    middle: Unit,
    expand: Unit,
    /// Where the shape changes; else the shortcut is x.
    shortcut: Option<Unit>,
}

impl Bottleneck {
    fn new(init: &Init, inputs: usize, width: usize, stride: usize) -> Self {
        let outputs = EXPANSION * width;
        let changes = inputs != outputs || stride != 1;
        Self {
            reduce: Unit::new(&init.at("reduce"), [inputs, width], 1, 1),
            middle: Unit::new(&init.at("middle"), [width, width], 3, stride),
            expand: Unit::new(&init.at("expand"), [width, outputs], 1, 1),
            shortcut: changes
                .then(|| Unit::new(&init.at("shortcut"), [inputs, outputs], 1, stride)),
        }
    }

    fn forward(&self, x: Tensor<4>, ops: &Ops) -> Tensor<4> {
        let relu = |x| ops.activate(x, Activation::Relu);
        let y = relu(self.reduce.forward(x.clone(), ops));
        let y = relu(self.middle.forward(y, ops));
        let y = self.expand.forward(y, ops);
        let shortcut = match &self.shortcut {
            Some(unit) => unit.forward(x, ops),
            None => x,
        };
        relu(shortcut + y)
    }
}

/// The encoder `resnet50-c4`.
#[derive(Module, Debug)]
pub(crate) struct Resnet {
    stem: Unit,
    blocks: Vec<Bottleneck>,
}

impl Resnet {
    pub(crate) fn new(init: &Init) -> Self {
        let mut blocks = Vec::new();
        let mut inputs = WIDTH;
        for (stage, count) in STAGES.into_iter().enumerate() {
            let width = WIDTH << stage;
            for block in 0..count {
                let stride = if block == 0 && stage > 0 { 2 } else { 1 };
                let init = init.item("blocks", blocks.len());
                blocks.push(Bottleneck::new(&init, inputs, width, stride));
                inputs = EXPANSION * width;
            }
        }
        Self {
            stem: Unit::new(&init.at("stem"), [3, WIDTH], 7, 2),
            blocks,
        }
    }

    /// `[B, 3, S, S] -> [B, M, 1024]` with `M = ceil(S / 16)^2`, rows first.
    pub(crate) fn forward(&self, images: Tensor<4>, ops: &Ops) -> Tensor<3> {
        let stem = self.stem.clone();
        let mut side = images.dims()[2].div_ceil(4);
        let mut x = ops.segment(Vec::new(), move |ops, _| {
            let x = stem.forward(images.clone(), ops);
            let pool = MaxPoolOptions::new([3, 3])
                .with_stride([2, 2])
                .with_padding([1, 1]);
            flatten(max_pool2d(ops.activate(x, Activation::Relu), pool))
        });
        for block in self.blocks.clone() {
            let before = side;
            side = side.div_ceil(block.middle.convolution.stride());
            x = ops.segment(vec![x], move |ops, x| {
                flatten(block.forward(unflatten(x[0].clone(), before), ops))
            });
        }
        ops.segment(vec![x], |_, x| x[0].clone().swap_dims(1, 2))
    }
}

/// `[B, C, H, W] -> [B, C, H W]`.
fn flatten(x: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height * width])
}

/// Back to squares of `side`.
fn unflatten(x: Tensor<3>, side: usize) -> Tensor<4> {
    let [batch, channels, _] = x.dims();
    x.reshape([batch, channels, side, side])
}
