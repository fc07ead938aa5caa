//! ResNet-50 (He et al. 2016; the stride in the 3x3 convolution) up to stage C4: stride 16, 1024
//! channels, with group norm.

use burn::module::Module;
use burn::tensor::Tensor;
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

    /// `[B, T, C] -> [B, T', C']`, where asked for through a rectifier.
    fn forward(&self, x: Tensor<3>, rectify: bool, ops: &Ops) -> Tensor<3> {
        let x = self.convolution.forward(x, ops);
        self.norm.forward(x, rectify, ops)
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

    fn forward(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        let y = self.reduce.forward(x.clone(), true, ops);
        let y = self.middle.forward(y, true, ops);
        let y = self.expand.forward(y, false, ops);
        let shortcut = match &self.shortcut {
            Some(unit) => unit.forward(x, false, ops),
            None => x,
        };
        ops.activate(shortcut + y, Activation::Relu)
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

    /// `[B, 3, S, S] -> [B, M, 1024]` with `M = ceil(S / 16)^2`, rows first. Channels come last
    /// throughout: a convolution of side 1 is then a product, and a pixel a token.
    pub(crate) fn forward(&self, images: Tensor<4>, ops: &Ops) -> Tensor<3> {
        let stem = self.stem.clone();
        let pixels = images.flatten::<3>(2, 3).swap_dims(1, 2);
        let start = ops.segment(Vec::new(), move |ops, _| {
            ops.max_pool(stem.forward(ops.half(pixels.clone()), true, ops))
        });
        self.blocks.iter().cloned().fold(start, |x, block| {
            ops.segment(vec![x], move |ops, x| block.forward(x[0].clone(), ops))
        })
    }
}
