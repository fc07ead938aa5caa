"""The model in PyTorch: what a training step is compared with for speed.

    python3 pytorch_twin.py --config CONFIG --batch N [options]        times training steps
    python3 pytorch_twin.py --check FOLDER                             compares the numerics

Needs torch and numpy; safetensors for `--weights` and `--check`. It is written for speed as
PyTorch offers it: bf16 autocast, model and loss compiled as one graph, fused attention kernels,
projections of one input as one matrix product, convolutions in channels_last, fused AdamW.

CONFIG is the `config.json` of `ringmaster checkpoint export`, whose `model` holds the keys of
`[model]` in a run file, or a preset (`proto/src/spec/presets/base.toml`). Read are: image_encoder,
image_size, patch, image_width, image_heads, image_layers, image_mlp_width, text_stack, text_width,
text_heads, text_layers, decoder_layers, text_mlp_width, fusion (`jar` alone), width, heads,
mlp_width, tokens, iterations, fusion_layers, fusion_mlp_width, activation, resample (`latent`
alone), gating, gate_init, combine, skip, kv_norm, fuse_self_attn, share_fusion, share_layers,
memory, text_len, target_len, vocab.

A step is K forward and backward passes over N / K examples each (random pictures, random texts of
full length), clipping of the gradient's norm at 1, and AdamW. Parameters are f32; on a GPU matrix
products, convolutions and attention are bf16, norms and loss f32. What flows from one residual
branch to the next is `--stream` bf16, or f32 as autocast alone would leave it in the transformers.
The sum of the token losses is divided by the number of tokens before the backward pass: the same
gradient as dividing after it, one pass over the gradients less.

One JSON line goes to stdout, everything else to stderr. `step_seconds` is the median of the timed
steps, `compile_seconds` the first step less that, `loss` the last step's mean per token in nats,
`peak_memory_bytes` what tensors took at most in the timed steps.

`--weights` loads an exported `model.safetensors`. `--check FOLDER` runs an exported folder in f32
on the CPU, compares it with worker/model/rebuild.py, which computes the same from the equations of
worker/model/MODEL.md, and fails above 1e-4. The input is FOLDER/case.safetensors where there is
one (as rebuild.py takes it, perhaps with a `target`), else random.
"""

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = -1e9
BUCKETS = 32
FAR = 128
GROUPS = 32
POSITION_DEVIATION = 0.3
LATENT_DEVIATION = 3.0
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
FIRST_WORD, BEGIN = 19, 1
TOLERANCE = 1e-4

Spec = SimpleNamespace
Batch = dict[str, Tensor]
# Width, heads, and hidden width of the MLP.
Sizes = tuple[int, int, int]


def read_spec(path: Path) -> Spec:
    """The choices and sizes of a model; see above."""
    text = path.read_text()
    if path.suffix == ".toml":
        import tomllib

        values = tomllib.loads(text)
    else:
        values = json.loads(text)
    spec = Spec(**values.get("model", values))
    if (spec.fusion, spec.resample) != ("jar", "latent"):
        sys.exit(f"{path}: only fusion = jar with resample = latent is implemented")
    spec.stream, spec.group_norm = torch.float32, "native"
    return spec


# -- building blocks -------------------------------------------------------------------------------


class Norm(nn.Module):
    """Layer norm, or RMS norm."""

    def __init__(self, width: int, rms: bool = False):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = None if rms else nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.beta is None:
            return F.rms_norm(x.float(), self.gamma.shape, self.gamma, 1e-6)
        return F.layer_norm(x, self.gamma.shape, self.gamma, self.beta, 1e-5)


class SelfAttention(nn.Module):
    """Queries, keys and values are one matrix product."""

    def __init__(self, width: int, heads: int, bias: bool = False, scaled: bool = True):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5 if scaled else 1.0
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.output = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        q, k, v = heads_of(self.qkv(x), 3, self.heads)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=self.scale)
        return self.output(y.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Keys and values are one matrix product."""

    def __init__(self, width: int, memory_width: int, heads: int, scaled: bool = True):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5 if scaled else 1.0
        self.query = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(memory_width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """`x` is [B or 1, Q, D]."""
        (q,) = heads_of(self.query(x), 1, self.heads)
        k, v = heads_of(self.kv(memory), 2, self.heads)
        if len(q) != len(k):
            q = q.expand(len(k), -1, -1, -1).contiguous()
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=self.scale)
        return self.output(y.transpose(1, 2).flatten(2))


def heads_of(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, T, parts * D] -> [B, heads, T, d] for every part."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, activation: str, bias: bool = False):
        super().__init__()
        self.input = nn.Linear(width, hidden, bias)
        self.output = nn.Linear(hidden, width, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.activation(self.input(x)))


class Layer(nn.Module):
    """A pre-norm transformer layer; `t5` has RMS norms and unscaled attention."""

    def __init__(self, sizes: Sizes, activation: str, bias: bool = False, t5: bool = False):
        super().__init__()
        width, heads, hidden = sizes
        self.norm_attention = Norm(width, t5)
        self.attention = SelfAttention(width, heads, bias, not t5)
        self.norm_mlp = Norm(width, t5)
        self.mlp = Mlp(width, hidden, activation, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm_attention(x), mask)
        return x + self.mlp(self.norm_mlp(x))


class CrossLayer(nn.Module):
    """One of the decoder's."""

    def __init__(self, sizes: Sizes, memory_width: int, t5: bool):
        super().__init__()
        width, heads, hidden = sizes
        self.norm_self = Norm(width, t5)
        self.attention_self = SelfAttention(width, heads, scaled=not t5)
        self.norm_cross = Norm(width, t5)
        self.attention_cross = CrossAttention(width, memory_width, heads, not t5)
        self.norm_mlp = Norm(width, t5)
        self.mlp = Mlp(width, hidden, "relu")

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Causal by `mask`, or by itself without one."""
        x = x + self.attention_self(self.norm_self(x), mask, causal=mask is None)
        x = x + self.attention_cross(self.norm_cross(x), memory)
        return x + self.mlp(self.norm_mlp(x))


# -- image -----------------------------------------------------------------------------------------


class GroupNorm(nn.Module):
    """`native` is F.group_norm, `sums` the same from sums per channel, which suit channels_last."""

    def __init__(self, channels: int, spec: Spec):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.sums, self.stream = spec.group_norm == "sums", spec.stream

    def forward(self, x: Tensor) -> Tensor:
        if self.sums:
            return self.from_sums(x.float()).to(self.stream)
        return F.group_norm(x, GROUPS, self.gamma, self.beta, 1e-5).to(self.stream)

    def from_sums(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        of_groups = lambda y: y.mean((2, 3)).unflatten(1, (GROUPS, -1)).mean(2)
        mean, square = of_groups(x), of_groups(x * x)
        root = torch.rsqrt((square - mean * mean).clamp(min=0) + 1e-5)
        each = lambda y: y.repeat_interleave(channels // GROUPS, 1)
        scale = self.gamma * each(root)
        shift = self.beta - each(mean) * scale
        return x * scale[..., None, None] + shift[..., None, None]


class Unit(nn.Module):
    """A convolution and its norm."""

    def __init__(self, spec: Spec, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = GroupNorm(outputs, spec)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x))


class Bottleneck(nn.Module):
    def __init__(self, spec: Spec, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.reduce = Unit(spec, inputs, width, 1)
        self.middle = Unit(spec, width, width, 3, stride)
        self.expand = Unit(spec, width, outputs, 1)
        changes = inputs != outputs or stride != 1
        self.shortcut = Unit(spec, inputs, outputs, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.reduce(x))
        y = F.relu(self.middle(y))
        y = self.expand(y)
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Resnet(nn.Module):
    """ResNet-50 up to C4."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.stem = Unit(spec, 3, 64, 7, 2)
        blocks, inputs = [], 64
        for stage, count in enumerate((3, 4, 6)):
            width = 64 << stage
            for block in range(count):
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(Bottleneck(spec, inputs, width, stride))
                inputs = 4 * width
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(images)), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return x.flatten(2).transpose(1, 2)


class Vit(nn.Module):
    """The encoders `patch` and `vit`."""

    def __init__(self, spec: Spec):
        super().__init__()
        published = spec.image_encoder == "vit"
        self.patch, self.stream, width = spec.patch, spec.stream, spec.image_width
        self.embedding = nn.Linear(3 * spec.patch**2, width)
        self.positions = normal((spec.image_size // spec.patch) ** 2, width, POSITION_DEVIATION)
        sizes = (width, spec.image_heads, spec.image_mlp_width)
        activation = "gelu" if published else "relu"
        layers = [Layer(sizes, activation, published) for _ in range(spec.image_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(width) if published else None

    def forward(self, images: Tensor) -> Tensor:
        p = self.patch
        x = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = (self.embedding(x) + self.positions).to(self.stream)
        for layer in self.layers:
            x = layer(x)
        return x if self.norm is None else self.norm(x)


# -- text ------------------------------------------------------------------------------------------


class Embedding(nn.Module):
    """The table that text encoder, decoder and output share."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.root, self.stream = spec.text_width**0.5, spec.stream
        self.table = normal(spec.vocab, spec.text_width, 1 / self.root)

    def forward(self, ids: Tensor) -> Tensor:
        return (F.embedding(ids, self.table) * self.root).to(self.stream)

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.table)


class LearnedPositions(nn.Module):
    """Added to the tokens."""

    def __init__(self, spec: Spec, tokens: int):
        super().__init__()
        self.positions = normal(tokens, spec.text_width, POSITION_DEVIATION)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return x + self.positions[: x.shape[1]].to(x.dtype), mask


class RelativeBias(nn.Module):
    """Added to the mask; `two_sided` or, for a decoder, causal."""

    def __init__(self, spec: Spec, tokens: int, two_sided: bool):
        super().__init__()
        self.bias = normal(BUCKETS, spec.text_heads, POSITION_DEVIATION)
        places = range(tokens)
        buckets = [[bucket(key - query, two_sided) for key in places] for query in places]
        self.register_buffer("buckets", torch.tensor(buckets), persistent=False)
        hidden = None if two_sided else torch.full((tokens, tokens), HIDDEN).triu(1)
        self.register_buffer("hidden", hidden, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens = x.shape[1]
        biases = F.embedding(self.buckets[:tokens, :tokens], self.bias).permute(2, 0, 1)[None]
        mask = mask if self.hidden is None else self.hidden[:tokens, :tokens]
        # The fast kernels take only a mask whose last dimension is dense.
        return x, (biases + mask).contiguous()


def bucket(distance: int, two_sided: bool) -> int:
    """T5's bucket of a key `distance` tokens after its query."""
    first, buckets = 0, BUCKETS
    if two_sided:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(FAR / exact)
    return first + min(exact + int(share * (buckets - exact)), buckets - 1)


def positions(spec: Spec, tokens: int, two_sided: bool) -> nn.Module:
    if spec.text_stack == "t5":
        return RelativeBias(spec, tokens, two_sided)
    return LearnedPositions(spec, tokens)


class TextEncoder(nn.Module):
    def __init__(self, spec: Spec):
        super().__init__()
        t5 = spec.text_stack == "t5"
        self.positions = positions(spec, spec.text_len, True)
        sizes = (spec.text_width, spec.text_heads, spec.text_mlp_width)
        self.layers = nn.ModuleList(Layer(sizes, "relu", t5=t5) for _ in range(spec.text_layers))
        self.norm = Norm(spec.text_width, True) if t5 else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, mask = self.positions(x, mask)
        for layer in self.layers:
            x = layer(x, mask)
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    def __init__(self, spec: Spec):
        super().__init__()
        t5 = spec.text_stack == "t5"
        self.positions = positions(spec, spec.target_len, False)
        sizes = (spec.text_width, spec.text_heads, spec.text_mlp_width)
        layers = [CrossLayer(sizes, spec.width, t5) for _ in range(spec.decoder_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(spec.text_width, t5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x, mask = self.positions(x, None)
        for layer in self.layers:
            x = layer(x, memory, mask)
        return self.norm(x)


# -- fusion ----------------------------------------------------------------------------------------


class Projection(nn.Module):
    """Eq. 1."""

    def __init__(self, spec: Spec):
        super().__init__()
        resnet = spec.image_encoder == "resnet50-c4"
        side = -(-spec.image_size // 16) if resnet else spec.image_size // spec.patch
        self.image = nn.Linear(1024 if resnet else spec.image_width, spec.width)
        self.positions = normal(side * side, spec.width, POSITION_DEVIATION)
        widens = spec.text_width != spec.width
        self.text = nn.Linear(spec.text_width, spec.width, bias=False) if widens else None
        self.stream = spec.stream

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        image = (self.image(image) + self.positions).to(self.stream)
        return image, text if self.text is None else self.text(text)


class Resampler(nn.Module):
    """Eq. 2."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.latents = normal(spec.tokens, spec.width, LATENT_DEVIATION)
        self.norm = Norm(spec.width) if spec.kv_norm else None
        self.attention = CrossAttention(spec.width, spec.width, spec.heads)
        self.output = nn.Linear(spec.width, spec.width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x if self.norm is None else self.norm(x)
        return self.output(self.attention(self.latents[None], x, mask))


class GatedFusion(nn.Module):
    """Eq. 3."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.norm_text, self.norm_image = Norm(spec.width), Norm(spec.width)
        own = spec.fuse_self_attn
        self.attention_self = SelfAttention(spec.width, spec.heads) if own else None
        self.attention = CrossAttention(spec.width, spec.width, spec.heads)
        self.mlp = Mlp(spec.width, spec.fusion_mlp_width, spec.activation)
        gate = lambda: nn.Parameter(torch.full((1,), spec.gate_init)) if spec.gating else None
        self.alpha, self.beta = gate(), gate()
        self.skips_norm, self.stream = spec.skip == "T", spec.stream

    def forward(self, t: Tensor, f: Tensor) -> Tensor:
        a = self.norm_text(t).to(self.stream)
        if self.attention_self is not None:
            a = a + self.attention_self(a)
        seen = self.attention(a, self.norm_image(f))
        crossed = (t if self.skips_norm else a) + gated(self.alpha, seen)
        return crossed + gated(self.beta, self.mlp(crossed))


def gated(gate: Tensor | None, x: Tensor) -> Tensor:
    """A gate without dimensions, so that the product keeps the number format of `x`."""
    return x if gate is None else torch.tanh(gate[0]) * x


class Stack(nn.Module):
    """The transformer of an iteration."""

    def __init__(self, spec: Spec):
        super().__init__()
        sizes = (spec.width, spec.heads, spec.mlp_width)
        count = spec.fusion_layers // spec.iterations
        self.layers = nn.ModuleList(Layer(sizes, spec.activation) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Jar(nn.Module):
    """Eq. 4."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.image_resampler, self.text_resampler = Resampler(spec), Resampler(spec)
        count = lambda shared: range(1 if shared else spec.iterations)
        self.fusions = nn.ModuleList(GatedFusion(spec) for _ in count(spec.share_fusion))
        self.stacks = nn.ModuleList(Stack(spec) for _ in count(spec.share_layers))
        self.combine, self.memory, self.iterations = spec.combine, spec.memory, spec.iterations
        if spec.combine == "weighted":
            self.combine_fused = nn.Parameter(torch.ones(spec.iterations))
            self.combine_text = nn.Parameter(torch.ones(spec.iterations))
        if spec.memory == "mixture":
            self.mixture = nn.Parameter(torch.zeros(spec.iterations))

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        f, t = self.image_resampler(image), self.text_resampler(text, mask)
        outputs = []
        for i in range(self.iterations):
            fused = self.fusions[i % len(self.fusions)](t, f)
            fused = self.stacks[i % len(self.stacks)](fused)
            t = self.combined(i, fused, t)
            outputs.append(fused)
        if self.memory == "last":
            return outputs[-1]
        if self.memory == "mixture":
            shares = self.mixture.softmax(0)
            return sum(share * output for share, output in zip(shares, outputs))
        return t

    def combined(self, i: int, fused: Tensor, t: Tensor) -> Tensor:
        if self.combine == "none":
            return fused
        if self.combine == "residual":
            return fused + t
        return self.combine_fused[i] * fused + self.combine_text[i] * t


# -- the whole -------------------------------------------------------------------------------------


class Model(nn.Module):
    """Parameters have the names of MODEL.md, except that `qkv` and `kv` join several of them."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.embedding = Embedding(spec)
        self.image_encoder = (Resnet if spec.image_encoder == "resnet50-c4" else Vit)(spec)
        self.text_encoder = TextEncoder(spec)
        self.projection = Projection(spec)
        self.fusion = Jar(spec)
        self.norm_memory = Norm(spec.width)
        self.decoder = Decoder(spec)

    def logits(self, images: Tensor, text: Tensor, real: Tensor, input: Tensor) -> Tensor:
        mask = (real == 0).float()[:, None, None, :] * HIDDEN
        words = self.text_encoder(self.embedding(text), mask)
        picture, words = self.projection(self.image_encoder(images), words)
        memory = self.norm_memory(self.fusion(picture, words, mask))
        return self.embedding.logits(self.decoder(self.embedding(input), memory))

    def forward(self, target: Tensor, weight: Tensor, **inputs: Tensor) -> Tensor:
        """The sum of the target tokens' losses."""
        logits = self.logits(**inputs).flatten(0, 1).float()
        losses = F.cross_entropy(logits, target.flatten(), reduction="none")
        return (losses * weight.flatten()).sum()


def normal(rows: int, columns: int, deviation: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * deviation)


def initialise(model: Model) -> None:
    """Random weights that keep the variance of what they multiply."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for module in model.modules():
        if isinstance(module, (Vit, TextEncoder, Decoder, Stack)):
            soften(module.layers)


@torch.no_grad()
def soften(layers: nn.ModuleList) -> None:
    """Branches that add up to the variance of their input; scores as if they were scaled."""
    for layer in layers:
        branches = [part for part in layer.children() if not isinstance(part, Norm)]
        for branch in branches:
            branch.output.weight *= (len(branches) * len(layers)) ** -0.5
        for branch in branches:
            if isinstance(branch, (SelfAttention, CrossAttention)) and branch.scale == 1.0:
                width = branch.output.in_features
                queries = branch.qkv if isinstance(branch, SelfAttention) else branch.query
                queries.weight[:width] *= (width // branch.heads) ** -0.5


def load(model: Model, path: Path) -> None:
    """Exported parameters; their matrices are [inputs, outputs]."""
    from safetensors.torch import load_file

    values = load_file(path)
    linears = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for name, parameter in model.named_parameters():
        sources = [values.pop(source) for source in sources_of(name)]
        value = torch.cat(sources, dim=-1) if len(sources) > 1 else sources[0]
        value = value.T if name in linears else value
        assert parameter.shape == value.shape, (name, parameter.shape, value.shape)
        parameter.data.copy_(value)
    assert not values, f"{path} has parameters that the model lacks: {sorted(values)}"


def sources_of(name: str) -> list[str]:
    """The exported parameters that one of ours is made of."""
    for joined, parts in {"qkv": ("query", "key", "value"), "kv": ("key", "value")}.items():
        if f".{joined}." in name:
            return [name.replace(f".{joined}.", f".{part}.") for part in parts]
    return [name]


def random_batch(spec: Spec, examples: int, device: str) -> Batch:
    """Texts of full length, of words alone."""
    words = lambda length: torch.randint(FIRST_WORD, spec.vocab, (examples, length), device=device)
    target = words(spec.target_len)
    begin = torch.full((examples, 1), BEGIN, device=device)
    side = spec.image_size
    return {
        "images": torch.randn(examples, 3, side, side, device=device),
        "text": words(spec.text_len),
        "real": torch.ones(examples, spec.text_len, dtype=torch.long, device=device),
        "input": torch.cat([begin, target[:, :-1]], 1),
        "target": target,
        "weight": torch.ones(examples, spec.target_len, device=device),
    }


# -- training --------------------------------------------------------------------------------------


class Trainer:
    """Steps over the same batch, which lies on the device."""

    def __init__(self, spec: Spec, options: argparse.Namespace):
        self.device, self.model = options.device, built(spec, options)
        batch = random_batch(spec, options.batch, self.device)
        if options.channels_last:
            batch["images"] = batch["images"].contiguous(memory_format=torch.channels_last)
        parts = zip(*(values.chunk(options.microbatches) for values in batch.values()))
        self.batches = [dict(zip(batch, part)) for part in parts]
        self.tokens = batch["weight"].sum().item()
        self.optimizer = adamw(self.model)
        self.loss: Callable[..., Tensor] = self.model
        if options.compile:
            mode = options.compile_mode
            self.loss = torch.compile(self.model, fullgraph=True, dynamic=False, mode=mode)

    def step(self) -> Tensor:
        """One update; returns the mean loss."""
        torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in self.batches:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                loss = self.loss(**batch) / self.tokens
            loss.backward()
            losses.append(loss.detach().clone())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return torch.stack(losses).sum()


def built(spec: Spec, options: argparse.Namespace) -> Model:
    with torch.device(options.device):
        model = Model(spec)
    initialise(model)
    if options.weights:
        load(model, options.weights)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model


def adamw(model: Model) -> torch.optim.AdamW:
    """Decay for matrices, kernels and the token table."""
    named = list(model.named_parameters())
    decays = lambda name: name.rsplit(".", 1)[-1] in ("weight", "table")
    groups = [
        {"params": [p for name, p in named if decays(name)], "weight_decay": 0.01},
        {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


def seconds_of(device: str, work: Callable[[], object], times: int) -> list[float]:
    """How long each of several runs takes; on a GPU without waiting between them."""
    if device == "cpu":
        marks = [time.perf_counter()]
        for _ in range(times):
            work()
            marks.append(time.perf_counter())
        return [after - before for before, after in zip(marks, marks[1:])]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in zip(events, events[1:])]


def measure(spec: Spec, options: argparse.Namespace) -> dict[str, object]:
    """Times the steps."""
    trainer, device = Trainer(spec, options), options.device
    last = torch.zeros(())

    def step() -> None:
        nonlocal last
        last = trainer.step()

    begun = time.perf_counter()
    step()
    log(f"first step: loss {last.item():.4f}")
    first = time.perf_counter() - begun
    seconds_of(device, step, max(options.warmup - 1, 0))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(device, step, options.steps)
    log("steps: " + " ".join(f"{s:.4f}" for s in seconds))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    loss = last.item()
    if options.profile:
        options.profile.write_text(kernels(device, step))
    median = statistics.median(seconds)
    return {
        "params": sum(p.numel() for p in trainer.model.parameters()),
        "batch": options.batch,
        "microbatches": options.microbatches,
        "step_seconds": median,
        "step_seconds_min": min(seconds),
        "examples_per_second": options.batch / median,
        "peak_memory_bytes": peak,
        "compile_seconds": max(first - median, 0.0) if options.compile else 0.0,
        "loss": loss,
    }


def kernels(device: str, step: Callable[[], None], steps: int = 3, rows: int = 40) -> str:
    """A table of the time in kernels (on the CPU: operators) by name, per step."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
        if gpu:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    spent = lambda event: event.self_device_time_total if gpu else event.self_cpu_time_total
    events = profiler.key_averages()
    events = [e for e in events if e.device_type == kind and not e.is_user_annotation]
    events.sort(key=spent, reverse=True)
    total = sum(map(spent, events)) or 1.0
    lines = [f"{'ms/step':>10} {'share':>7} {'calls/step':>10}  name"]
    lines.append(f"{total / 1e3 / steps:10.3f} {1:7.2%} {'':10}  all")
    for event in events[:rows]:
        own, calls = spent(event), event.count / steps
        row = f"{own / 1e3 / steps:10.3f} {own / total:7.2%} {calls:10.1f}"
        lines.append(f"{row}  {event.key}")
    return "\n".join(lines) + "\n"


def ceilings() -> dict[str, float]:
    """What this GPU reaches: a large matrix product, and copies within its memory."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.randn(1 << 29, device="cuda")
    copy = torch.empty_like(source)

    def median(work: Callable[[], object]) -> float:
        seconds_of("cuda", work, 5)
        return statistics.median(seconds_of("cuda", work, 20))

    multiplying = median(lambda: torch.mm(a, b, out=product))
    copying = median(lambda: copy.copy_(source))
    moved = 2 * source.numel() * source.element_size()
    return {
        "bf16_matmul_tflops": 2 * n**3 / multiplying / 1e12,
        "copy_gb_per_second": moved / copying / 1e9,
    }


# -- the check -------------------------------------------------------------------------------------


def check(folder: Path, group_norm: str) -> dict[str, float]:
    """The largest differences from rebuild.py, relative to its largest logit and its loss."""
    spec = read_spec(folder / "config.json")
    spec.group_norm = group_norm
    model = Model(spec)
    load(model, folder / "model.safetensors")
    case = read_case(folder / "case.safetensors", spec)
    target = case["target"] if "target" in case else case["input"]
    inputs = {name: case[name] for name in ("images", "text", "real", "input")}
    weight = torch.ones(target.shape)
    with torch.no_grad():
        logits = model.logits(**inputs).double()
        loss = model(target=target, weight=weight, **inputs).double()
    arrays = {name: value.numpy() for name, value in inputs.items()}
    arrays["images"] = inputs["images"].double().numpy()
    expected = torch.from_numpy(rebuild().Model(str(folder)).logits(**arrays))
    expected_loss = F.cross_entropy(expected.flatten(0, 1), target.flatten(), reduction="sum")
    return {
        "logits": ((logits - expected).abs().max() / expected.abs().max()).item(),
        "loss": ((loss - expected_loss).abs() / expected_loss.abs()).item(),
    }


def read_case(path: Path, spec: Spec) -> Batch:
    if not path.exists():
        return random_batch(spec, 2, "cpu")
    from safetensors.torch import load_file

    return load_file(path)


def rebuild():
    """worker/model/rebuild.py as a module."""
    path = Path(__file__).resolve().parents[2] / "worker" / "model" / "rebuild.py"
    spec = importlib.util.spec_from_file_location("rebuild", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the command line ------------------------------------------------------------------------------


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--config", type=Path, help="config.json, or a preset's .toml")
    parser.add_argument("--batch", type=int, help="examples of a step")
    parser.add_argument("--microbatches", type=int, default=1, metavar="K", help="passes of a step")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--compile", action=switch, default=True)
    modes = ["default", "reduce-overhead", "max-autotune-no-cudagraphs"]
    parser.add_argument("--compile-mode", choices=modes, default="default")
    parser.add_argument("--channels-last", action=switch, default=True)
    parser.add_argument("--stream", choices=["bf16", "f32"], default="bf16", help="see above")
    parser.add_argument("--group-norm", choices=["native", "sums"], default="native")
    parser.add_argument("--weights", type=Path, help="model.safetensors of an export")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="writes a table of kernels")
    parser.add_argument("--matmul-rate", action="store_true", help="measures the GPU's ceilings")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="compares with rebuild.py")
    options = parser.parse_args()
    if not options.check and not (options.config and options.batch):
        parser.error("--config and --batch, or --check")
    if options.batch and options.batch % options.microbatches:
        parser.error("--batch must be a multiple of --microbatches")
    if options.compile_mode == "reduce-overhead" and options.microbatches > 1:
        parser.error("--compile-mode reduce-overhead needs --microbatches 1")
    if options.matmul_rate and options.device != "cuda":
        parser.error("--matmul-rate needs --device cuda")
    return options


def main() -> None:
    options = arguments()
    torch.manual_seed(1)
    if options.check:
        differences = check(options.check, options.group_norm)
        print(json.dumps(differences))
        sys.exit(not all(difference <= TOLERANCE for difference in differences.values()))
    gpu = options.device == "cuda"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    spec = read_spec(options.config)
    spec.stream = torch.bfloat16 if gpu and options.stream == "bf16" else torch.float32
    spec.group_norm = options.group_norm
    line: dict[str, object] = {
        "framework": "pytorch",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "compile": options.compile_mode if options.compile else None,
        "stream": options.stream if gpu else "f32",
        "group_norm": options.group_norm,
    }
    rates = ceilings() if options.matmul_rate else {}
    print(json.dumps({**line, **measure(spec, options), **rates}))


if __name__ == "__main__":
    main()
