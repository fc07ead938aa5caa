//! Tensors of a safetensors file as f32, and the few ways in which a name map changes them.

use safetensors::tensor::{Dtype, TensorView};

/// A tensor on the host, last dimension fastest.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

impl Tensor {
    /// `values` has as many elements as `shape` says.
    pub(super) fn new(shape: Vec<usize>, values: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { shape, values }
    }

    /// Reads a tensor of a file; an error is why it cannot be used.
    pub(super) fn read(view: &TensorView<'_>) -> Result<Self, String> {
        let data = view.data();
        let halves = |widen: fn(u16) -> f32| {
            let values = data.as_chunks::<2>().0;
            values
                .iter()
                .map(|bytes| widen(u16::from_le_bytes(*bytes)))
                .collect()
        };
        let values = match view.dtype() {
            Dtype::F32 => {
                let values = data.as_chunks::<4>().0;
                values
                    .iter()
                    .map(|bytes| f32::from_le_bytes(*bytes))
                    .collect()
            }
            Dtype::BF16 => halves(|bits| half::bf16::from_bits(bits).to_f32()),
            Dtype::F16 => halves(|bits| half::f16::from_bits(bits).to_f32()),
            other => return Err(format!("it is {other:?}; F32, F16 and BF16 can be read")),
        };
        Ok(Self::new(view.shape().to_vec(), values))
    }

    /// `[1, rows, width]` as `[rows, width]`; anything else as it is.
    pub(super) fn unbatched(mut self) -> Self {
        if self.shape.len() == 3 && self.shape[0] == 1 {
            self.shape.remove(0);
        }
        self
    }

    /// Without its first `rows` rows.
    pub(super) fn without_rows(mut self, rows: usize) -> Result<Self, String> {
        if rows == 0 {
            return Ok(self);
        }
        let row = self.row_len();
        match self.shape.first_mut() {
            Some(first) if *first > rows => *first -= rows,
            _ => return Err(format!("{:?} has no {rows} rows to leave out", self.shape)),
        }
        self.values.drain(..rows * row);
        Ok(self)
    }

    /// `parts` equal parts of the first dimension.
    pub(super) fn cut(self, parts: usize) -> Result<Vec<Self>, String> {
        let first = self.shape.first().copied().unwrap_or(1);
        if parts == 1 {
            return Ok(vec![self]);
        }
        if parts == 0 || !first.is_multiple_of(parts) || self.values.is_empty() {
            return Err(format!("{:?} cannot be cut into {parts} parts", self.shape));
        }
        let shape = [&[first / parts], &self.shape[1..]].concat();
        let part = |values: &[f32]| Self::new(shape.clone(), values.to_vec());
        Ok(self
            .values
            .chunks(self.values.len() / parts)
            .map(part)
            .collect())
    }

    /// `[out, a, b, ..]` as `[a b .., out]`; a vector stays one.
    pub(super) fn transposed(self) -> Self {
        let Some((&outputs, rest)) = self
            .shape
            .split_first()
            .filter(|(_, rest)| !rest.is_empty())
        else {
            return self;
        };
        let inputs: usize = rest.iter().product();
        let element = |i: usize| self.values[i % outputs * inputs + i / outputs];
        let values = (0..self.values.len()).map(element).collect();
        Self::new(vec![inputs, outputs], values)
    }

    /// Divided by the root of its last dimension.
    pub(super) fn over_root_of_width(mut self) -> Self {
        let width = self.shape.last().copied().unwrap_or(1);
        let factor = (width as f64).sqrt().recip();
        for value in &mut self.values {
            *value = (f64::from(*value) * factor) as f32;
        }
        self
    }

    /// Elements of one row.
    pub(super) fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(dtype: Dtype, bytes: &[u8]) -> Result<Tensor, String> {
        Tensor::read(&TensorView::new(dtype, vec![2], bytes).unwrap())
    }

    #[test]
    fn half_precision_is_widened_exactly() {
        let expected = Tensor::new(vec![2], vec![1.5, -0.25]);
        let f32s = [1.5_f32.to_le_bytes(), (-0.25_f32).to_le_bytes()].concat();
        assert_eq!(read(Dtype::F32, &f32s).unwrap(), expected);
        // 1.5 and -0.25 by their bits: sign, exponent, fraction.
        let bf16s = [0x3FC0_u16.to_le_bytes(), 0xBE80_u16.to_le_bytes()].concat();
        assert_eq!(read(Dtype::BF16, &bf16s).unwrap(), expected);
        let f16s = [0x3E00_u16.to_le_bytes(), 0xB400_u16.to_le_bytes()].concat();
        assert_eq!(read(Dtype::F16, &f16s).unwrap(), expected);
        let error = read(Dtype::I16, &f16s).unwrap_err();
        assert!(error.contains("I16"), "{error}");
    }
}
