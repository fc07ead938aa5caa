//! The coefficients of one block, in each of the ways that a scan may code them.

use super::bits::{Bits, Damaged, Huffman};
use super::head::ZIGZAG;

/// What one component's blocks share within a scan.
pub(super) struct Coding<'a> {
    pub(super) dc: Option<&'a Huffman>,
    pub(super) ac: Option<&'a Huffman>,
    /// First and last coefficient.
    pub(super) band: (usize, usize),
    /// Bits above the last that are known already, and that are told now.
    pub(super) bits: (u32, u32),
}

impl Coding<'_> {
    /// A whole block, dequantised by `table`.
    #[inline(always)]
    pub(super) fn baseline(
        &self,
        bits: &mut Bits,
        last_dc: &mut i32,
        table: &[i32; 64],
        block: &mut [i32; 64],
    ) -> Result<(), Damaged> {
        *last_dc = last_dc.wrapping_add(self.difference(bits)?);
        block[0] = last_dc.wrapping_mul(table[0]);
        let ac = self.ac.ok_or(Damaged)?;
        let mut k = 1;
        while k < 64 {
            let (zeros, value) = ac.coefficient(bits)?;
            if value != 0 {
                k += zeros;
                let place = usize::from(ZIGZAG[k]);
                block[place] = value.wrapping_mul(table[place]);
                k += 1;
            } else if zeros == 0xf0 {
                k += 16;
            } else {
                break;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn difference(&self, bits: &mut Bits) -> Result<i32, Damaged> {
        bits.fill();
        let size = u32::from(self.dc.ok_or(Damaged)?.symbol(bits)?);
        if size > 15 {
            return Err(Damaged);
        }
        Ok(bits.take_signed(size))
    }

    /// A block's part of a progressive scan. `run`: blocks that are known to have nothing more.
    pub(super) fn progressive(
        &self,
        bits: &mut Bits,
        last_dc: &mut i32,
        run: &mut u32,
        block: &mut [i16; 64],
    ) -> Result<(), Damaged> {
        match (self.band.0, self.bits.0) {
            (0, 0) => {
                *last_dc = last_dc.wrapping_add(self.difference(bits)?);
                block[0] = (*last_dc << self.bits.1) as i16;
                Ok(())
            }
            (0, _) => {
                bits.fill();
                block[0] |= (bits.take(1) << self.bits.1) as i16;
                Ok(())
            }
            (_, 0) => self.first(bits, run, block),
            _ => self.finer(bits, run, block),
        }
    }

    fn first(&self, bits: &mut Bits, run: &mut u32, block: &mut [i16; 64]) -> Result<(), Damaged> {
        if *run > 0 {
            *run -= 1;
            return Ok(());
        }
        let ac = self.ac.ok_or(Damaged)?;
        let mut k = self.band.0;
        while k <= self.band.1 {
            let (zeros, value) = ac.coefficient(bits)?;
            if value != 0 {
                k += zeros;
                block[usize::from(ZIGZAG[k])] = (value << self.bits.1) as i16;
                k += 1;
            } else if zeros == 0xf0 {
                k += 16;
            } else {
                *run = ended(bits, zeros)?;
                break;
            }
        }
        Ok(())
    }

    fn finer(&self, bits: &mut Bits, run: &mut u32, block: &mut [i16; 64]) -> Result<(), Damaged> {
        let ac = self.ac.ok_or(Damaged)?;
        let one = 1_i16 << self.bits.1;
        let mut k = self.band.0;
        if *run == 0 {
            while k <= self.band.1 {
                bits.fill();
                let symbol = ac.symbol(bits)?;
                let (mut zeros, new) = (usize::from(symbol >> 4), symbol & 15);
                let value = match new {
                    0 if zeros < 15 => {
                        // This block's rest is part of the run.
                        *run = ended(bits, usize::from(symbol))? + 1;
                        break;
                    }
                    0 => 0,
                    1 if bits.take(1) == 1 => one,
                    1 => -one,
                    _ => return Err(Damaged),
                };
                while k <= self.band.1 {
                    let known = &mut block[usize::from(ZIGZAG[k])];
                    k += 1;
                    if *known != 0 {
                        refine(bits, known, one);
                    } else if zeros == 0 {
                        *known = value;
                        break;
                    } else {
                        zeros -= 1;
                    }
                }
            }
        }
        if *run > 0 {
            for place in &ZIGZAG[k..=self.band.1] {
                let known = &mut block[usize::from(*place)];
                if *known != 0 {
                    refine(bits, known, one);
                }
            }
            *run -= 1;
        }
        Ok(())
    }
}

/// One more bit of a coefficient that is not 0.
fn refine(bits: &mut Bits, known: &mut i16, one: i16) {
    bits.fill();
    if bits.take(1) == 1 && *known & one == 0 {
        *known = known.wrapping_add(if *known > 0 { one } else { -one });
    }
}

/// How many blocks after this one have nothing more, by the symbol that ends this one.
fn ended(bits: &mut Bits, symbol: usize) -> Result<u32, Damaged> {
    let length = (symbol >> 4) as u32;
    if length > 14 {
        return Err(Damaged);
    }
    bits.fill();
    Ok((1_u32 << length) - 1 + bits.take(length) as u32)
}
