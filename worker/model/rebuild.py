"""The forward pass in numpy, written from MODEL.md: an exported folder in, logits out.

    python3 rebuild.py FOLDER CASE.safetensors

CASE holds `images` [B, 3, S, S] (normalised), `text` [B, L], `real` [B, L] (1 or 0), `input` [B, T] and
the `logits` [B, T, V] to compare with. Prints the largest difference, relative to the largest logit.
"""

import json
import math
import sys

import numpy as np
from safetensors.numpy import load_file

HIDDEN = -1e9


class Model:
    def __init__(self, folder):
        with open(f"{folder}/config.json") as file:
            self.spec = json.load(file)["model"]
        self.values = {name: value.astype(np.float64) for name, value in load_file(f"{folder}/model.safetensors").items()}

    def has(self, name):
        return name in self.values

    def __getitem__(self, name):
        return self.values[name]

    # -- building blocks ------------------------------------------------------------------------------

    def linear(self, at, x):
        y = x @ self[f"{at}.weight"]
        return y + self[f"{at}.bias"] if self.has(f"{at}.bias") else y

    def norm(self, at, x):
        if self.has(f"{at}.beta"):
            x = x - x.mean(-1, keepdims=True)
            x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
            return x * self[f"{at}.gamma"] + self[f"{at}.beta"]
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * self[f"{at}.gamma"]

    def attention(self, at, q, kv, heads, mask=0.0, scaled=True):
        def split(x):
            return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

        query, key, value = (split(self.linear(f"{at}.{name}", x)) for name, x in (("query", q), ("key", kv), ("value", kv)))
        scale = query.shape[-1] ** -0.5 if scaled else 1.0
        seen = softmax(scale * query @ key.transpose(0, 1, 3, 2) + mask, -1) @ value
        return self.linear(f"{at}.output", seen.transpose(0, 2, 1, 3).reshape(*seen.shape[:1], seen.shape[2], -1))

    def mlp(self, at, x, act):
        return self.linear(f"{at}.output", act(self.linear(f"{at}.input", x)))

    def layer(self, at, x, heads, act, mask=0.0, scaled=True):
        a = self.norm(f"{at}.norm_attention", x)
        x = x + self.attention(f"{at}.attention", a, a, heads, mask, scaled)
        return x + self.mlp(f"{at}.mlp", self.norm(f"{at}.norm_mlp", x), act)

    def cross_layer(self, at, x, memory, heads, act, own_mask=0.0, memory_mask=0.0, scaled=True):
        a = self.norm(f"{at}.norm_self", x)
        x = x + self.attention(f"{at}.attention_self", a, a, heads, own_mask, scaled)
        b = self.norm(f"{at}.norm_cross", x)
        x = x + self.attention(f"{at}.attention_cross", b, memory, heads, memory_mask, scaled)
        return x + self.mlp(f"{at}.mlp", self.norm(f"{at}.norm_mlp", x), act)

    # -- image ----------------------------------------------------------------------------------------

    def image_encoder(self, images):
        if self.spec["image_encoder"] == "resnet50-c4":
            return self.resnet(images)
        act = gelu if self.spec["image_encoder"] == "vit" else relu
        b, c, s, _ = images.shape
        p = self.spec["patch"]
        patches = images.reshape(b, c, s // p, p, s // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)
        x = self.linear("image_encoder.embedding", patches) + self["image_encoder.positions"]
        for i in range(self.spec["image_layers"]):
            x = self.layer(f"image_encoder.layers.{i}", x, self.spec["image_heads"], act)
        return self.norm("image_encoder.norm", x) if self.has("image_encoder.norm.gamma") else x

    def resnet(self, x):
        def unit(at, x, stride=1):
            return self.group_norm(f"{at}.norm", convolve(x, self[f"{at}.convolution.weight"], stride))

        x = max_pool(relu(unit("image_encoder.stem", x, 2)))
        for i in range(3 + 4 + 6):
            at, stride = f"image_encoder.blocks.{i}", 2 if i in (3, 3 + 4) else 1
            y = relu(unit(f"{at}.reduce", x))
            y = relu(unit(f"{at}.middle", y, stride))
            y = unit(f"{at}.expand", y)
            if self.has(f"{at}.shortcut.convolution.weight"):
                x = unit(f"{at}.shortcut", x, stride)
            x = relu(x + y)
        return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)

    def group_norm(self, at, x):
        groups = x.reshape(x.shape[0], 32, -1)
        groups = groups - groups.mean(-1, keepdims=True)
        groups = groups / np.sqrt((groups * groups).mean(-1, keepdims=True) + 1e-5)
        per_channel = lambda name: self[f"{at}.{name}"].reshape(1, -1, 1, 1)
        return groups.reshape(x.shape) * per_channel("gamma") + per_channel("beta")

    # -- text -----------------------------------------------------------------------------------------

    def embed(self, ids):
        return self["embedding.table"][ids] * self.spec["text_width"] ** 0.5

    def positions(self, stack, x, mask, two_sided):
        """Learned positions are added to the tokens, T5's biases to the mask."""
        tokens = x.shape[1]
        if self.spec["text_stack"] == "plain":
            return x + self[f"{stack}.positions.positions"][:tokens], mask
        buckets = [[bucket(key - query, two_sided) for key in range(tokens)] for query in range(tokens)]
        return x, mask + self[f"{stack}.positions.bias"][buckets].transpose(2, 0, 1)

    def text_encoder(self, ids, mask):
        x, mask = self.positions("text_encoder", self.embed(ids), mask, True)
        for i in range(self.spec["text_layers"]):
            scaled = self.spec["text_stack"] == "plain"
            x = self.layer(f"text_encoder.layers.{i}", x, self.spec["text_heads"], relu, mask, scaled)
        return self.norm("text_encoder.norm", x) if self.has("text_encoder.norm.gamma") else x

    def decoder(self, ids, memory, memory_mask):
        tokens = ids.shape[1]
        causal = np.where(np.tri(tokens) > 0, 0.0, HIDDEN)
        x, mask = self.positions("decoder", self.embed(ids), causal, False)
        scaled = self.spec["text_stack"] == "plain"
        for i in range(self.spec["decoder_layers"]):
            x = self.cross_layer(f"decoder.layers.{i}", x, memory, self.spec["text_heads"], relu, mask, memory_mask, scaled)
        return self.norm("decoder.norm", x) @ self["embedding.table"].T

    # -- fusion ---------------------------------------------------------------------------------------

    def stack(self, i, x):
        """T_i."""
        i = 0 if self.spec["share_layers"] else i
        for j in range(self.spec["fusion_layers"] // self.spec["iterations"]):
            x = self.layer(f"fusion.stacks.{i}.layers.{j}", x, self.spec["heads"], self.act)
        return x

    def of_iteration(self, name, i):
        return f"fusion.{name}.{0 if self.spec['share_fusion'] else i}"

    @property
    def act(self):
        return {"relu": relu, "gelu": gelu}[self.spec["activation"]]

    def concat(self, image, text, mask):
        z = np.concatenate([image + self["fusion.image"], text + self["fusion.text"]], 1)
        mask = np.concatenate([np.zeros((*mask.shape[:3], image.shape[1])), mask], 3)
        for i in range(self.spec["fusion_layers"]):
            z = self.layer(f"fusion.layers.{i}", z, self.spec["heads"], self.act, mask)
        return z, mask

    def xattn(self, image, text, mask):
        image = self.norm("fusion.norm_image", image)
        for i in range(self.spec["fusion_layers"]):
            text = self.cross_layer(f"fusion.layers.{i}", text, image, self.spec["heads"], self.act, mask)
        return text, mask

    def perceiver(self, image, text, mask):
        z = np.concatenate([image, text], 1)
        mask = np.concatenate([np.zeros((*mask.shape[:3], image.shape[1])), mask], 3)
        x = np.repeat(self["fusion.latents"][None], len(image), 0)
        for i in range(self.spec["iterations"]):
            at = self.of_iteration("fusions", i)
            a, b = self.norm(f"{at}.norm_latents", x), self.norm(f"{at}.norm_inputs", z)
            x = x + self.attention(f"{at}.attention", a, b, self.spec["heads"], mask)
            x = x + self.mlp(f"{at}.mlp", self.norm(f"{at}.norm_mlp", x), self.act)
            x = self.stack(i, x)
        return x, 0.0

    def cotok(self, image, text, mask):
        z = 0.0
        weights = softmax(mask[:, 0, 0, :, None], 1)
        state = (text * weights).sum(1, keepdims=True)
        for i in range(self.spec["iterations"]):
            at, guide = self.of_iteration("reductions", i), self.linear("fusion.condition", state)
            v = self.spatial_learner(f"{at}.image", image + guide, image)
            u = self.text_learner(f"{at}.text", text + guide, text, mask)
            z = self.stack(i, v + u + z)
            state = z.mean(1, keepdims=True)
        return z, 0.0

    def jar(self, image, text, mask):
        spatial = self.spec["resample"] == "spatial"
        if spatial:
            f = self.spatial_learner("fusion.image_resampler", image, image)
            t = self.text_learner("fusion.text_resampler", text, text, mask)
        else:
            f = self.resampler("fusion.image_resampler", image, 0.0)
            t = self.resampler("fusion.text_resampler", text, mask)
        outputs = []
        for i in range(self.spec["iterations"]):
            fused = self.stack(i, self.fuse(self.of_iteration("fusions", i), t, f))
            outputs.append(fused)
            if self.spec["combine"] == "none":
                t = fused
            elif self.spec["combine"] == "residual":
                t = fused + t
            else:
                t = self["fusion.combine_fused"][i] * fused + self["fusion.combine_text"][i] * t
        if self.spec["memory"] == "last":
            return outputs[-1], 0.0
        if self.spec["memory"] == "mixture":
            shares = softmax(self["fusion.mixture"], 0)
            return sum(share * output for share, output in zip(shares, outputs)), 0.0
        return t, 0.0

    def resampler(self, at, x, mask):
        """Eq. 2."""
        if self.has(f"{at}.norm.gamma"):
            x = self.norm(f"{at}.norm", x)
        latents = np.repeat(self[f"{at}.latents"][None], len(x), 0)
        return self.linear(f"{at}.output", self.attention(f"{at}.attention", latents, x, self.spec["heads"], mask))

    def fuse(self, at, t, f):
        """Eq. 3."""
        gate = lambda name: np.tanh(self[f"{at}.{name}"]) if self.spec["gating"] else 1.0
        a = self.norm(f"{at}.norm_text", t)
        if self.spec["fuse_self_attn"]:
            a = a + self.attention(f"{at}.attention_self", a, a, self.spec["heads"])
        seen = self.attention(f"{at}.attention", a, self.norm(f"{at}.norm_image", f), self.spec["heads"])
        crossed = (t if self.spec["skip"] == "T" else a) + gate("alpha") * seen
        return crossed + gate("beta") * self.mlp(f"{at}.mlp", crossed, self.act)

    def spatial_learner(self, at, guides, x):
        b, tokens, _ = x.shape
        side = math.isqrt(tokens)
        g = self.norm(f"{at}.norm", guides)
        if self.spec["token_learner"] == "v11":
            features = gelu(self.linear(f"{at}.hidden", g))
        else:
            g = g.transpose(0, 2, 1).reshape(b, -1, side, side)
            for i in range(4 if self.spec["token_learner"] == "v1" else 1):
                g = convolve(gelu(g) if i else g, self[f"{at}.convolutions.{i}.weight"])
            features = g.reshape(b, g.shape[1], -1).transpose(0, 2, 1)
            if self.spec["token_learner"] == "v1":
                return (1 / (1 + np.exp(-features))).transpose(0, 2, 1) @ x
            features = gelu(features)
        return softmax(self.linear(f"{at}.maps", features), 1).transpose(0, 2, 1) @ x

    def text_learner(self, at, guides, x, mask):
        features = gelu(self.linear(f"{at}.dense", self.norm(f"{at}.norm", guides)))
        scores = self.linear(f"{at}.maps", features) + mask[:, 0, 0, :, None]
        return softmax(scores, 1).transpose(0, 2, 1) @ x

    # -- the whole ------------------------------------------------------------------------------------

    def logits(self, images, text, real, input):
        mask = np.where(real > 0, 0.0, HIDDEN)[:, None, None, :]
        image = self.linear("projection.image", self.image_encoder(images)) + self["projection.positions"]
        x = self.text_encoder(text, mask)
        if self.has("projection.text.weight"):
            x = self.linear("projection.text", x)
        memory, memory_mask = getattr(self, self.spec["fusion"])(image, x, mask)
        return self.decoder(input, self.norm("norm_memory", memory), memory_mask)


def relu(x):
    return np.maximum(x, 0.0)


def gelu(x):
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def convolve(x, kernel, stride=1):
    k = kernel.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True)


def max_pool(x):
    """3x3, stride 2."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2]
    return windows.max((-1, -2))


def bucket(distance, two_sided):
    """T5's bucket of a key `distance` tokens after its query."""
    first, buckets = 0, 32
    if two_sided:
        buckets = 16
        first = 16 if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(128 / exact)
    return first + min(exact + int(share * (buckets - exact)), buckets - 1)


def main(folder, case):
    given = load_file(case)
    images = given["images"].astype(np.float64)
    ours = Model(folder).logits(images, given["text"], given["real"], given["input"])
    theirs = given["logits"]
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    print(np.abs(ours - theirs).max() / np.abs(theirs).max())


if __name__ == "__main__":
    main(*sys.argv[1:])
