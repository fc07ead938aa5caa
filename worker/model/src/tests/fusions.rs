//! Eq. 1 to 4, their variants, and the fusions they are compared with.

use super::reference::{Parameters, add, affine, fusion};
use super::*;
use crate::fusion::{Fusion, GatedFusion, Inputs, Memory};
use crate::ops::Ops;
use crate::resample::{Projection, Resampler};
use crate::token_learner::{SpatialLearner, TextLearner};

pub(super) const TOKEN_LEARNERS: [&str; 3] = [
    "model.token_learner=conv",
    "model.token_learner=v1",
    "model.token_learner=v11",
];

#[test]
fn projection_is_equation_1_and_positions() {
    let spec = spec(&[]);
    let module = random(|init| Projection::new(init, &spec));
    let values = values(&module);
    let p = Parameters::of(&values);
    let (image, image_rows) = input("image", VISUAL, 16);
    let positions = p.rows("positions", WIDTH);
    assert_close(
        module.image(image, &Ops::inference()),
        each(|b| add(&affine(&p.at("image"), &image_rows[b]), &positions, 1.0)),
    );
    let (text, text_rows) = input("text", TOKENS, TEXT_WIDTH);
    assert_close(
        module.text(text, &Ops::inference()),
        each(|b| affine(&p.at("text"), &text_rows[b])),
    );
}

#[test]
fn text_as_wide_as_fusion_is_not_projected() {
    let spec = spec(&["model.text_width=12", "model.text_heads=4"]);
    let module = random(|init| Projection::new(init, &spec));
    let (text, rows) = input("text", TOKENS, WIDTH);
    assert_close(
        module.text(text, &Ops::inference()),
        each(|b| rows[b].clone()),
    );
}

#[test]
fn resampling_is_equation_2() {
    for kv_norm in ["model.kv_norm=true", "model.kv_norm=false"] {
        let spec = spec(&[kv_norm]);
        let module = random(|init| Resampler::new(init, &spec));
        let values = values(&module);
        let p = Parameters::of(&values);
        let (x, rows) = input("x", TOKENS, WIDTH);
        assert_close(
            module.forward(x.clone(), Some(&key_mask()), &Ops::inference()),
            each(|b| fusion::resample(&p, &spec, &rows[b], REAL[b])),
        );
        assert_close(
            module.forward(x, None, &Ops::inference()),
            each(|b| fusion::resample(&p, &spec, &rows[b], TOKENS)),
        );
    }
}

#[test]
fn spatial_learner_weighs_tokens_by_maps_of_its_guides() {
    let (guides, guide_rows) = input("guides", VISUAL, WIDTH);
    let (x, rows) = input("x", VISUAL, WIDTH);
    for kind in TOKEN_LEARNERS {
        let spec = spec(&[kind]);
        let module = random(|init| SpatialLearner::new(init, &spec));
        let values = values(&module);
        let p = Parameters::of(&values);
        let kind = spec.token_learner;
        assert_close(
            module.forward(guides.clone(), x.clone(), &Ops::inference()),
            each(|b| fusion::spatial_learner(&p, kind, &guide_rows[b], &rows[b])),
        );
    }
}

#[test]
fn text_learner_weighs_real_tokens_by_maps_of_its_guides() {
    let (guides, guide_rows) = input("guides", TOKENS, WIDTH);
    let (x, rows) = input("x", TOKENS, WIDTH);
    let module = random(|init| TextLearner::new(init, &spec(&[])));
    let values = values(&module);
    let p = Parameters::of(&values);
    assert_close(
        module.forward(guides, x, &key_mask(), &Ops::inference()),
        each(|b| fusion::text_learner(&p, &guide_rows[b], &rows[b], REAL[b])),
    );
}

#[test]
fn gated_fusion_is_equation_3_as_printed_and_its_variants() {
    let (t, t_rows) = input("t", LATENTS, WIDTH);
    let (f, f_rows) = input("f", LATENTS, WIDTH);
    for skip in ["model.skip=LnT", "model.skip=T"] {
        for gating in ["model.gating=true", "model.gating=false"] {
            for own in ["model.fuse_self_attn=false", "model.fuse_self_attn=true"] {
                for activation in ["model.activation=relu", "model.activation=gelu"] {
                    let spec = spec(&[skip, gating, own, activation]);
                    let module = random(|init| GatedFusion::new(init, &spec));
                    let values = values(&module);
                    let p = Parameters::of(&values);
                    assert_close(
                        module.forward(t.clone(), f.clone(), &Ops::inference()),
                        each(|b| fusion::gated(&p, &spec, &t_rows[b], &f_rows[b])),
                    );
                }
            }
        }
    }
}

#[test]
fn closed_gates_hide_the_image() {
    let spec = spec(&["model.gate_init=0"]);
    let device = device();
    let module = GatedFusion::new(&Init::new(1, &device), &spec);
    let (t, _) = input("t", LATENTS, WIDTH);
    let bits = |f: &str| {
        let (f, _) = input(f, LATENTS, WIDTH);
        let fused = module.forward(t.clone(), f, &Ops::inference());
        floats(fused)
    };
    assert_eq!(bits("f"), bits("another f"));
}

/// Compares the memory of a fusion and what may be seen of it.
fn assert_fusion(sets: &[&str]) {
    let spec = spec(sets);
    let module = random(|init| Fusion::new(init, &spec));
    let values = values(&module);
    let (image, image_rows) = input("image", VISUAL, WIDTH);
    let (text, text_rows) = input("text", TOKENS, WIDTH);
    let mask = key_mask();
    let Memory { tokens, mask } = module.forward(Inputs { image, text, mask }, &Ops::inference());
    let of = |b: usize| {
        let inputs = fusion::Inputs {
            image: &image_rows[b],
            text: &text_rows[b],
            real: REAL[b],
        };
        fusion::fusion(&Parameters::of(&values), &spec, inputs)
    };
    let [_, count, _] = tokens.dims();
    assert_close(tokens, each(|b| of(b).0));

    let seen = match mask {
        None => vec![true; BATCH * count],
        Some(mask) => {
            let added = floats(mask.added());
            added.iter().map(|added| *added == 0.0).collect()
        }
    };
    let expected: Vec<bool> = (0..BATCH).flat_map(|b| of(b).1).collect();
    assert_eq!(seen, expected);
}

#[test]
fn concat_is_one_transformer_over_all_tokens() {
    assert_fusion(&["model.fusion=concat"]);
    assert_fusion(&["model.fusion=concat", "model.activation=gelu"]);
}

#[test]
fn xattn_is_text_that_looks_at_the_image_in_every_layer() {
    assert_fusion(&["model.fusion=xattn"]);
}

const SHARING: [&[&str]; 3] = [
    &[],
    &["model.share_fusion=true"],
    &["model.share_layers=true"],
];

#[test]
fn perceiver_attends_to_all_inputs_in_every_iteration() {
    for sharing in SHARING {
        assert_fusion(&[&["model.fusion=perceiver"], sharing].concat());
    }
}

#[test]
fn cotok_reduces_all_inputs_anew_in_every_iteration() {
    for token_learner in TOKEN_LEARNERS {
        for sharing in SHARING {
            assert_fusion(&[&["model.fusion=cotok", token_learner], sharing].concat());
        }
    }
}

#[test]
fn jar_combines_iterations_by_equation_4() {
    for combine in ["none", "residual", "weighted"] {
        for memory in ["combined", "last", "mixture"] {
            let combine = format!("model.combine={combine}");
            let memory = format!("model.memory={memory}");
            assert_fusion(&[&combine, &memory]);
        }
    }
}

#[test]
fn jar_reduces_tokens_by_attention_or_by_maps() {
    assert_fusion(&["model.resample=latent", "model.kv_norm=false"]);
    for token_learner in TOKEN_LEARNERS {
        assert_fusion(&["model.resample=spatial", token_learner]);
    }
}

#[test]
fn jar_may_share_weights_between_iterations() {
    for sharing in SHARING {
        assert_fusion(sharing);
    }
    assert_fusion(&["model.share_fusion=true", "model.share_layers=true"]);
}

#[test]
fn jar_passes_the_flags_of_equation_3_on() {
    assert_fusion(&["model.gating=false", "model.skip=T"]);
    assert_fusion(&["model.fuse_self_attn=true", "model.activation=gelu"]);
}
