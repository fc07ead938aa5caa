//! TokenLearner (Ryoo et al. 2021): N weighted sums of all tokens, with learned maps of weights.

use burn::module::Module;
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{FloatDType, Tensor};
use ringmaster_proto::spec::{self, Activation, ModelSpec};

use crate::attention::Mask;
use crate::init::Init;
use crate::linear::{Convolution, Linear};
use crate::norm::Norm;
use crate::ops::{Form, Ops};

/// Hidden width of the maps' MLP in TokenLearner 1.1.
const HIDDEN: usize = 64;

/// Maps over the image, `A`, `[B, N, M]`, made of guides `G`, `[B, M, D]`:
/// ```text
/// conv   A = softmax_M(gelu(conv3x3(Ln G)) W)
/// v1     A = sigmoid(conv3x3(gelu(conv3x3(gelu(conv3x3(gelu(conv3x3(Ln G))))))))
/// v11    A = softmax_M(gelu(Ln(G) W_h) W)
/// ```
/// The convolutions of `v1` have N channels, that of `conv` has D.
#[derive(Module, Debug)]
pub(crate) struct SpatialLearner {
    norm: Norm,
    convolutions: Vec<Convolution>,
    hidden: Option<Linear>,
    maps: Option<Linear>,
}

impl SpatialLearner {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let (width, tokens) = (spec.width, spec.tokens);
        let convolution = |(i, channels): (usize, [usize; 2])| {
            Convolution::new(&init.item("convolutions", i), channels, 3, 1)
        };
        let channels = match spec.token_learner {
            spec::TokenLearner::Conv => vec![[width, width]],
            spec::TokenLearner::V1 => {
                let narrow = [tokens, tokens];
                vec![[width, tokens], narrow, narrow, narrow]
            }
            spec::TokenLearner::V11 => Vec::new(),
        };
        let linear = |name, inputs, outputs| Linear::new(&init.at(name), inputs, outputs, 1.0);
        Self {
            norm: Norm::layer(&init.at("norm"), width),
            convolutions: channels.into_iter().enumerate().map(convolution).collect(),
            hidden: (spec.token_learner == spec::TokenLearner::V11)
                .then(|| linear("hidden", width, HIDDEN)),
            maps: match spec.token_learner {
                spec::TokenLearner::Conv => Some(linear("maps", width, tokens)),
                spec::TokenLearner::V11 => Some(linear("maps", HIDDEN, tokens)),
                spec::TokenLearner::V1 => None,
            },
        }
    }

    /// `A X`: guides `G` and tokens `X`, `[B, M, D]` of a square, `-> [B, N, D]`.
    pub(crate) fn forward(&self, guides: Tensor<3>, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        let gelu = |x| ops.activate(x, Activation::Gelu);
        let guides = self.norm.forward(guides);
        let maps = match &self.maps {
            Some(maps) => {
                let features = match &self.hidden {
                    Some(hidden) => gelu(hidden.forward(guides, ops)),
                    None => gelu(self.convolve(guides, ops)),
                };
                softmax(maps.forward(features, ops), 1)
            }
            None => sigmoid(self.convolve(guides, ops).cast(FloatDType::F32)),
        };
        weighted_sums(maps, x, ops)
    }

    /// `[B, M, D] -> [B, M, channels]`, GELU between convolutions.
    fn convolve(&self, mut x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        for (i, convolution) in self.convolutions.iter().enumerate() {
            if i > 0 {
                x = ops.activate(x, Activation::Gelu);
            }
            x = convolution.forward(x, ops);
        }
        x
    }
}

/// Maps over text: `A = softmax_L(gelu(Ln(G) W_d) W)`; padding has no weight.
#[derive(Module, Debug)]
pub(crate) struct TextLearner {
    norm: Norm,
    dense: Linear,
    maps: Linear,
}

impl TextLearner {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let width = spec.width;
        Self {
            norm: Norm::layer(&init.at("norm"), width),
            dense: Linear::new(&init.at("dense"), width, width, 1.0),
            maps: Linear::new(&init.at("maps"), width, spec.tokens, 1.0),
        }
    }

    /// `A X`: guides `G` and tokens `X`, `[B, L, D]`, `-> [B, N, D]`.
    pub(crate) fn forward(
        &self,
        guides: Tensor<3>,
        x: Tensor<3>,
        mask: &Mask,
        ops: &Ops,
    ) -> Tensor<3> {
        let features = self.dense.forward(self.norm.forward(guides), ops);
        let features = ops.activate(features, Activation::Gelu);
        let scores = self.maps.forward(features, ops) + mask.of_tokens();
        weighted_sums(softmax(scores, 1), x, ops)
    }
}

/// `A^T X`: `[B, T, N]` and `[B, T, D]`, `-> [B, N, D]`.
fn weighted_sums(maps: Tensor<3>, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
    let (maps, x) = (maps.unsqueeze_dim(1), x.unsqueeze_dim(1));
    let sums = ops.matmul(maps, x, Form::LeftTransposed);
    sums.squeeze_dim(1).cast(FloatDType::F32)
}
