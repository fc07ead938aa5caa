//! Scenes as pixels, in integers alone: the same bytes on every machine.

use super::{Color, SIDE, Scene, Shape};

/// Side of the square picture, pixels.
pub const SIZE: usize = 64;

/// Samples per pixel and axis: edges are smoothed over [`SAMPLES`]^2 + 1 levels.
const SAMPLES: i32 = 4;

/// Half the side of an object in half samples, in which everything below is measured: samples then
/// lie at odd numbers.
const RADIUS: i32 = SIDE as i32 * SAMPLES;

/// RGB bytes, row by row.
pub(super) fn render(scene: &Scene) -> Vec<u8> {
    let mut image: Vec<u8> = scene.background.repeat(SIZE * SIZE);
    for object in &scene.objects {
        for y in 0..SIDE {
            for x in 0..SIDE {
                let at = 3 * ((object.top + y) * SIZE + object.left + x);
                let covered = coverage(object.shape, x as i32, y as i32);
                blend(&mut image[at..at + 3], rgb(object.color), covered);
            }
        }
    }
    image
}

/// Every colour is brighter than any background in all three channels, so that a shape looks much
/// the same in all colours.
fn rgb(color: Color) -> [u8; 3] {
    match color {
        Color::Red => [255, 110, 110],
        Color::Green => [110, 255, 110],
        Color::Blue => [110, 110, 255],
        Color::Yellow => [235, 235, 100],
        Color::Purple => [235, 100, 235],
        Color::Cyan => [100, 235, 235],
    }
}

fn blend(pixel: &mut [u8], color: [u8; 3], covered: i32) {
    for (under, over) in pixel.iter_mut().zip(color) {
        let (below, above) = (i32::from(*under), i32::from(over));
        *under = (below + (above - below) * covered / (SAMPLES * SAMPLES)) as u8;
    }
}

/// How many of the samples of pixel (x, y) of an object's square lie on the shape.
fn coverage(shape: Shape, x: i32, y: i32) -> i32 {
    let mut covered = 0;
    for row in 0..SAMPLES {
        for column in 0..SAMPLES {
            let u = 2 * (x * SAMPLES + column) + 1 - RADIUS;
            let v = 2 * (y * SAMPLES + row) + 1 - RADIUS;
            covered += i32::from(inside(shape, u, v));
        }
    }
    covered
}

/// Whether the point (u, v), measured from the centre, lies on a shape that fills the square of half
/// side [`RADIUS`].
fn inside(shape: Shape, u: i32, v: i32) -> bool {
    match shape {
        Shape::Ring => (RADIUS * RADIUS / 5..=RADIUS * RADIUS).contains(&(u * u + v * v)),
        Shape::Square => true,
        Shape::Bar => v.abs() * 3 <= RADIUS,
        Shape::Cross => u.abs().min(v.abs()) * 3 <= RADIUS,
    }
}
