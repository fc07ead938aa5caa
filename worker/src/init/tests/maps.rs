//! The built-in maps, against the names and layouts that the other programs have.

use std::collections::BTreeSet;

use ringmaster_proto::vocab::RESERVED;

use super::*;

type Tensors = Vec<(String, Vec<usize>)>;

/// The parameters of a run whose `init.weights` is one file.
struct Landed {
    layout: Layout,
    values: Vec<f32>,
    account: Account,
}

impl Landed {
    async fn of(map: &str, sets: &[&str], tensors: &Tensors) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        std::fs::write(&path, file(tensors)).unwrap();
        let url = path.to_str().unwrap();
        let weights = format!("init.weights=[{{ url = {url:?}, map = {map:?} }}]");
        let sets: Vec<&str> = sets.iter().copied().chain([weights.as_str()]).collect();
        let (spec, root) = (spec(&sets), store(folder.path()));
        let initial = make(&spec, &root, None).await.unwrap();
        Self {
            layout: layout(&spec.model).unwrap(),
            values: loaded(&spec, &root, &initial).await,
            account: initial.account,
        }
    }

    fn parameter(&self, path: &str) -> &[f32] {
        let slot = self.layout.slots.iter().find(|slot| slot.path == path);
        let slot = slot.unwrap_or_else(|| panic!("no parameter {path}"));
        &self.values[slot.offset..slot.offset + slot.len]
    }

    /// The parameter `path` is the tensor `name`, element by element.
    fn assert_same(&self, path: &str, name: &str) {
        for (i, ours) in self.parameter(path).iter().enumerate() {
            assert_eq!(*ours, value(name, i), "{path} and {name} at {i}");
        }
    }

    /// The parameter `path`, `[inputs, outputs]`, is the tensor `name`, `[outputs, inputs]`, or its
    /// rows from `first` on.
    fn assert_transposed(&self, path: &str, name: &str, first: usize, outputs: usize) {
        let ours = self.parameter(path);
        let inputs = ours.len() / outputs;
        for input in 0..inputs {
            for output in 0..outputs {
                let theirs = value(name, (first + output) * inputs + input);
                let at = input * outputs + output;
                assert_eq!(ours[at], theirs, "{path} and {name} at {input}, {output}");
            }
        }
    }

    /// The parts of the model that keep seeded values.
    fn seeded_parts(&self) -> BTreeSet<&str> {
        let seeded = self.account.seeded.iter();
        seeded.filter_map(|path| path.split('.').next()).collect()
    }
}

/// Width 8, hidden 16, 2 heads, as in [`spec`]; names as `T5ForConditionalGeneration` has them.
fn t5(blocks: usize) -> Tensors {
    let mut tensors = vec![("shared.weight".to_owned(), vec![5, 8])];
    let mut add = |name: String, shape: &[usize]| tensors.push((name, shape.to_vec()));
    let decoder = ["SelfAttention", "EncDecAttention"];
    for (stack, attentions) in [("encoder", &decoder[..1]), ("decoder", &decoder)] {
        for block in 0..blocks {
            let at = |layer: usize| format!("{stack}.block.{block}.layer.{layer}");
            for (layer, attention) in attentions.iter().enumerate() {
                for part in ["q", "k", "v", "o"] {
                    add(format!("{}.{attention}.{part}.weight", at(layer)), &[8, 8]);
                }
                add(format!("{}.layer_norm.weight", at(layer)), &[8]);
            }
            let mlp = at(attentions.len());
            add(format!("{mlp}.DenseReluDense.wi.weight"), &[16, 8]);
            add(format!("{mlp}.DenseReluDense.wo.weight"), &[8, 16]);
            add(format!("{mlp}.layer_norm.weight"), &[8]);
        }
        let bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        add(format!("{stack}.{bias}"), &[32, 2]);
        add(format!("{stack}.final_layer_norm.weight"), &[8]);
    }
    tensors
}

#[tokio::test]
async fn t5_lands_where_it_belongs() {
    let sets = [
        "model.text_stack=t5",
        "model.text_layers=2",
        "model.decoder_layers=2",
    ];
    let landed = Landed::of("t5", &sets, &t5(3)).await;
    for (ours, theirs) in [
        (
            "text_encoder.layers.1.attention.query",
            "encoder.block.1.layer.0.SelfAttention.q",
        ),
        (
            "text_encoder.layers.0.attention.output",
            "encoder.block.0.layer.0.SelfAttention.o",
        ),
        (
            "decoder.layers.1.attention_self.key",
            "decoder.block.1.layer.0.SelfAttention.k",
        ),
        (
            "decoder.layers.0.attention_cross.value",
            "decoder.block.0.layer.1.EncDecAttention.v",
        ),
        (
            "decoder.layers.0.mlp.output",
            "decoder.block.0.layer.2.DenseReluDense.wo",
        ),
    ] {
        let (ours, theirs) = (format!("{ours}.weight"), format!("{theirs}.weight"));
        landed.assert_transposed(&ours, &theirs, 0, 8);
    }
    let (ours, theirs) = ("text_encoder.layers.1.mlp.input", "encoder.block.1.layer.1");
    let (ours, theirs) = (
        format!("{ours}.weight"),
        format!("{theirs}.DenseReluDense.wi.weight"),
    );
    landed.assert_transposed(&ours, &theirs, 0, 16);
    let bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    for (ours, theirs) in [
        (
            "text_encoder.layers.0.norm_attention.gamma",
            "encoder.block.0.layer.0.layer_norm.weight",
        ),
        (
            "text_encoder.layers.1.norm_mlp.gamma",
            "encoder.block.1.layer.1.layer_norm.weight",
        ),
        ("text_encoder.norm.gamma", "encoder.final_layer_norm.weight"),
        ("text_encoder.positions.bias", &format!("encoder.{bias}")),
        (
            "decoder.layers.1.norm_cross.gamma",
            "decoder.block.1.layer.1.layer_norm.weight",
        ),
        (
            "decoder.layers.0.norm_mlp.gamma",
            "decoder.block.0.layer.2.layer_norm.weight",
        ),
        ("decoder.positions.bias", &format!("decoder.{bias}")),
        ("decoder.norm.gamma", "decoder.final_layer_norm.weight"),
    ] {
        landed.assert_same(ours, theirs);
    }
    // T5 reads its table as it is, this model times the root of its width.
    let table = landed.parameter("embedding.table");
    for i in 0..5 * 8 {
        let (ours, theirs) = (table[8 * RESERVED as usize + i], value("shared.weight", i));
        assert!(
            (ours * 8.0_f32.sqrt() - theirs).abs() < 1e-5,
            "{ours} {theirs}"
        );
    }
    // Only what T5 does not have is left, and its third blocks are not used.
    let parts = BTreeSet::from(["fusion", "image_encoder", "norm_memory", "projection"]);
    assert_eq!(landed.seeded_parts(), parts, "{:?}", landed.account.seeded);
    let unused = &landed.account.sources[0].unused;
    assert_eq!(unused.len(), 8 + 13, "{unused:?}");
    assert!(
        unused.iter().all(|name| name.contains(".block.2.")),
        "{unused:?}"
    );
}

const VIT: [&str; 4] = [
    "model.image_encoder=vit",
    "model.image_size=24",
    "model.patch=8",
    "model.image_layers=2",
];

#[tokio::test]
async fn vit_lands_under_the_names_of_timm() {
    let mut tensors = vec![
        ("cls_token", vec![1, 1, 8]),
        // A class token and 2x2 patches; the run has 3x3.
        ("pos_embed", vec![1, 5, 8]),
        ("patch_embed.proj.weight", vec![8, 3, 8, 8]),
        ("patch_embed.proj.bias", vec![8]),
        ("norm.weight", vec![8]),
        ("norm.bias", vec![8]),
    ];
    let block = [
        ("norm1.weight", vec![8]),
        ("norm1.bias", vec![8]),
        ("attn.qkv.weight", vec![24, 8]),
        ("attn.qkv.bias", vec![24]),
        ("attn.proj.weight", vec![8, 8]),
        ("attn.proj.bias", vec![8]),
        ("norm2.weight", vec![8]),
        ("norm2.bias", vec![8]),
        ("mlp.fc1.weight", vec![16, 8]),
        ("mlp.fc1.bias", vec![16]),
        ("mlp.fc2.weight", vec![8, 16]),
        ("mlp.fc2.bias", vec![8]),
    ];
    let mut tensors: Tensors = tensors.drain(..).map(|(n, s)| (n.to_owned(), s)).collect();
    for i in 0..2 {
        let named = block
            .iter()
            .map(|(name, shape)| (format!("blocks.{i}.{name}"), shape.clone()));
        tensors.extend(named);
    }
    let landed = Landed::of("vit", &VIT, &tensors).await;
    assert!(
        !landed.seeded_parts().contains("image_encoder"),
        "{:?}",
        landed.account.seeded
    );
    let at = |name: &str| format!("image_encoder.layers.1.{name}");
    let qkv = "blocks.1.attn.qkv.weight";
    for (part, first) in [("query", 0), ("key", 8), ("value", 16)] {
        landed.assert_transposed(&at(&format!("attention.{part}.weight")), qkv, first, 8);
        for (i, ours) in landed
            .parameter(&at(&format!("attention.{part}.bias")))
            .iter()
            .enumerate()
        {
            assert_eq!(*ours, value("blocks.1.attn.qkv.bias", first + i));
        }
    }
    landed.assert_transposed(
        &at("attention.output.weight"),
        "blocks.1.attn.proj.weight",
        0,
        8,
    );
    landed.assert_transposed(&at("mlp.input.weight"), "blocks.1.mlp.fc1.weight", 0, 16);
    landed.assert_same(&at("mlp.output.bias"), "blocks.1.mlp.fc2.bias");
    landed.assert_same(&at("norm_mlp.beta"), "blocks.1.norm2.bias");
    landed.assert_same("image_encoder.norm.gamma", "norm.weight");
    // A kernel over a patch is a row of channel, row, column.
    landed.assert_transposed(
        "image_encoder.embedding.weight",
        "patch_embed.proj.weight",
        0,
        8,
    );
    // The middle of 3x3 is the middle of 2x2, without the class token.
    for (channel, ours) in landed.parameter("image_encoder.positions")[4 * 8..5 * 8]
        .iter()
        .enumerate()
    {
        let mean = (1..5)
            .map(|row| value("pos_embed", row * 8 + channel))
            .sum::<f32>()
            / 4.0;
        assert!((ours - mean).abs() < 1e-5, "{ours} {mean}");
    }
    let source = &landed.account.sources[0];
    assert_eq!(source.interpolated, ["image_encoder.positions: 2x2 to 3x3"]);
    assert_eq!(source.unused, ["cls_token"]);
}

#[tokio::test]
async fn vit_lands_under_the_names_of_hugging_face() {
    let layer = [
        ("layernorm_before", vec![8]),
        ("attention.attention.query", vec![8, 8]),
        ("attention.attention.key", vec![8, 8]),
        ("attention.attention.value", vec![8, 8]),
        ("attention.output.dense", vec![8, 8]),
        ("layernorm_after", vec![8]),
        ("intermediate.dense", vec![16, 8]),
        ("output.dense", vec![8, 16]),
    ];
    for prefix in ["", "vit."] {
        let mut tensors: Tensors = Vec::new();
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("{prefix}{name}.weight"), shape.to_vec()));
            tensors.push((format!("{prefix}{name}.bias"), vec![shape[0]]));
        };
        add("embeddings.patch_embeddings.projection", &[8, 3, 8, 8]);
        add("layernorm", &[8]);
        for i in 0..2 {
            for (name, shape) in &layer {
                add(&format!("encoder.layer.{i}.{name}"), shape);
            }
        }
        let positions = format!("{prefix}embeddings.position_embeddings");
        tensors.push((positions.clone(), vec![1, 10, 8]));
        let landed = Landed::of("vit", &VIT, &tensors).await;
        assert!(
            !landed.seeded_parts().contains("image_encoder"),
            "{:?}",
            landed.account.seeded
        );
        let theirs = |name: &str| format!("{prefix}encoder.layer.0.{name}");
        let ours = |name: &str| format!("image_encoder.layers.0.{name}");
        let key = theirs("attention.attention.key.weight");
        landed.assert_transposed(&ours("attention.key.weight"), &key, 0, 8);
        landed.assert_transposed(
            &ours("mlp.output.weight"),
            &theirs("output.dense.weight"),
            0,
            8,
        );
        landed.assert_same(&ours("norm_mlp.gamma"), &theirs("layernorm_after.weight"));
        landed.assert_same(
            &ours("attention.output.bias"),
            &theirs("attention.output.dense.bias"),
        );
        for (i, ours) in landed
            .parameter("image_encoder.positions")
            .iter()
            .enumerate()
        {
            assert_eq!(*ours, value(&positions, 8 + i));
        }
    }
}

#[tokio::test]
async fn resnet50_gives_its_convolutions() {
    let mut tensors: Tensors = vec![
        ("conv1.weight".to_owned(), vec![64, 3, 7, 7]),
        ("bn1.weight".to_owned(), vec![64]),
        ("bn1.running_mean".to_owned(), vec![64]),
        ("fc.weight".to_owned(), vec![10, 2048]),
    ];
    let mut inputs = 64;
    for (stage, (blocks, width)) in [(3, 64), (4, 128), (6, 256)].into_iter().enumerate() {
        for block in 0..blocks {
            let at = format!("layer{}.{block}", stage + 1);
            tensors.push((format!("{at}.conv1.weight"), vec![width, inputs, 1, 1]));
            tensors.push((format!("{at}.conv2.weight"), vec![width, width, 3, 3]));
            tensors.push((format!("{at}.conv3.weight"), vec![4 * width, width, 1, 1]));
            if block == 0 {
                let shortcut = format!("{at}.downsample.0.weight");
                tensors.push((shortcut, vec![4 * width, inputs, 1, 1]));
            }
            inputs = 4 * width;
        }
    }
    let sets = ["model.image_encoder=resnet50-c4", "model.image_size=32"];
    let landed = Landed::of("resnet50", &sets, &tensors).await;
    let at = |name: &str| format!("image_encoder.{name}.convolution.weight");
    landed.assert_same(&at("stem"), "conv1.weight");
    // Blocks are counted through: 3 of stage 1, 4 of stage 2, then stage 3.
    landed.assert_same(&at("blocks.2.middle"), "layer1.2.conv2.weight");
    landed.assert_same(&at("blocks.3.shortcut"), "layer2.0.downsample.0.weight");
    landed.assert_same(&at("blocks.12.expand"), "layer3.5.conv3.weight");
    landed.assert_same(&at("blocks.7.reduce"), "layer3.0.conv1.weight");
    let of_image = |path: &&String| path.starts_with("image_encoder.");
    for path in landed.account.seeded.iter().filter(of_image) {
        assert!(path.contains(".norm."), "{path}");
    }
    let unused = &landed.account.sources[0].unused;
    assert_eq!(*unused, ["bn1.running_mean", "bn1.weight", "fc.weight"]);
}
