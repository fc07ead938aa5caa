//! What a worker will hold in memory, from sizes alone.

use ringmaster_dataset::{PlanSpec, rows_bytes, standby_lanes};
use ringmaster_proto::spec::{Fusion, ImageEncoder, ModelSpec};
use ringmaster_proto::{Rank, RunSpec, WorldSize};
use serde::Serialize;

/// f32.
const FLOAT: u64 = 4;

/// i64: a fixed-point sum.
const SUM: u64 = 8;

/// Steps of decoded pictures: two made ready ahead, one in use.
const PICTURE_STEPS: u64 = 3;

/// Bytes by use; its field names are a contract. On a CPU both kinds share one memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct WorkerMemory {
    /// The model's own copy.
    pub(super) device_parameters_bytes: u64,
    /// Of one microbatch.
    pub(super) device_gradients_bytes: u64,
    /// What the backward pass of one microbatch needs: a rule of thumb, within a factor of two.
    pub(super) device_activations_bytes_estimate: u64,
    /// The state's parameters.
    pub(super) host_parameters_bytes: u64,
    /// Both moments of AdamW.
    pub(super) host_moments_bytes: u64,
    /// The moving average of the parameters, if one is kept.
    pub(super) host_average_bytes: u64,
    /// A lane's gradient and the reduced one.
    pub(super) host_gradients_bytes: u64,
    /// The fixed-point sums of `reduction = "exact"`.
    pub(super) host_exact_sums_bytes: u64,
    /// A worker's part of a checkpoint, twice while it is encoded.
    pub(super) host_checkpoint_bytes: u64,
    /// Decoded pictures.
    pub(super) host_pictures_bytes: u64,
    /// Encoded rows at most, as far as their size is known.
    pub(super) host_rows_bytes: Option<u64>,
}

impl WorkerMemory {
    /// Of the worker with the most lanes, for a model of `parameters` and rows of `row_bytes` each.
    pub(super) fn of(
        spec: &RunSpec,
        workers: u32,
        parameters: u64,
        row_bytes: Option<u64>,
    ) -> Self {
        let lanes = u64::from(spec.data.lanes.div_ceil(workers.max(1)));
        let batch = u64::from(spec.data.lane_batch);
        let pixels = 3 * (spec.model.image_size as u64).pow(2);
        let world = WorldSize(workers.max(1));
        let standby = |rank| standby_lanes(spec.data.lanes, Rank(rank), world).len() as u64;
        let standby = match spec.data.takeover {
            true => (0..world.0).map(standby).max().unwrap_or(0),
            false => 0,
        };
        let rows = |row| {
            let (own, standby) = rows_bytes(&PlanSpec::from(spec), row, lanes, standby);
            own + standby
        };
        let exact = spec.train.reduction == ringmaster_proto::spec::Reduction::Exact;
        let averages = u64::from(spec.train.ema > 0.0);
        let state_vectors = 3 + averages;
        let floats = if spec.train.activation_checkpointing {
            activations(&spec.model).checkpointed
        } else {
            activations(&spec.model).whole
        };
        Self {
            device_parameters_bytes: parameters * FLOAT,
            device_gradients_bytes: parameters * FLOAT,
            device_activations_bytes_estimate: batch * floats * FLOAT,
            host_parameters_bytes: parameters * FLOAT,
            host_moments_bytes: 2 * parameters * FLOAT,
            host_average_bytes: averages * parameters * FLOAT,
            host_gradients_bytes: 2 * parameters * FLOAT,
            host_exact_sums_bytes: u64::from(exact) * parameters * SUM,
            host_checkpoint_bytes: 2 * state_vectors * parameters * FLOAT
                / u64::from(workers.max(1)),
            host_pictures_bytes: PICTURE_STEPS * lanes * batch * pixels * FLOAT,
            host_rows_bytes: row_bytes.map(rows),
        }
    }

    /// What the device holds.
    pub(super) fn device_bytes(&self) -> u64 {
        self.device_parameters_bytes
            + self.device_gradients_bytes
            + self.device_activations_bytes_estimate
    }

    /// What the machine's memory holds.
    pub(super) fn host_bytes(&self) -> u64 {
        self.host_parameters_bytes
            + self.host_moments_bytes
            + self.host_average_bytes
            + self.host_gradients_bytes
            + self.host_exact_sums_bytes
            + self.host_checkpoint_bytes
            + self.host_pictures_bytes
            + self.host_rows_bytes.unwrap_or(0)
    }

    /// For people: what the device holds, and the machine.
    pub(super) fn lines(&self) -> [(&'static str, String); 2] {
        use crate::output::bytes;
        let told = |uses: &[(&str, u64)]| {
            let uses = uses.iter().filter(|(_, n)| *n > 0);
            let uses = uses.map(|(name, n)| format!("{name} {}", bytes(*n)));
            uses.collect::<Vec<_>>().join(", ")
        };
        let device = told(&[
            ("parameters", self.device_parameters_bytes),
            ("gradients", self.device_gradients_bytes),
            (
                "activations, an estimate,",
                self.device_activations_bytes_estimate,
            ),
        ]);
        let host = told(&[
            ("parameters", self.host_parameters_bytes),
            ("moments", self.host_moments_bytes),
            ("average", self.host_average_bytes),
            ("gradients", self.host_gradients_bytes),
            ("exact sums", self.host_exact_sums_bytes),
            ("checkpoint", self.host_checkpoint_bytes),
            ("pictures", self.host_pictures_bytes),
            ("rows", self.host_rows_bytes.unwrap_or(0)),
        ]);
        let (on_device, on_host) = (bytes(self.device_bytes()), bytes(self.host_bytes()));
        [
            ("device memory", format!("{on_device}: {device}")),
            ("host memory", format!("{on_host}: {host}")),
        ]
    }
}

/// Floats that the backward pass of one example needs.
struct Activations {
    /// When everything is kept.
    whole: u64,
    /// When blocks keep their inputs alone, and one of them at a time is computed again.
    checkpointed: u64,
}

/// A number of equal blocks, of which each keeps so many floats, inputs included.
struct Blocks {
    count: u64,
    inputs: u64,
    kept: u64,
}

fn activations(m: &ModelSpec) -> Activations {
    let blocks = blocks(m);
    let sum = |of: fn(&Blocks) -> u64| -> u64 { blocks.iter().map(|b| b.count * of(b)).sum() };
    let largest = blocks.iter().map(|block| block.kept).max().unwrap_or(0);
    Activations {
        whole: sum(|block| block.kept),
        checkpointed: sum(|block| block.inputs) + largest,
    }
}

/// Every block of the model. Counted per block: inputs of products and norms, what nonlinearities
/// and softmaxes need of their results, and the copies that moving heads aside makes.
fn blocks(m: &ModelSpec) -> Vec<Blocks> {
    let size = |n: usize| n as u64;
    let visual = size(m.visual_side()).pow(2);
    let (text, target) = (size(m.text_len), size(m.target_len));
    let (d, tokens) = (size(m.width), size(m.tokens));
    let fusion = |t| layer(t, d, size(m.heads), size(m.mlp_width));
    let of_text = |t| {
        let (width, heads) = (size(m.text_width), size(m.text_heads));
        layer(t, width, heads, size(m.text_mlp_width))
    };
    let reads = |t, from| cross(t, from, d, size(m.heads));
    let fusion_mlp = tokens * (3 * d + 2 * size(m.fusion_mlp_width));
    let memory = match m.fusion {
        Fusion::Concat => visual + text,
        Fusion::Xattn => text,
        Fusion::Perceiver | Fusion::Cotok | Fusion::Jar => tokens,
    };
    let block = |count: usize, inputs, kept| Blocks {
        count: size(count),
        inputs,
        kept,
    };
    let mut blocks = match m.image_encoder {
        ImageEncoder::Resnet50C4 => resnet(size(m.image_size)),
        ImageEncoder::Patch | ImageEncoder::Vit => {
            let width = size(m.image_width);
            let kept = layer(visual, width, size(m.image_heads), size(m.image_mlp_width));
            vec![block(m.image_layers, visual * width, kept)]
        }
    };
    // One block: its layers are kept together.
    blocks.push(block(1, 0, size(m.text_layers) * of_text(text)));
    let layers = m.fusion_layers;
    match m.fusion {
        Fusion::Concat => blocks.push(block(layers, memory * d, fusion(memory))),
        Fusion::Xattn => {
            blocks.push(block(layers, text * d, fusion(text) + reads(text, visual)));
        }
        Fusion::Perceiver => {
            let all = visual + text;
            let kept = reads(tokens, all) + fusion_mlp;
            blocks.push(block(m.iterations, (tokens + all) * d, kept));
            blocks.push(block(layers, tokens * d, fusion(tokens)));
        }
        Fusion::Cotok => {
            let kept = (visual + text) * (6 * d + 2 * tokens);
            blocks.push(block(m.iterations, (visual + text) * d, kept));
            blocks.push(block(layers, tokens * d, fusion(tokens)));
        }
        Fusion::Jar => {
            let reduced = reads(tokens, visual) + reads(tokens, text);
            blocks.push(block(1, (visual + text) * d, reduced));
            let fused = reads(tokens, tokens) + fusion_mlp;
            blocks.push(block(m.iterations, 2 * tokens * d, fused));
            blocks.push(block(layers, tokens * d, fusion(tokens)));
        }
    }
    // Decoder and scores are not checkpointed: what they keep is there in any case.
    let text_width = size(m.text_width);
    let decoder = of_text(target) + cross(target, memory, text_width, size(m.text_heads));
    let decoder = size(m.decoder_layers) * decoder;
    let scores = 3 * target * size(m.vocab);
    blocks.push(block(1, decoder + scores, decoder + scores));
    blocks
}

/// Of one transformer layer over `t` tokens: about twelve tensors of its width, two of its hidden
/// width, and scores before and after the softmax.
fn layer(t: u64, width: u64, heads: u64, hidden: u64) -> u64 {
    t * (12 * width + 2 * hidden) + 2 * heads * t * t
}

/// Of `t` tokens that look at `from` others: norms, keys and values are of all of those.
fn cross(t: u64, from: u64, width: u64, heads: u64) -> u64 {
    (7 * t + 4 * from) * width + 2 * heads * t * from
}

/// ResNet-50 up to C4 at `side` pixels: for every convolution its result, what the norm makes of it
/// in three steps, and the nonlinearity's.
fn resnet(side: u64) -> Vec<Blocks> {
    const COPIES: u64 = 5;
    let (half, quarter) = (side.div_ceil(2), side.div_ceil(4));
    let mut blocks = vec![Blocks {
        count: 1,
        inputs: 0,
        kept: COPIES * half * half * 64,
    }];
    let mut inputs = 64;
    for (stage, count) in [3, 4, 6].into_iter().enumerate() {
        let (width, before) = (64 << stage, quarter.div_ceil(1 << stage.saturating_sub(1)));
        let after = quarter.div_ceil(1 << stage);
        for (at, channels, shortcut, count) in [
            (before, inputs, 4 * width, 1),
            (after, 4 * width, 0, count - 1),
        ] {
            let results = at * at * width + after * after * (5 * width + shortcut);
            blocks.push(Blocks {
                count,
                inputs: at * at * channels,
                kept: COPIES * results,
            });
        }
        inputs = 4 * width;
    }
    blocks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn spec(sets: &[&str]) -> RunSpec {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        RunSpec::parse("", &sets).unwrap()
    }

    #[test]
    fn every_buffer_of_a_parameter_is_counted() {
        let of = |sets: &[&str]| WorkerMemory::of(&spec(sets), 2, 1000, Some(10));
        let memory = of(&[]);
        let kinds = [
            memory.device_parameters_bytes,
            memory.device_gradients_bytes,
            memory.host_parameters_bytes,
            memory.host_moments_bytes,
            memory.host_average_bytes,
            memory.host_gradients_bytes,
            memory.host_exact_sums_bytes,
            memory.host_checkpoint_bytes,
        ];
        assert_eq!(kinds, [4000, 4000, 4000, 8000, 0, 8000, 8000, 12_000]);
        let averaged = of(&["train.ema=0.99"]);
        assert_eq!(
            (averaged.host_average_bytes, averaged.host_checkpoint_bytes),
            (4000, 16_000)
        );
        assert_eq!(of(&["train.reduction=f32"]).host_exact_sums_bytes, 0);
        let (own, others) = rows_bytes(&PlanSpec::from(&spec(&[])), 10, 2, 2);
        assert_eq!(memory.host_rows_bytes, Some(own + others));
        let alone = of(&["data.takeover=false"]);
        assert_eq!(alone.host_rows_bytes, Some(own));
        // 3 steps of 2 lanes of 16 pictures of 64 x 64.
        assert_eq!(memory.host_pictures_bytes, 3 * 2 * 16 * 3 * 64 * 64 * 4);
    }

    #[test]
    fn the_encoder_of_resnet_has_the_known_number_of_activations() {
        // timm's table: 11.1 M convolution results of ResNet-50 at 224 px, of which stage C5 has
        // 14 * 14 * 512 + 7 * 7 * (5 * 512 + 3 * 2048 + 2048) = 0.63 M.
        let results: u64 = resnet(224).iter().map(|b| b.count * b.kept / 5).sum();
        assert!((10_300_000..10_700_000).contains(&results), "{results}");
    }

    #[test]
    fn checkpointing_keeps_less_in_every_variant() {
        for fusion in ["concat", "xattn", "perceiver", "cotok", "jar"] {
            let fusion = format!("model.fusion={fusion}");
            let Activations {
                whole,
                checkpointed,
            } = activations(&spec(&["model.preset=base", &fusion]).model);
            assert!(
                2 * checkpointed < whole,
                "{fusion}: {checkpointed} of {whole}"
            );
        }
    }
}
