//! A JPEG decoded to a half, a quarter or an eighth of its size, without ever making the pixels in
//! between: each block is transformed to fewer pixels. What libjpeg makes of it (and Pillow's
//! `draft`), but for components of unusual sampling, which it interpolates in more ways.
//!
//! Own code, since the library that decodes whole pictures cannot do it. It knows what cameras and
//! programs write; of anything else, and of whatever is damaged, it says nothing, and the picture is
//! decoded whole.

mod bits;
mod head;
mod inverse;
mod plane;
mod scan;

use bits::Bits;
use head::{Frame, Scan, Tables};
use plane::Plane;
use scan::Coding;

use super::Picture;

/// Scans of a picture at most: each goes over all of it.
const SCANS_MAX: usize = 100;

/// The picture in `ceil(side / by)` pixels across and down, `by` being 2, 4 or 8. `size`: what the head of
/// the picture said, and was found fit.
pub(super) fn decode(encoded: &[u8], size: (usize, usize), by: usize) -> Option<Picture> {
    pulp::Arch::new().dispatch(Decoding { encoded, size, by })
}

/// What is decoded, compiled once for each vector extension.
struct Decoding<'a> {
    encoded: &'a [u8],
    size: (usize, usize),
    by: usize,
}

impl pulp::NullaryFnOnce for Decoding<'_> {
    type Output = Option<Picture>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        decode_here(self.encoded, self.size, self.by)
    }
}

#[inline(always)]
fn decode_here(encoded: &[u8], size: (usize, usize), by: usize) -> Option<Picture> {
    let mut at = 2;
    let mut tables = Tables::default();
    let mut picture: Option<(Frame, Vec<Plane>)> = None;
    let mut scans = 0;
    loop {
        let marker = marker(encoded, &mut at)?;
        if marker == 0xd9 {
            break;
        }
        let length = encoded
            .get(at..)?
            .first_chunk()
            .map(|two| u16::from_be_bytes(*two))?;
        let body = encoded.get(at + 2..at + usize::from(length))?;
        at += usize::from(length);
        match marker {
            0xc4 => tables.huffman(body)?,
            0xdb => tables.quantise(body)?,
            0xdd => tables.restart = u16::from_be_bytes(*body.first_chunk()?).into(),
            0xe0 => tables.jfif |= body.starts_with(b"JFIF\0"),
            0xee if body.starts_with(b"Adobe") => tables.adobe = body.get(11).copied(),
            0xc0..=0xc2 if picture.is_none() => {
                let frame = head::frame(marker, body)?;
                if (frame.width, frame.height) != size {
                    return None;
                }
                let planes = planes(&frame, 8 / by);
                picture = Some((frame, planes));
            }
            0xc0..=0xcf => return None,
            0xda => {
                let (frame, planes) = picture.as_mut()?;
                scans += 1;
                let scan = head::scan(body, frame).filter(|_| scans <= SCANS_MAX)?;
                at = read(encoded, at, (frame, &scan, &tables), planes)?;
            }
            _ => {}
        }
    }
    let (frame, mut planes) = picture?;
    if frame.progressive {
        for (plane, component) in planes.iter_mut().zip(&frame.components) {
            plane.finish(tables.quantisation[component.table].as_ref()?);
        }
    }
    let (width, height) = (frame.width.div_ceil(by), frame.height.div_ceil(by));
    if scans == 0 {
        return None;
    }
    let rgb = rgb(&planes, (width, height), tables.is_ycc(&frame));
    Some(Picture { width, height, rgb })
}

/// The next marker; `at` is then behind it.
fn marker(encoded: &[u8], at: &mut usize) -> Option<u8> {
    let rest = encoded.get(*at..)?;
    let marks = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff);
    let found = rest.windows(2).position(marks)?;
    *at += found + 2;
    Some(rest[found + 1])
}

fn most(frame: &Frame) -> (usize, usize) {
    let most = |of: fn(&head::Component) -> usize| frame.components.iter().map(of).max();
    (
        most(|c| c.across).unwrap_or(1),
        most(|c| c.down).unwrap_or(1),
    )
}

fn planes(frame: &Frame, side: usize) -> Vec<Plane> {
    let plane = |component| Plane::new(frame, component, most(frame), side);
    frame.components.iter().map(plane).collect()
}

/// Reads a scan; returns where it ends.
#[inline(always)]
fn read(
    encoded: &[u8],
    at: usize,
    (frame, scan, tables): (&Frame, &Scan, &Tables),
    planes: &mut [Plane],
) -> Option<usize> {
    let coding = |part: &head::ScanComponent| Coding {
        dc: tables.dc[part.dc].as_ref(),
        ac: tables.ac[part.ac].as_ref(),
        band: scan.band,
        bits: scan.bits,
    };
    let codings: Vec<Coding> = scan.components.iter().map(coding).collect();
    let table = |part: &head::ScanComponent| {
        let number = frame.components[part.index].table;
        tables.quantisation[number].as_ref()
    };
    let quantisation: Option<Vec<&[i32; 64]>> = scan.components.iter().map(table).collect();
    let quantisation = quantisation?;
    let (units, blocks) = layout(frame, scan, planes);
    let mut bits = Bits::new(encoded, at);
    let mut last_dc = [0; 4];
    let mut run = 0;
    let mut block = [0; 64];
    for unit in 0..units.0 * units.1 {
        if tables.restart > 0 && unit > 0 && unit % tables.restart == 0 {
            let mut at = bits.marker();
            if !matches!(marker(encoded, &mut at)?, 0xd0..=0xd7) {
                return None;
            }
            bits = Bits::new(encoded, at);
            (last_dc, run) = ([0; 4], 0);
        }
        let (unit_x, unit_y) = (unit % units.0, unit / units.0);
        for (part, (across, down), x, y) in &blocks {
            let index = scan.components[*part].index;
            let place = (unit_x * across + x, unit_y * down + y);
            let coding = &codings[*part];
            let (plane, last_dc) = (&mut planes[index], &mut last_dc[index]);
            if frame.progressive {
                let block = plane.block(place);
                coding
                    .progressive(&mut bits, last_dc, &mut run, block)
                    .ok()?;
            } else {
                block.fill(0);
                let table = quantisation[*part];
                coding
                    .baseline(&mut bits, last_dc, table, &mut block)
                    .ok()?;
                plane.put(place, &block);
            }
        }
        if bits.ran_out() {
            return None;
        }
    }
    Some(bits.marker())
}

/// How many units a scan has, across and down, and the blocks of each: the component's place in the
/// scan, its blocks per unit, and which of them.
type Layout = ((usize, usize), Vec<(usize, (usize, usize), usize, usize)>);

fn layout(frame: &Frame, scan: &Scan, planes: &[Plane]) -> Layout {
    if let [alone] = scan.components.as_slice() {
        return (planes[alone.index].blocks, vec![(0, (1, 1), 0, 0)]);
    }
    let most = most(frame);
    let units = |pixels: usize, most: usize| pixels.div_ceil(8 * most);
    let blocks = scan
        .components
        .iter()
        .enumerate()
        .flat_map(|(part, component)| {
            let component = &frame.components[component.index];
            let size = (component.across, component.down);
            let rows = (0..size.1).flat_map(move |y| (0..size.0).map(move |x| (x, y)));
            rows.map(move |(x, y)| (part, size, x, y))
        });
    (
        (units(frame.width, most.0), units(frame.height, most.1)),
        blocks.collect(),
    )
}

#[inline(always)]
fn rgb(planes: &[Plane], (width, height): (usize, usize), ycc: bool) -> Vec<u8> {
    let mut out = vec![0; 3 * width * height];
    let mut rows = [vec![0; width], vec![0; width], vec![0; width]];
    for (y, out) in out.chunks_exact_mut(3 * width).enumerate() {
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.row(y, row);
        }
        let [first, second, third] = &rows;
        let samples = first.iter().zip(second).zip(third);
        let pixels = out.chunks_exact_mut(3).zip(samples);
        if planes.len() == 1 {
            for (out, grey) in out.chunks_exact_mut(3).zip(first) {
                out.fill(*grey);
            }
        } else if ycc {
            for (out, ((y, cb), cr)) in pixels {
                out.copy_from_slice(&colour(*y, *cb, *cr));
            }
        } else {
            for (out, ((r, g), b)) in pixels {
                out.copy_from_slice(&[*r, *g, *b]);
            }
        }
    }
    out
}

/// ITU-R BT.601, full range, in 16 bits after the point, as libjpeg rounds it.
#[inline(always)]
fn colour(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    const HALF: i32 = 1 << 15;
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
