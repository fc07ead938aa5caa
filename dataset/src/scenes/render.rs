//! Scenes as pixels, in integers alone: the same bytes on every machine.

use super::{Color, Object, Scene, Shape};

/// Side of the square picture, pixels.
pub const SIZE: usize = 64;

/// Samples per pixel and axis: edges are smoothed over [`SAMPLES`]^2 + 1 levels.
const SAMPLES: i32 = 4;

/// RGB bytes, row by row.
pub(super) fn render(scene: &Scene) -> Vec<u8> {
    let mut image: Vec<u8> = scene.background.repeat(SIZE * SIZE);
    for object in &scene.objects {
        let (left, top) = (object.x - object.radius, object.y - object.radius);
        for y in top..top + 2 * object.radius {
            for x in left..left + 2 * object.radius {
                let at = 3 * (y as usize * SIZE + x as usize);
                blend(
                    &mut image[at..at + 3],
                    rgb(object.color),
                    coverage(object, x, y),
                );
            }
        }
    }
    image
}

fn rgb(color: Color) -> [u8; 3] {
    match color {
        Color::Red => [230, 40, 40],
        Color::Green => [40, 200, 60],
        Color::Blue => [50, 80, 240],
        Color::Yellow => [240, 220, 50],
        Color::Purple => [180, 60, 210],
        Color::Cyan => [60, 220, 230],
    }
}

fn blend(pixel: &mut [u8], color: [u8; 3], covered: i32) {
    for (under, over) in pixel.iter_mut().zip(color) {
        let (below, above) = (i32::from(*under), i32::from(over));
        *under = (below + (above - below) * covered / (SAMPLES * SAMPLES)) as u8;
    }
}

/// How many of the samples of pixel (x, y) lie on the object.
fn coverage(object: &Object, x: i32, y: i32) -> i32 {
    let unit = 2 * SAMPLES;
    let radius = object.radius * unit;
    let mut covered = 0;
    for row in 0..SAMPLES {
        for column in 0..SAMPLES {
            let u = (x - object.x) * unit + 2 * column + 1;
            let v = (y - object.y) * unit + 2 * row + 1;
            covered += i32::from(inside(object.shape, u, v, radius));
        }
    }
    covered
}

/// Whether the point (u, v), measured from the centre, lies on a shape that fills the square of half
/// side `radius`.
fn inside(shape: Shape, u: i32, v: i32, radius: i32) -> bool {
    match shape {
        Shape::Circle => u * u + v * v <= radius * radius,
        Shape::Square => u.abs().max(v.abs()) * 8 <= radius * 7,
        Shape::Triangle => 2 * u.abs() <= v + radius,
        Shape::Cross => u.abs().min(v.abs()) * 3 <= radius,
    }
}
