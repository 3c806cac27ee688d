#!/usr/bin/env python3
"""Pluvia's network in PyTorch: an independent implementation, to prove the program against and to time it with.

    tools/reference/st_unet.py --count inputs/bench_reference.yaml    parameters and floating-point operations
    compare.py                                                        proves that both compute the same
    time_steps.py                                                     times it

Activations are [B, T, Y, X, C] as in the program. Seen as [B, C, T, Y, X] they have the strides of channels_last_3d,
so convolutions, norms and linear layers work on one layout without copies. Copying to contiguous tensors and back
around each 3-D convolution gave the same times within 5 % on one core of a Xeon with AMX, at batch 1 and 2 in f32 and
bf16 (time_steps.py --layout), so the simpler layout is the default. Parameters carry the program's names; load_weights
reads what `pluvia export` writes. Closed longitude axes (grid.periodic_x) are not supported.

Debian's PyTorch 1.13.1 with oneDNN 2.6 computes the backward of F.gelu wrongly, by 26 orders of magnitude, when its
input is contiguous and the incoming gradient has the strides of channels_last_3d; the other three combinations are
right. In this network the two always lie alike, and DenseGradient makes sure of it: its f32 gradients agree with its
f64 ones to 2e-6 (compare.py prints and checks it).

Needs PyTorch 1.13 or newer, NumPy and PyYAML.
"""
import argparse
import json
import math
import sys
from types import SimpleNamespace

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    import yaml
    from torch import nn
except ImportError as error:
    sys.exit(f"st_unet.py: {error}; install python3-torch and python3-yaml")

HEAD = 16  # channels of an attention head


# ---- Files --------------------------------------------------------------------------------------------------------

def read_safetensors(path):
    """The arrays by name, and the texts, of a safetensors file of f32 values."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())  # which arrays may write to, as PyTorch wants it
    texts = header.pop("__metadata__", {})
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] != "F32":
            raise ValueError(f"{path}: {name} is {entry['dtype']}, not F32")
        begin, end = entry["data_offsets"]
        arrays[name] = np.frombuffer(data, "<f4", (end - begin) // 4, begin).reshape(entry["shape"])
    return arrays, texts


def read_settings(text):
    """What the network is built from, of a configuration that sets every key of `model` and `target`."""
    keys = yaml.safe_load(text)
    model, target = keys["model"], keys["target"]
    attention = model["attention"]
    levels = len(model["channels"])
    if keys.get("grid", {}).get("periodic_x", "no") == "yes":
        raise ValueError("grid.periodic_x: yes is not supported")
    return SimpleNamespace(
        history=model["history"], channels=model["channels"], input_merge=model["input_merge"],
        form=attention["form"], attention_levels={level % levels for level in attention["levels"]},
        recurrent=model.get("temporal_core") == "recurrent",
        radius=attention["radius"], window=attention["window"], everywhere=attention.get("global", "none"),
        skip_radius=model["skip_radius"], lead_hours=target["leads_hours"], classes=len(target["thresholds_mm"]) + 1)


def torch_layout(name, array, shape):
    """An array of the program as PyTorch lays it out: weights begin with C_out, C_in."""
    if name.endswith("weight"):
        array = np.moveaxis(array, (-1, -2), (0, 1))
    return torch.from_numpy(np.ascontiguousarray(array).reshape(shape))


def load_weights(network, arrays):
    """Sets every parameter from arrays of the same names."""
    parameters = dict(network.named_parameters())
    if parameters.keys() != arrays.keys():
        raise ValueError(f"the networks differ in {sorted(parameters.keys() ^ arrays.keys())}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch_layout(name, arrays[name], parameter.shape))


# ---- Layers -------------------------------------------------------------------------------------------------------

class DenseGradient(torch.autograd.Function):
    """The identity, whose backward makes the gradient contiguous (see above: GELU takes it for granted)."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.contiguous()


def gelu(x):
    return DenseGradient.apply(F.gelu(x))


class Norm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        # PyTorch 1.13 takes ten times as long in bf16.
        x = x.float() if x.dtype == torch.bfloat16 else x
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, 1e-5)


class CausalConv(nn.Conv3d):
    """3 x 3 x 3; the output of a frame sees no later one."""
    layout = torch.channels_last_3d  # of what the convolution works on; torch.contiguous_format costs two copies

    def __init__(self, c_in, c_out):
        super().__init__(c_in, c_out, 3, padding=(0, 1, 1))

    def forward(self, x):
        weight, edge = self.weight, 0
        if len(x) == 1:
            # Of one f32 sample PyTorch hands a convolution to oneDNN only when C T Y is above 20480, and else takes a
            # way up to ten times slower. With its margins written out, and the stem with channels of zeros, the
            # reference network gets there on every level.
            edge, more = 1, max(0, HEAD - x.shape[4])
            if more:
                x, weight = F.pad(x, (0, more)), F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more))
        x = F.pad(x, (0, 0, edge, edge, edge, edge, 2, 0)).permute(0, 4, 1, 2, 3)
        x, weight = x.contiguous(memory_format=self.layout), weight.contiguous(memory_format=self.layout)
        y = F.conv3d(x, weight, self.bias, padding=(0, 1 - edge, 1 - edge))
        return y.permute(0, 2, 3, 4, 1).contiguous()


class FrameConv(nn.Conv2d):
    """3 x 3 in each frame alone."""

    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x):
        y = super().forward(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class Residual(nn.Module):
    def __init__(self, channels, first, second):
        super().__init__()
        self.norm, self.first, self.second = Norm(channels), first, second

    def forward(self, x):
        return x + self.second(gelu(self.first(gelu(self.norm(x)))))


def merge(x):
    """Channels of 2 x 2 cells side by side; cells beyond an odd edge count as zero."""
    ny, nx = x.shape[2:4]
    if ny % 2 or nx % 2:
        x = F.pad(x, (0, 0, 0, nx % 2, 0, ny % 2))
    return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4).flatten(4)


def unmerge(x, ny, nx):
    x = x.unflatten(4, (2, 2, -1)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return x[:, :, :ny, :nx]


# ---- Attention ----------------------------------------------------------------------------------------------------

def attend(q, k, v, mask=None):
    """softmax(q k' / 4) v over [..., length, 16]; the mask is true where a query sees a key."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, mask)
    scores = (q / math.sqrt(HEAD)) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def attend_windows(qkv, size):
    """In aligned windows of size x size cells of a frame: [B, T, Y, X, 3, heads, 16] -> [B, T, Y, X, C]."""
    b, t, ny, nx = qkv.shape[:4]
    gap_y, gap_x = -ny % size, -nx % size
    mask = None
    if gap_y or gap_x:
        qkv = F.pad(qkv, (0, 0, 0, 0, 0, 0, 0, gap_x, 0, gap_y))
        inside = F.pad(torch.ones(ny, nx, dtype=torch.bool), (0, gap_x, 0, gap_y))
        inside = inside.unflatten(1, (-1, size)).unflatten(0, (-1, size)).transpose(1, 2)
        mask = inside.reshape(-1, 1, 1, size * size)
    rows, cols = (ny + gap_y) // size, (nx + gap_x) // size
    cells = qkv.reshape(b * t, rows, size, cols, size, *qkv.shape[4:])
    windows = cells.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, b * t, rows * cols, -1, size * size, HEAD)
    o = attend(*windows, mask)
    o = o.reshape(b, t, rows, cols, -1, size, size, HEAD).permute(0, 1, 2, 5, 3, 6, 4, 7)
    return o.reshape(b, t, rows * size, cols * size, -1)[:, :, :ny, :nx]


def attend_past(qkv):
    """Over this and earlier frames of each cell: [B, T, Y, X, 3, heads, 16] -> [B, T, Y, X, C]."""
    frames = qkv.shape[1]
    mask = torch.ones(frames, frames, dtype=torch.bool).tril()
    return attend(*qkv.permute(4, 0, 2, 3, 5, 1, 6), mask).permute(0, 4, 1, 2, 3, 5).flatten(4)


def cells_around(x, radius):
    """[B, T, Y, X, ...] -> [B, T, Y, X, window, ...]: the cells up to `radius` away, clamped to the domain so that
    every cell has as many as fit. Copies each of them: for proofs, not for speed."""
    def indices(extent):
        width = min(2 * radius + 1, extent)
        first = (torch.arange(extent) - radius).clamp(0, extent - width)
        return first[:, None] + torch.arange(width)

    iy, ix = indices(x.shape[2]), indices(x.shape[3])
    return x[:, :, iy[:, None, :, None], ix[None, :, None, :]].flatten(4, 5)


def attend_around(q, k, v, radius, causal=False):
    """q [B, Tq, Y, X, heads, 16] over all frames (or frames <= its own) of the cells around: [B, Tq, Y, X, C]."""
    k, v = cells_around(k, radius), cells_around(v, radius)
    scores = torch.einsum("bqyxhc,bkyxwhc->bqyxhkw", q, k) / math.sqrt(HEAD)
    if causal:
        frames = q.shape[1]
        seen = torch.ones(frames, frames, dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen[:, None, None, None, :, None], -math.inf)
    p = scores.flatten(5).softmax(-1).view_as(scores)
    return torch.einsum("bqyxhkw,bkyxwhc->bqyxhc", p, v).flatten(4)


def attend_domain(qkv):
    """To all cells of a frame through sums over them (Katharopoulos et al. 2020): [B, T, Y, X, 3, heads, 16] ->
    [B, T, Y, X, C]."""
    q, k, v = qkv.unbind(4)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    s = torch.einsum("btyxhi,btyxhj->bthij", k, v)
    z = torch.einsum("btyxhi,bthi->btyxh", q, k.sum((2, 3)))
    return (torch.einsum("btyxhi,bthij->btyxhj", q, s) / (z + 1e-6)[..., None]).flatten(4)


def attend_cells(qkv):
    """To each cell of a frame: [B, T, Y, X, 3, heads, 16] -> [B, T, Y, X, C]."""
    cells = qkv.flatten(2, 3).permute(3, 0, 1, 4, 2, 5)
    return attend(*cells).permute(0, 1, 3, 2, 4).flatten(3).unflatten(2, qkv.shape[2:4])


class Heads(nn.Module):
    """Queries, keys and values in one product: [..., C] -> [..., 3, heads, 16]."""

    def __init__(self, channels):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x):
        layers = (self.q, self.k, self.v)
        weight = torch.cat([layer.weight for layer in layers])
        return F.linear(x, weight, torch.cat([layer.bias for layer in layers])).unflatten(-1, (3, -1, HEAD))


class Memory(nn.Module):
    """A long short-term memory of each cell over its frames: [B, T, Y, X, C] -> the same."""

    def __init__(self, channels):
        super().__init__()
        self.input, self.state = nn.Linear(channels, 4 * channels), nn.Linear(channels, 4 * channels, bias=False)

    def forward(self, x):
        hidden = memory = torch.zeros_like(x[:, 0])
        out = []
        for z in self.input(x).unbind(1):
            keep_in, keep, show, fresh = (z + self.state(hidden)).chunk(4, -1)
            memory = torch.sigmoid(keep) * memory + torch.sigmoid(keep_in) * torch.tanh(fresh)
            hidden = torch.sigmoid(show) * torch.tanh(memory)
            out.append(hidden)
        return torch.stack(out, 1)


class SpaceTime(nn.Module):
    def __init__(self, channels, settings):
        super().__init__()
        self.form, self.radius, self.window = settings.form, settings.radius, settings.window
        self.norm, self.mlp_norm = Norm(channels), Norm(channels)
        self.spatial = Heads(channels)
        if self.form != "joint":
            self.temporal = Memory(channels) if settings.recurrent else Heads(channels)
            self.gate_spatial, self.gate_temporal = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.everywhere = settings.everywhere
        if self.everywhere != "none":
            self.add_module("global", Heads(channels))  # a keyword
            self.gate_global, self.gate_mixed = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.expand, self.contract = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def attend_space(self, n):
        qkv = self.spatial(n)
        if self.form == "windowed":
            return attend_windows(qkv, self.window)
        if self.form == "joint":
            return attend_around(*qkv.unbind(4), self.radius, causal=True)
        frames = qkv.flatten(0, 1).unsqueeze(1)
        return attend_around(*frames.unbind(4), self.radius).view_as(n)

    def forward(self, x):
        n = self.norm(x)
        mixed = self.attend_space(n)
        if self.form != "joint":
            temporal = self.temporal(n)
            if isinstance(self.temporal, Heads):
                temporal = attend_past(temporal)
            gate = torch.sigmoid(self.gate_spatial(mixed) + self.gate_temporal(temporal))
            mixed = torch.lerp(temporal, mixed, gate)
        if self.everywhere != "none":
            attend = attend_domain if self.everywhere == "linear" else attend_cells
            everywhere = attend(getattr(self, "global")(n))
            gate = torch.sigmoid(self.gate_global(everywhere) + self.gate_mixed(mixed))
            mixed = torch.lerp(mixed, everywhere, gate)
        x = x + self.output(mixed)
        return x + self.contract(gelu(self.expand(self.mlp_norm(x))))


class Skip(nn.Module):
    """Every lead asks each cell's frames: [B, T, Y, X, C] -> [B, leads, Y, X, C]."""

    def __init__(self, channels, settings):
        super().__init__()
        self.radius = settings.skip_radius
        self.norm = Norm(channels)
        self.lead_embedding = nn.Parameter(0.02 * torch.randn(len(settings.lead_hours), channels))
        self.q, self.k, self.v, self.output = (nn.Linear(channels, channels) for _ in range(4))
        frequency = 100.0 ** (-2.0 * torch.arange(channels // 2, dtype=torch.float64) / channels)
        phase = torch.tensor(settings.lead_hours, dtype=torch.float64)[:, None] * frequency
        self.register_buffer("sinusoid", torch.stack([phase.sin(), phase.cos()], -1).flatten(1).float(),
                             persistent=False)

    def forward(self, x):
        n = self.norm(x)
        q = self.q(self.lead_embedding + self.sinusoid).unflatten(-1, (-1, HEAD))
        v = self.v(n).unflatten(-1, (-1, HEAD))
        if self.radius > 0:
            q = q[None, :, None, None].expand(len(x), -1, *x.shape[2:4], -1, -1)
            return self.output(attend_around(q, self.k(n).unflatten(-1, (-1, HEAD)), v, self.radius))
        # All cells ask alike, so queries and keys make one product: n (W_k q) instead of (n W_k) q.
        q = torch.block_diag(*(q / math.sqrt(HEAD)).permute(1, 2, 0))  # [C, heads x leads]
        scores = F.linear(n, q.t() @ self.k.weight, self.k.bias @ q)
        p = scores.softmax(1).unflatten(-1, v.shape[4:5] + (-1,))
        return self.output(torch.einsum("btyxhl,btyxhc->blyxhc", p, v).flatten(4))


# ---- Network ------------------------------------------------------------------------------------------------------

class StUnet(nn.Module):
    """input [B, T, Y, X, inputs], base [B, leads, Y, X, classes] -> logits like base."""

    def __init__(self, settings, inputs, layout=torch.channels_last_3d):
        super().__init__()
        channels, self.merged = settings.channels, settings.input_merge == 2
        if self.merged:
            self.entry = nn.Linear(4 * inputs, channels[0])
        self.stem = CausalConv(channels[0] if self.merged else inputs, channels[0])
        for number, c in enumerate(channels):
            level = nn.Module()
            level.encode = Residual(c, CausalConv(c, c), CausalConv(c, c))
            level.attention = SpaceTime(c, settings) if number in settings.attention_levels else None
            level.skip = Skip(c, settings)
            if number + 1 < len(channels):
                level.down, level.up = nn.Linear(4 * c, channels[number + 1]), nn.Linear(channels[number + 1], 4 * c)
                level.decode = Residual(c, FrameConv(c), FrameConv(c))
            self.add_module(f"level{number}", level)
        self.levels = [getattr(self, f"level{number}") for number in range(len(channels))]
        self.head = nn.Linear(channels[0], (4 if self.merged else 1) * settings.classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                layer.layout = layout
                layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
            elif isinstance(layer, nn.Conv2d):
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x, base):
        x = self.stem(self.entry(merge(x)) if self.merged else x)
        skips = []
        for level in self.levels:
            x = level.encode(x)
            if level.attention is not None:
                x = level.attention(x)
            skips.append(level.skip(x))
            if level is not self.levels[-1]:
                x = level.down(merge(x))
        d = skips.pop()
        for level in reversed(self.levels[:-1]):
            skip = skips.pop()
            d = level.decode(unmerge(level.up(d), *skip.shape[2:4]) + skip)
        d = self.head(d)
        return base + (unmerge(d, *base.shape[2:4]) if self.merged else d)


def ordinal_loss(logits, classes, row_weights):
    """Cross-entropy plus ranked probability score / K, weighted by row; classes [B, leads, Y, X], -1 = no data."""
    valid = classes >= 0
    target = classes.clamp(min=0)
    log_p = logits.log_softmax(-1)
    entropy = -log_p.gather(-1, target[..., None])[..., 0]
    reached = log_p.exp().cumsum(-1)[..., :-1]
    thresholds = torch.arange(reached.shape[-1])
    score = (reached - (target[..., None] <= thresholds).to(reached.dtype)).square().mean(-1)
    return (row_weights[..., None] * (entropy + score) * valid).sum()


# ---- Counting -----------------------------------------------------------------------------------------------------

def count(network, settings, inputs, ny, nx):
    """Parameters, and floating-point operations of convolutions and linear layers for one sample (2 per
    multiply-add, taps beyond the edges included)."""
    total = 0

    def add(layer, _, output):
        nonlocal total
        total += 2 * output.numel() * (layer.weight.numel() // len(layer.weight))

    def add_products(number):
        """Of layers that apply their square linear layers in another way than one after the other."""
        def add_them(_, x, __):
            nonlocal total
            total += number * 2 * x[0].numel() * x[0].shape[-1]
        return add_them

    kinds = {nn.Linear: add, CausalConv: add, FrameConv: add, Heads: add_products(3)}
    if settings.skip_radius == 0:
        kinds[Skip] = add_products(1)  # of the keys
    hooks = [layer.register_forward_hook(kinds[type(layer)]) for layer in network.modules() if type(layer) in kinds]
    with torch.inference_mode():
        network(torch.zeros(1, settings.history, ny, nx, inputs),
                torch.zeros(1, len(settings.lead_hours), ny, nx, settings.classes))
    for hook in hooks:
        hook.remove()
    return sum(p.numel() for p in network.parameters()), total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", metavar="CONFIG", required=True, help="configuration with all of model and target")
    parser.add_argument("--inputs", type=int, default=6, help="input channels")
    parser.add_argument("--cells", type=int, nargs=2, default=(128, 128), metavar=("NY", "NX"))
    args = parser.parse_args()
    with open(args.count, encoding="utf-8") as file:
        settings = read_settings(file.read())
    parameters, operations = count(StUnet(settings, args.inputs), settings, args.inputs, *args.cells)
    print(f"{parameters} parameters, {operations / 1e9:.2f} GFLOP forward a sample of {settings.history} frames x "
          f"{args.cells[0]} x {args.cells[1]} cells x {args.inputs} channels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
