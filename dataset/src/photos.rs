//! Pictures like photographs, made up, and a corpus of them: for measuring what reading and decoding
//! cost. The bytes depend on the arguments alone.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use crate::error::DatasetError;
use crate::import::{Row, ShardWriter};
use crate::rows::Texts;
use crate::store::Store;

/// Sides of the pictures, pixels.
const SIDES: std::ops::RangeInclusive<u16> = 256..=512;

/// Quality of the JPEGs: the commonest setting of programs that mean it well.
const QUALITY: u8 = 90;

/// Grids of random colours that add up to a picture: cells each way, and weight. A photograph has
/// most of its contrast in its largest things.
const OCTAVES: [(u16, u32); 4] = [(4, 1024), (16, 388), (64, 147), (128, 90)];

/// Different pictures of a corpus at most; more would only take longer to make.
const PICTURES_MAX: u64 = 512;

/// Rows of a shard.
const SHARD_ROWS: u64 = 1024;

/// Words of the captions.
const WORDS: [&str; 16] = [
    "a", "small", "red", "dog", "near", "the", "old", "house", "under", "bright", "trees", "on",
    "its", "way", "to", "town",
];

/// Random bytes of their own for every name.
fn random(name: &[u8], seed: u64, index: u64, length: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name);
    hasher
        .update(&seed.to_le_bytes())
        .update(&index.to_le_bytes());
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Picture `index`: a JPEG of about 25 KB, 256 to 512 pixels a side, its colours at half the resolution.
pub fn photo(seed: u64, index: u64) -> Result<Vec<u8>, String> {
    let sides = random(b"sides", seed, index, 4);
    let side = |low: u8, high: u8| {
        let span = SIDES.end() - SIDES.start() + 1;
        SIDES.start() + u16::from_le_bytes([low, high]) % span
    };
    let (width, height) = (side(sides[0], sides[1]), side(sides[2], sides[3]));
    let rgb = landscape(seed, index, width, height)?;
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    let encoded = encoder.encode(&rgb, width, height, ColorType::Rgb);
    encoded.map_err(|error| error.to_string())?;
    Ok(jpeg)
}

/// RGB u8: the octaves, each stretched smoothly over the picture, in integers.
fn landscape(seed: u64, index: u64, width: u16, height: u16) -> Result<Vec<u8>, String> {
    let mut resizer = Resizer::new();
    let cubic = ResizeAlg::Convolution(FilterType::CatmullRom);
    let options = ResizeOptions::new().resize_alg(cubic).use_alpha(false);
    let values = usize::from(width) * usize::from(height) * 3;
    let mut sums = vec![0_u32; values];
    for (cells, weight) in OCTAVES {
        let side = u32::from(cells);
        let name = [b"octave".as_slice(), &cells.to_le_bytes()].concat();
        let colours = random(&name, seed, index, (side * side * 3) as usize);
        let grid = ImageRef::new(side, side, &colours, PixelType::U8x3);
        let grid = grid.map_err(|error| error.to_string())?;
        let mut whole = Image::new(width.into(), height.into(), PixelType::U8x3);
        let resized = resizer.resize(&grid, &mut whole, &options);
        resized.map_err(|error| error.to_string())?;
        for (sum, value) in sums.iter_mut().zip(whole.buffer()) {
            *sum += weight * u32::from(*value);
        }
    }
    // Stretched to the whole range.
    let most = sums.iter().max().copied().unwrap_or(1).max(1);
    Ok(sums.iter().map(|sum| (sum * 255 / most) as u8).collect())
}

/// Writes `rows` rows of at most 512 different pictures below `out`, and returns the mean size of a
/// picture, bytes.
pub async fn make(out: &Store, rows: u64, seed: u64) -> Result<f64, DatasetError> {
    let wrong = |reason: String| DatasetError::Foreign {
        place: out.url(),
        reason,
        next: "please report it".into(),
    };
    let pictures = (0..rows.min(PICTURES_MAX)).map(|index| photo(seed, index));
    let pictures: Vec<Vec<u8>> = pictures.collect::<Result<_, _>>().map_err(wrong)?;
    let mut writer = ShardWriter::new(Some(SHARD_ROWS));
    let mut bytes = 0;
    let mut shards = 0;
    for index in 0..rows {
        let picture = &pictures[(index % pictures.len() as u64) as usize];
        bytes += picture.len();
        let shard = writer.push(row(seed, index, picture)).map_err(wrong)?;
        let shard = match shard {
            None if index + 1 == rows => writer.end_shard().map_err(wrong)?,
            other => other,
        };
        if let Some(shard) = shard {
            out.put(&format!("photos-{shards:05}.parquet"), shard)
                .await?;
            shards += 1;
        }
    }
    Ok(bytes as f64 / rows.max(1) as f64)
}

fn row(seed: u64, index: u64, picture: &[u8]) -> Row {
    let draws = random(b"caption", seed, index, 12);
    let words = draws
        .iter()
        .map(|draw| WORDS[usize::from(*draw) % WORDS.len()]);
    Row {
        image: picture.to_vec().into(),
        path: format!("{index:08}.jpg"),
        texts: Texts {
            caption: Some(words.collect::<Vec<_>>().join(" ")),
            ..Texts::default()
        },
        ..Row::default()
    }
}
