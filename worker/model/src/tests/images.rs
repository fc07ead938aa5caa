//! Convolutions, group norm and the image encoders.

use burn::tensor::Tensor;

use super::reference::{Parameters, image};
use super::*;
use crate::image::ImageEncoder;
use crate::linear::Convolution;
use crate::norm::GroupNorm;
use crate::ops::Ops;

/// What `of` says of every example, in the order of a tensor's elements.
fn each_picture(of: impl Fn(usize) -> Picture) -> impl Iterator<Item = f64> {
    (0..BATCH).flat_map(of).flatten().flatten()
}

/// `[B, C, H, W]` as the model has pictures, `[B, H W, C]`.
fn pixels(x: Tensor<4>) -> Tensor<3> {
    x.flatten::<3>(2, 3).swap_dims(1, 2)
}

/// Back to channels first, `[B, C, H W]`.
fn channels(x: Tensor<3>) -> Tensor<3> {
    x.swap_dims(1, 2)
}

#[test]
fn convolution_is_a_sum_over_a_padded_window() {
    for side in [7, 10] {
        let (x, pictures) = pictures("x", [3, side, side]);
        for kernel in [1, 3, 7] {
            for stride in [1, 2] {
                let module = random(|init| Convolution::new(init, [3, 4], kernel, stride));
                let values = values(&module);
                let p = Parameters::of(&values);
                assert_close(
                    channels(module.forward(pixels(x.clone()), &Ops::inference())),
                    each_picture(|b| image::convolution(&p, &pictures[b], kernel, stride)),
                );
            }
        }
    }
}

#[test]
fn group_norm_normalises_groups_of_channels_over_all_places() {
    let module = random(|init| GroupNorm::new(init, 96));
    let values = values(&module);
    // Values whose mean is far from 0, and values so small that the epsilon counts.
    for (scale, shift) in [(1.0, 3.0), (0.01, 0.0)] {
        let (x, mut pictures) = pictures("x", [96, 3, 4]);
        let x = x.mul_scalar(scale).add_scalar(shift);
        let all = pictures.iter_mut().flatten().flatten().flatten();
        all.for_each(|x| *x = *x * scale + shift);
        assert_close(
            channels(module.forward(pixels(x), false, &Ops::inference())),
            each_picture(|b| image::group_norm(&Parameters::of(&values), &pictures[b], 32)),
        );
    }
}

#[test]
fn group_norm_of_an_example_does_not_depend_on_the_others() {
    let (x, _) = pictures("x", [64, 3, 3]);
    let (other, _) = pictures("other", [64, 3, 3]);
    let module = random(|init| GroupNorm::new(init, 64));
    let first = |x: Tensor<4>| x.narrow(0, 0, 1);
    let beside = |other: Tensor<4>| Tensor::cat(vec![first(x.clone()), first(other)], 0);
    let normed = |x: Tensor<4>| module.forward(pixels(x), false, &Ops::inference());
    let of_first = |x: Tensor<4>| floats(normed(x).narrow(0, 0, 1));
    let expected = of_first(first(x.clone()));
    assert_eq!(of_first(beside(x.clone())), expected);
    assert_eq!(of_first(beside(other.mul_scalar(100.0))), expected);
}

fn assert_encoder(sets: &[&str], tokens: usize) {
    let spec = spec(sets);
    let module = random(|init| ImageEncoder::new(init, &spec));
    let values = values(&module);
    let size = spec.image_size;
    let (images, pictures) = pictures("images", [3, size, size]);
    let output = module.forward(images, &Ops::inference());
    assert_eq!(output.dims(), [BATCH, tokens, spec.visual_width()]);
    let p = Parameters::of(&values);
    assert_close(output, each(|b| image::encoder(&p, &spec, &pictures[b])));
}

#[test]
fn patch_encoder_is_patches_through_layers() {
    assert_encoder(&["model.image_encoder=patch"], VISUAL);
}

#[test]
fn vit_is_patches_through_layers_with_biases_and_a_last_norm() {
    assert_encoder(&["model.image_encoder=vit"], VISUAL);
}

/// Sides of 36, 18, 9, 5 and 3: two of them are rounded up.
#[test]
fn resnet_is_a_stem_and_three_stages_of_bottlenecks() {
    let sets = ["model.image_encoder=resnet50-c4", "model.image_size=36"];
    assert_encoder(&sets, 9);
}

#[test]
fn resnet_takes_the_smallest_pictures() {
    let sets = ["model.image_encoder=resnet50-c4", "model.image_size=16"];
    assert_encoder(&sets, 1);
}
