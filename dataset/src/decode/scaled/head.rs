//! The marker segments of a JPEG: what its scans need to be decoded.

use super::bits::Huffman;

/// Where coefficient `k` of a scan lies in a block. Runs may point beyond the end; their
/// coefficients fall on the last.
pub(super) const ZIGZAG: [u8; 80] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
    63, 63, 63, 63, 63, 63,
];

/// One colour component.
#[derive(Clone, Copy, Debug)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Samples of each block of the picture, across and down: 1, 2 or 4.
    pub(super) across: usize,
    pub(super) down: usize,
    /// Number of its quantisation table.
    pub(super) table: usize,
}

/// What a frame header says.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) progressive: bool,
    pub(super) components: Vec<Component>,
}

/// One component's part in a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanComponent {
    /// Place among the frame's.
    pub(super) index: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// What a scan header says.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) components: Vec<ScanComponent>,
    /// First and last coefficient.
    pub(super) band: (usize, usize),
    /// Bits of precision before and after: from this many bits above the last (0: nothing), to.
    pub(super) bits: (u32, u32),
}

/// Tables and modes, as of the segments read so far.
#[derive(Default)]
pub(super) struct Tables {
    /// In the order of a block, not of a scan.
    pub(super) quantisation: [Option<[i32; 64]>; 4],
    pub(super) dc: [Option<Huffman>; 4],
    pub(super) ac: [Option<Huffman>; 4],
    /// Blocks between restarts; 0: none.
    pub(super) restart: usize,
    pub(super) jfif: bool,
    /// Colour transform of Adobe's marker.
    pub(super) adobe: Option<u8>,
}

impl Tables {
    pub(super) fn quantise(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((head, rest)) = body.split_first() {
            let (wide, number) = (head >> 4 != 0, usize::from(head & 15));
            let bytes = if wide { 128 } else { 64 };
            let values = rest.get(..bytes)?;
            let mut table = [0; 64];
            for (k, place) in ZIGZAG.iter().take(64).enumerate() {
                table[usize::from(*place)] = if wide {
                    i32::from(u16::from_be_bytes([values[2 * k], values[2 * k + 1]]))
                } else {
                    i32::from(values[k])
                };
            }
            *self.quantisation.get_mut(number)? = Some(table);
            body = &rest[bytes..];
        }
        Some(())
    }

    pub(super) fn huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((head, rest)) = body.split_first() {
            let counts: &[u8; 16] = rest.first_chunk()?;
            let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
            let symbols = rest.get(16..16 + total)?;
            let table = Huffman::new(counts, symbols)?;
            let class = match head >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            *class.get_mut(usize::from(head & 15))? = Some(table);
            body = &rest[16 + total..];
        }
        Some(())
    }

    /// Whether three components are luma and chroma, as libjpeg decides it.
    pub(super) fn is_ycc(&self, frame: &Frame) -> bool {
        match self.adobe {
            _ if self.jfif => true,
            Some(transform) => transform != 0,
            None => !frame.components.iter().map(|c| c.id).eq(*b"RGB"),
        }
    }
}

/// A frame of 8 bits and one or three components; `None`: anything else.
pub(super) fn frame(marker: u8, body: &[u8]) -> Option<Frame> {
    let [8, high, low, wide, narrow, count, components @ ..] = body else {
        return None;
    };
    if !matches!(count, 1 | 3) || components.len() < 3 * usize::from(*count) {
        return None;
    }
    let components = components.chunks_exact(3).take((*count).into());
    let components: Vec<Component> = components
        .map(|part| Component {
            id: part[0],
            across: usize::from(part[1] >> 4),
            down: usize::from(part[1] & 15),
            table: usize::from(part[2]),
        })
        .collect();
    let usual = |n| matches!(n, 1 | 2 | 4);
    if !components
        .iter()
        .all(|c| usual(c.across) && usual(c.down) && c.table < 4)
    {
        return None;
    }
    Some(Frame {
        width: u16::from_be_bytes([*wide, *narrow]).into(),
        height: u16::from_be_bytes([*high, *low]).into(),
        progressive: marker == 0xc2,
        components,
    })
}

/// The head of a scan of `frame`.
pub(super) fn scan(body: &[u8], frame: &Frame) -> Option<Scan> {
    let (count, rest) = body.split_first()?;
    let count = usize::from(*count);
    let (parts, end) = rest.split_at_checked(2 * count)?;
    let [first, last, bits] = end.first_chunk()?;
    let component = |part: &[u8]| {
        let index = frame.components.iter().position(|c| c.id == part[0])?;
        let (dc, ac) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        (dc < 4 && ac < 4).then_some(ScanComponent { index, dc, ac })
    };
    let components: Option<Vec<_>> = parts.chunks_exact(2).map(component).collect();
    let (components, first, last) = (components?, usize::from(*first), usize::from(*last));
    let (before, after) = (u32::from(bits >> 4), u32::from(bits & 15));
    if !frame.progressive {
        let (band, bits) = ((0, 63), (0, 0));
        return (!components.is_empty()).then_some(Scan {
            components,
            band,
            bits,
        });
    }
    let alone = components.len() == 1 && 0 < first && first <= last && last < 64;
    let of_dc = !components.is_empty() && first == 0 && last == 0;
    let finer = before == 0 || before == after + 1;
    ((alone || of_dc) && finer && after < 14).then_some(Scan {
        components,
        band: (first, last),
        bits: (before, after),
    })
}
