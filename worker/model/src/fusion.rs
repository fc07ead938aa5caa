//! Eq. 3 and 4: text latents look at image latents through gates, iteration by iteration.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ringmaster_proto::spec::ModelSpec;

use crate::attention::Attention;
use crate::init::Init;
use crate::layer::{Layer, LayerSize, Mlp};
use crate::norm::LayerNorm;

/// Eq. 3, as printed:
/// ```text
/// a   = Ln(t)
/// Pcr = a + tanh(alpha) * Phi(a, Ln(f))
/// F   = Pcr + tanh(beta) * MLP(Pcr)
/// ```
/// The skip path carries `Ln(t)`, and there is no norm inside the MLP branch.
#[derive(Module, Debug)]
pub(crate) struct GatedFusion {
    norm_text: LayerNorm,
    norm_image: LayerNorm,
    attention: Attention,
    mlp: Mlp,
    alpha: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

impl GatedFusion {
    /// `hidden` is the MLP's width, `gate` the first value of alpha and beta.
    pub(crate) fn new(init: &Init, size: LayerSize, hidden: usize, gate: f64) -> Self {
        let LayerSize { width, heads, .. } = size;
        Self {
            norm_text: LayerNorm::new(&init.at("norm_text"), width),
            norm_image: LayerNorm::new(&init.at("norm_image"), width),
            attention: Attention::new(&init.at("attention"), width, heads, 1.0),
            mlp: Mlp::new(&init.at("mlp"), width, hidden, 1.0),
            alpha: init.constant([1], gate),
            beta: init.constant([1], gate),
        }
    }

    /// Text latents `t` and image latents `f`, both `[B, N, D]`, `-> F`, `[B, N, D]`.
    pub(crate) fn forward(&self, t: Tensor<3>, f: Tensor<3>) -> Tensor<3> {
        let gate = |parameter: &Param<Tensor<1>>| parameter.val().tanh().unsqueeze::<3>();
        let a = self.norm_text.forward(t);
        let seen = self
            .attention
            .forward(a.clone(), self.norm_image.forward(f), None);
        let crossed = a + seen * gate(&self.alpha);
        crossed.clone() + self.mlp.forward(crossed) * gate(&self.beta)
    }
}

/// One iteration: `F = fuse(t, f)`, `Fh = T(F)`, and eq. 4 with learned weights,
/// `t <- a * Fh + b * t`.
#[derive(Module, Debug)]
pub(crate) struct Iteration {
    fusion: GatedFusion,
    layers: Vec<Layer>,
    combine_fused: Param<Tensor<1>>,
    combine_text: Param<Tensor<1>>,
}

impl Iteration {
    pub(crate) fn new(init: &Init, spec: &ModelSpec, size: LayerSize) -> Self {
        let layers = spec.fusion_layers / spec.iterations;
        Self {
            fusion: GatedFusion::new(
                &init.at("fusion"),
                size,
                spec.fusion_mlp_width,
                spec.gate_init,
            ),
            layers: Layer::stack(init, "layers", layers, size),
            combine_fused: init.constant([1], 1.0),
            combine_text: init.constant([1], 1.0),
        }
    }

    /// The next `t`, `[B, N, D]`.
    pub(crate) fn forward(&self, t: Tensor<3>, f: Tensor<3>) -> Tensor<3> {
        let mut fused = self.fusion.forward(t.clone(), f);
        for layer in &self.layers {
            fused = layer.forward(fused, None);
        }
        self.combine(fused, t)
    }

    /// Eq. 4, weighted.
    fn combine(&self, fused: Tensor<3>, t: Tensor<3>) -> Tensor<3> {
        fused * self.combine_fused.val().unsqueeze() + t * self.combine_text.val().unsqueeze()
    }
}
