//! Bits of an entropy-coded segment, and Huffman codes in them.

/// Bits looked up at once; most codes with their value fit.
const LOOK: u32 = 10;

/// Bytes that may be read beyond the data before it counts as cut short: as many as are held.
const BEYOND_MAX: u32 = 8;

/// What an entropy-coded segment says that it cannot.
#[derive(Debug)]
pub(super) struct Damaged;

/// The bits of one segment, which ends at a marker.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next `held` bits, highest first. Those below are the bits that follow, or 0.
    buffer: u64,
    held: u32,
    beyond: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        let (buffer, held, beyond) = (0, 0, 0);
        Self {
            data,
            at,
            buffer,
            held,
            beyond,
        }
    }

    /// Where the marker is that ends the segment, if it is at its end.
    pub(super) fn marker(&self) -> usize {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let marker = |pair: &[u8]| pair[0] == 0xff && pair[1] != 0 && pair[1] != 0xff;
        self.at + rest.windows(2).position(marker).unwrap_or(rest.len())
    }

    /// Holds at least 56 bits: a code and its value.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        if self.held >= 32 {
            return;
        }
        if let Some(bytes) = self.data.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let word = u64::from_be_bytes(*bytes);
            // Some byte is 0xff where adding 1 to it carries out of its highest bit.
            let stuffed = word
                & 0x8080_8080_8080_8080
                & (word & 0x7f7f_7f7f_7f7f_7f7f).wrapping_add(0x0101_0101_0101_0101);
            if stuffed == 0 {
                self.buffer |= word >> self.held;
                let bytes = (63 - self.held) >> 3;
                self.at += bytes as usize;
                self.held += bytes * 8;
                return;
            }
        }
        self.fill_bytewise();
    }

    #[cold]
    fn fill_bytewise(&mut self) {
        while self.held <= 56 {
            let byte = match self.data.get(self.at..) {
                Some([0xff, 0, ..]) => {
                    self.at += 2;
                    0xff
                }
                None | Some([] | [0xff, ..]) => {
                    self.beyond += 1;
                    0
                }
                Some([byte, ..]) => {
                    self.at += 1;
                    *byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.held);
            self.held += 8;
        }
    }

    /// Whether more was asked for than there is.
    pub(super) fn ran_out(&self) -> bool {
        self.beyond > BEYOND_MAX
    }

    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.held = self.held.saturating_sub(bits);
    }

    /// The next `bits`, 0 to 16; call after [`Self::fill`].
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> i32 {
        if bits == 0 {
            return 0;
        }
        let value = self.peek(bits) as i32;
        self.skip(bits);
        value
    }

    /// A value of `bits` bits, negative where its first bit is 0.
    #[inline(always)]
    pub(super) fn take_signed(&mut self, bits: u32) -> i32 {
        let value = self.take(bits);
        if bits > 0 && value < 1 << (bits - 1) {
            value - (1 << bits) + 1
        } else {
            value
        }
    }
}

/// A Huffman table.
#[derive(Clone)]
pub(super) struct Huffman {
    /// By the next bits: length << 8 | symbol; 0: longer.
    short: Vec<u16>,
    /// By the next bits, for AC coefficients: value << 8 | run << 4 | bits; 0: not short enough.
    whole: Vec<i16>,
    /// By length: codes below this, in 16 bits, are of that length, and what added to one gives its
    /// symbol's place.
    ends: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// From the number of codes of each length, 1 to 16, and the symbols in order.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut short = vec![0; 1 << LOOK];
        let mut ends = [(0, 0); 17];
        let (mut code, mut at) = (0_u32, 0_usize);
        for (length, count) in (1..).zip(counts) {
            let offset = at as i32 - code as i32;
            for _ in 0..*count {
                let symbol = *symbols.get(at)?;
                if length <= LOOK {
                    let first = (code << (LOOK - length)) as usize;
                    let range = first..first + (1 << (LOOK - length));
                    short
                        .get_mut(range)?
                        .fill((length << 8) as u16 | u16::from(symbol));
                }
                code += 1;
                at += 1;
            }
            if code > 1 << length {
                return None;
            }
            ends[length as usize] = (code << (16 - length), offset);
            code <<= 1;
        }
        let whole = (0..1 << LOOK).map(|look| whole(look, short[look as usize]));
        Some(Self {
            whole: whole.collect(),
            short,
            ends,
            symbols: symbols.to_vec(),
        })
    }

    /// The next symbol; call after [`Bits::fill`].
    #[inline(always)]
    pub(super) fn symbol(&self, bits: &mut Bits) -> Result<u8, Damaged> {
        let entry = self.short[bits.peek(LOOK) as usize];
        if entry != 0 {
            bits.skip(u32::from(entry >> 8));
            return Ok(entry as u8);
        }
        self.long(bits)
    }

    #[cold]
    fn long(&self, bits: &mut Bits) -> Result<u8, Damaged> {
        let next = bits.peek(16);
        for length in LOOK + 1..=16 {
            let (end, offset) = self.ends[length as usize];
            if next < end {
                bits.skip(length);
                let at = (next >> (16 - length)) as i32 + offset;
                return self.symbols.get(at as usize).copied().ok_or(Damaged);
            }
        }
        Err(Damaged)
    }

    /// Zeros before the next coefficient, and its value; a value of 0: the raw symbol instead of the
    /// zeros. Fills the bits.
    #[inline(always)]
    pub(super) fn coefficient(&self, bits: &mut Bits) -> Result<(usize, i32), Damaged> {
        bits.fill();
        let entry = self.whole[bits.peek(LOOK) as usize];
        if entry != 0 {
            bits.skip((entry & 15) as u32);
            return Ok(((entry >> 4 & 15) as usize, i32::from(entry >> 8)));
        }
        let symbol = self.symbol(bits)?;
        match u32::from(symbol & 15) {
            0 => Ok((usize::from(symbol), 0)),
            size => Ok((usize::from(symbol >> 4), bits.take_signed(size))),
        }
    }
}

/// The entry of `whole` for the bits `look`, which begin with the code of `short`.
fn whole(look: u32, short: u16) -> i16 {
    let (length, symbol) = (u32::from(short >> 8), u32::from(short & 0xff));
    let (run, size) = (symbol >> 4, symbol & 15);
    if length == 0 || size == 0 || length + size > LOOK {
        return 0;
    }
    let value = (look >> (LOOK - length - size) & ((1 << size) - 1)) as i32;
    let value = if value < 1 << (size - 1) {
        value - (1 << size) + 1
    } else {
        value
    };
    match i8::try_from(value) {
        Ok(value) => i16::from(value) << 8 | (run << 4 | (length + size)) as i16,
        Err(_) => 0,
    }
}
