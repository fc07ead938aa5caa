//! The whole model.

use ringmaster_proto::spec::ModelSpec;

use super::fusion::Inputs;
use super::image::Picture;
use super::{Matrix, Parameters, add, affine, fusion, image, layer_norm, text};

/// What the encoders get.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) image: Picture,
    pub(crate) text: Vec<usize>,
    /// How many tokens of the text are not padding.
    pub(crate) real: usize,
}

/// What the decoder attends to, and what of it it may see.
pub(crate) fn memory(p: &Parameters, spec: &ModelSpec, question: &Question) -> (Matrix, Vec<bool>) {
    let Question { image, text, real } = question;
    let projection = p.at("projection");
    let x = image::encoder(&p.at("image_encoder"), spec, image);
    let image = add(
        &affine(&projection.at("image"), &x),
        &projection.rows("positions", spec.width),
        1.0,
    );
    let x = text::embedding(&p.at("embedding"), text, spec.text_width);
    let x = text::encoder(&p.at("text_encoder"), spec, &x, *real);
    let text = if spec.text_width == spec.width {
        x
    } else {
        affine(&projection.at("text"), &x)
    };
    let inputs = Inputs {
        image: &image,
        text: &text,
        real: *real,
    };
    let (memory, visible) = fusion::fusion(&p.at("fusion"), spec, inputs);
    (layer_norm(&p.at("norm_memory"), &memory), visible)
}

/// Scores of the token after each of `input`.
pub(crate) fn logits(
    p: &Parameters,
    spec: &ModelSpec,
    (memory, visible): &(Matrix, Vec<bool>),
    input: &[usize],
) -> Matrix {
    let embedding = p.at("embedding");
    let x = text::embedding(&embedding, input, spec.text_width);
    let x = text::decoder(&p.at("decoder"), spec, &x, (memory, visible));
    text::logits(&embedding, &x)
}

/// The most likely next token until `end` or as many tokens as the model may say.
pub(crate) fn answer(
    p: &Parameters,
    spec: &ModelSpec,
    question: &Question,
    [begin, end]: [usize; 2],
) -> Vec<usize> {
    let memory = memory(p, spec, question);
    let mut tokens = vec![begin];
    while tokens.len() <= spec.target_len {
        let scores = &logits(p, spec, &memory, &tokens)[tokens.len() - 1];
        let next = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        match next {
            Some(token) if token != end => tokens.push(token),
            _ => break,
        }
    }
    tokens.split_off(1)
}
