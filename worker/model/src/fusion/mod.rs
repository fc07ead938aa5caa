//! Where image and text meet: the paper's way (`jar`) and the ways it is compared with. All of them
//! turn `P(X_im)`, `[B, M, D]`, and `X_text`, `[B, L, D]`, into the decoder's memory.

mod concat;
mod cotok;
mod gated;
mod jar;
mod perceiver;
mod xattn;

use burn::module::Module;
use burn::tensor::Tensor;
use ringmaster_proto::spec::{self, ModelSpec};

use crate::attention::Mask;
use crate::init::Init;
use crate::layer::{Layer, LayerSpec};
use crate::meter::PartName;
use crate::ops::Ops;

#[cfg(test)]
pub(crate) use gated::GatedFusion;

/// What is fused.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    /// `P(X_im)`, `[B, M, D]`.
    pub(crate) image: Tensor<3>,
    /// `X_text`, `[B, L, D]`.
    pub(crate) text: Tensor<3>,
    /// Which text tokens are real.
    pub(crate) mask: Mask,
}

/// What the decoder attends to.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// `[B, N, D]`, or more tokens in `concat`, fewer in `xattn`.
    pub(crate) tokens: Tensor<3>,
    /// Where some of them are padding.
    pub(crate) mask: Option<Mask>,
}

/// One of the variants.
#[allow(clippy::large_enum_variant, reason = "a model has one")]
#[derive(Module, Debug)]
pub(crate) enum Fusion {
    Concat(concat::Concat),
    Xattn(xattn::Xattn),
    Perceiver(perceiver::Perceiver),
    Cotok(cotok::Cotok),
    Jar(jar::Jar),
}

impl Fusion {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        match spec.fusion {
            spec::Fusion::Concat => Self::Concat(concat::Concat::new(init, spec)),
            spec::Fusion::Xattn => Self::Xattn(xattn::Xattn::new(init, spec)),
            spec::Fusion::Perceiver => Self::Perceiver(perceiver::Perceiver::new(init, spec)),
            spec::Fusion::Cotok => Self::Cotok(cotok::Cotok::new(init, spec)),
            spec::Fusion::Jar => Self::Jar(jar::Jar::new(init, spec)),
        }
    }

    /// The memory, before its norm.
    pub(crate) fn forward(&self, inputs: Inputs, ops: &Ops) -> Memory {
        let all_real = |tokens| Memory { tokens, mask: None };
        match self {
            Self::Concat(concat) => concat.forward(inputs, ops),
            Self::Xattn(xattn) => xattn.forward(inputs, ops),
            Self::Perceiver(perceiver) => all_real(perceiver.forward(inputs, ops)),
            Self::Cotok(cotok) => all_real(cotok.forward(inputs, ops)),
            Self::Jar(jar) => all_real(jar.forward(inputs, ops)),
        }
    }
}

/// `T_i`: the transformer layers of one iteration.
#[derive(Module, Debug)]
pub(crate) struct Stack {
    layers: Vec<Layer>,
}

impl Stack {
    /// Those of every iteration, or one for all of them.
    fn of_iterations(init: &Init, spec: &ModelSpec) -> Vec<Self> {
        let layers = spec.fusion_layers / spec.iterations;
        let stack = |i| Self {
            layers: Layer::stack(
                &init.item("stacks", i),
                "layers",
                layers,
                LayerSpec::fusion(spec),
            ),
        };
        (0..count(spec.share_layers, spec)).map(stack).collect()
    }

    /// `[B, N, D] -> [B, N, D]`.
    fn forward(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        ops.part(PartName::Transformer, || {
            Layer::run(&self.layers, x, None, ops)
        })
    }
}

/// Element `i` of what iterations have each or share.
fn of_iteration<T>(each: &[T], i: usize) -> &T {
    &each[i % each.len()]
}

/// How many of something the iterations have.
fn count(shared: bool, spec: &ModelSpec) -> usize {
    if shared { 1 } else { spec.iterations }
}
