//! Eq. 3: text latents look at image latents through gates.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ringmaster_proto::spec::{ModelSpec, Skip};

use crate::attention::Attention;
use crate::init::Init;
use crate::layer::{LayerSpec, Mlp};
use crate::norm::Norm;
use crate::ops::Ops;

/// Eq. 3, as printed:
/// ```text
/// a   = Ln(t)
/// Pcr = a + tanh(alpha) * Phi(a, Ln(f))
/// F   = Pcr + tanh(beta) * MLP(Pcr)
/// ```
/// The skip path carries `Ln(t)`, and there is no norm inside the MLP branch. Variants: the skip path
/// carries `t`; without gates tanh(.) is 1; `a <- a + Phi(a, a)` comes first.
#[derive(Module, Debug)]
pub(crate) struct GatedFusion {
    norm_text: Norm,
    norm_image: Norm,
    attention_self: Option<Attention>,
    attention: Attention,
    mlp: Mlp,
    alpha: Option<Param<Tensor<1>>>,
    beta: Option<Param<Tensor<1>>>,
    skips_norm: bool,
}

impl GatedFusion {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let layer = LayerSpec::fusion(spec);
        let attention = |name| Attention::new(&init.at(name), layer.attention(), 1.0);
        let wide = LayerSpec {
            hidden: spec.fusion_mlp_width,
            ..layer
        };
        let gate = || spec.gating.then(|| init.constant([1], spec.gate_init));
        Self {
            norm_text: Norm::layer(&init.at("norm_text"), spec.width),
            norm_image: Norm::layer(&init.at("norm_image"), spec.width),
            attention_self: spec.fuse_self_attn.then(|| attention("attention_self")),
            attention: attention("attention"),
            mlp: Mlp::new(&init.at("mlp"), wide, 1.0),
            alpha: gate(),
            beta: gate(),
            skips_norm: spec.skip == Skip::T,
        }
    }

    /// Text latents `t` and image latents `f`, both `[B, N, D]`, `-> F`, `[B, N, D]`.
    pub(crate) fn forward(&self, t: Tensor<3>, f: Tensor<3>, ops: &Ops) -> Tensor<3> {
        let gated = |branch: Tensor<3>, gate: &Option<Param<Tensor<1>>>| match gate {
            Some(gate) => ops.scale(branch, gate.val().tanh()),
            None => branch,
        };
        let mut a = self.norm_text.forward(t.clone());
        if let Some(attention) = &self.attention_self {
            let own = attention.forward(a.clone(), a.clone(), None, ops);
            a = a + ops.dropout(own);
        }
        let seen =
            self.attention
                .forward(a.clone(), self.norm_image.forward_half(f, ops), None, ops);
        let skip = if self.skips_norm { t } else { a };
        let crossed = skip + gated(ops.dropout(seen), &self.alpha);
        let hidden = self.mlp.forward(crossed.clone(), ops);
        crossed + gated(ops.dropout(hidden), &self.beta)
    }
}
