//! From bytes to what the model sees, channel by channel.

/// 1/255 in two parts: with eight bits times the first there is nothing to round, so that the sum of both
/// products is the quotient rounded once, for every byte there is, and nothing is divided.
const PARTS_OF_255TH: (f32, f32) = (257.0 / 65_536.0, 1.0 / 255.0 / 65_536.0);

/// `x -> (x / 255 - 0.5) / 0.5`, and from HWC to CHW: what the model sees. `image` is RGB u8, row
/// by row; `out` takes as many values.
pub fn normalise(image: &[u8], out: &mut [f32]) {
    let of = |value: f32| value;
    pulp::Arch::new().dispatch(Planes { image, out, of });
}

/// The same into memory of no type: f32 in the machine's byte order.
pub(crate) fn normalise_to_bytes(image: &[u8], out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut();
    let of = f32::to_ne_bytes;
    pulp::Arch::new().dispatch(Planes { image, out, of });
}

/// What is done, compiled once for each vector extension.
struct Planes<'a, T, F> {
    image: &'a [u8],
    out: &'a mut [T],
    of: F,
}

impl<T, F: Fn(f32) -> T> pulp::NullaryFnOnce for Planes<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { image, out, of } = self;
        let (pixels, _) = image.as_chunks::<3>();
        if pixels.is_empty() {
            return;
        }
        for (channel, plane) in out.chunks_exact_mut(pixels.len()).take(3).enumerate() {
            for (slot, pixel) in plane.iter_mut().zip(pixels) {
                *slot = of(value(pixel[channel]));
            }
        }
    }
}

#[inline(always)]
fn value(byte: u8) -> f32 {
    let (byte, (more, less)) = (f32::from(byte), PARTS_OF_255TH);
    ((byte * more + byte * less) - 0.5) / 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(byte: u8) -> f32 {
        (f32::from(byte) / 255.0 - 0.5) / 0.5
    }

    #[test]
    fn every_byte_becomes_what_division_makes_of_it() {
        for byte in 0..=255 {
            assert_eq!(value(byte).to_bits(), divided(byte).to_bits(), "{byte}");
        }
    }

    /// Vectors have tails of every length.
    #[test]
    fn pixels_of_any_number_go_to_their_channels_whatever_holds_the_values() {
        for pixels in 0..150_usize {
            let byte = |at: usize| (at * 89 % 256) as u8;
            let image: Vec<u8> = (0..3 * pixels).map(byte).collect();
            let expected: Vec<f32> = (0..3 * pixels)
                .map(|at| divided(byte(at % pixels * 3 + at / pixels)))
                .collect();
            let mut values = vec![f32::NAN; 3 * pixels];
            normalise(&image, &mut values);
            assert_eq!(values, expected);
            let mut bytes = vec![0; 12 * pixels];
            normalise_to_bytes(&image, &mut bytes);
            let values = bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b));
            assert_eq!(values.collect::<Vec<_>>(), expected);
        }
    }
}
