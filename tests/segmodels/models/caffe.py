"""Networks from tables of their layers, computed as Caffe computes them.

A table is written down from an authors' file, a line for each layer: name, kind, the blobs that it reads, and its
parameters as the file gives them.

    conv1_1  conv  data      n=64 k=3 p=100 +relu
    pool1    max   conv1_1   k=2 s=2
    score    conv  pool1     n=C k=1

`n` is the number of outputs for a network of full width; `C` stands for the number of classes, `4C` for four times as
many. `k`, `s`, `p`, `d`, `g` are kernel, stride, padding, dilation and group, with `kh`, `kw`, `sh`, `sw` where rows
and columns differ. What follows in place is appended: `+bn`, `+relu`, `+elu`. `-bias` is `bias_term: false`.

Everything here is written for one purpose, to be compared with: windows are cut out one by one, interpolation is a
product of matrices, scans are loops. Nothing is shared with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Layer:
    """A line of a table."""

    name: str
    kind: str
    bottoms: tuple[str, ...]
    options: Mapping[str, str]
    after: tuple[str, ...]


@dataclass
class Net:
    """A network of Caffe.

    Attributes:
        layers: In the order of the file.
        classes: What `C` stands for.
        width: Factor on every `n` that is a plain number.
        eps: Of the batch norms.
    """

    layers: list[Layer]
    classes: int
    width: float = 1.0
    eps: float = 1e-5
    masks: dict[str, Tensor] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @torch.no_grad()
    def __call__(self, weights: Mapping[str, Tensor], modules: Mapping[str, str], **blobs: Tensor) -> dict[str, Tensor]:
        """Compute every blob.

        Args:
            weights: A state dict.
            modules: Layer -> the beginning of its tensors' names in `weights`; `<layer>/bn` is an appended norm.
            **blobs: The inputs.

        Returns:
            Name of a layer -> what it gives.
        """
        self._weights, self._modules = weights, modules
        self.masks.clear()
        self.used.clear()
        known = dict(blobs)
        for layer in self.layers:
            out = getattr(self, f"_{layer.kind}")(layer, *[known[name] for name in layer.bottoms])
            for kind in layer.after:
                out = self._appended(kind, layer.name, out)
            known[layer.name] = out
        return known

    def unused(self) -> set[str]:
        """Return the tensors that no layer of the table has read."""
        return {name for name in self._weights if name not in self.used and not name.endswith("num_batches_tracked")}

    def _take(self, layer: str, leaf: str, shape: tuple[int, ...] | None = None) -> Tensor:
        name = f"{self._modules[layer]}.{leaf}" if leaf else self._modules[layer]
        self.used.add(name)
        tensor = self._weights[name]
        if shape is not None:
            assert tuple(tensor.shape) == shape, f"{layer}: {tuple(tensor.shape)} is not the file's {shape}"
        return tensor

    def _outputs(self, layer: Layer) -> int:
        given = layer.options["n"]
        if given.endswith("C"):
            return int(given[:-1] or 1) * self.classes
        return max(1, round(self.width * int(given)))

    def _appended(self, kind: str, layer: str, x: Tensor) -> Tensor:
        if kind == "relu":
            return x.clamp(min=0)
        if kind == "elu":
            return torch.where(x > 0, x, x.exp() - 1)
        assert kind == "bn", kind
        mean, var, scale, shift = (
            self._take(f"{layer}/bn", leaf)[:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + self.eps).sqrt() * scale + shift

    def _conv(self, layer: Layer, x: Tensor) -> Tensor:
        o = layer.options
        kernel, groups = int(o["k"]), int(o.get("g", 1))
        weight = self._take(layer.name, "weight", (self._outputs(layer), x.shape[1] // groups, kernel, kernel))
        bias = None if "-bias" in o else self._take(layer.name, "bias", (self._outputs(layer),))
        stride, padding, dilation = (int(o.get(key, default)) for key, default in (("s", 1), ("p", 0), ("d", 1)))
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def _deconv(self, layer: Layer, x: Tensor) -> Tensor:
        o = layer.options
        kernel, stride, padding = int(o["k"]), int(o.get("s", 1)), int(o.get("p", 0))
        groups = x.shape[1] if o.get("g") == "all" else 1
        weight = self._take(layer.name, "weight", (x.shape[1], self._outputs(layer) // groups, kernel, kernel))
        bias = None if "-bias" in o else self._take(layer.name, "bias", (self._outputs(layer),))
        return F.conv_transpose2d(x, weight, bias, stride, padding, groups=groups)

    def _max(self, layer: Layer, x: Tensor) -> Tensor:
        values, index = _windows(x, layer.options, fill=-torch.inf)
        out, which = values.max(-1)
        # Places in the flat map, of which the first maximum counts.
        self.masks[layer.name] = index.expand(*values.shape[:2], *index.shape).gather(-1, which[..., None])[..., 0]
        return out

    def _ave(self, layer: Layer, x: Tensor) -> Tensor:
        values, _ = _windows(x, layer.options, fill=0.0)
        area, _ = _windows(torch.ones_like(x[:1, :1]), layer.options, fill=0.0, padding_counts=True)
        return values.sum(-1) / area.sum(-1)

    def _unpool(self, layer: Layer, x: Tensor) -> Tensor:
        """SegNet's Upsample and DeconvNet's Unpooling, by the mask of the pool that `of` names."""
        o, mask = layer.options, self.masks[layer.options["of"]]
        height, width = int(o.get("h", 2 * x.shape[-2])), int(o.get("w", 2 * x.shape[-1]))
        out = x.new_zeros(*x.shape[:2], height * width)
        return out.scatter(2, mask.flatten(2), x.flatten(2)).view(*x.shape[:2], height, width)

    def _crop(self, layer: Layer, x: Tensor, like: Tensor) -> Tensor:
        start = int(layer.options["o"])
        return x[..., start : start + like.shape[-2], start : start + like.shape[-1]]

    def _sum(self, layer: Layer, *xs: Tensor) -> Tensor:
        return torch.stack(xs).sum(0)

    def _prod(self, layer: Layer, *xs: Tensor) -> Tensor:
        return torch.stack(xs).prod(0)

    def _maximum(self, layer: Layer, *xs: Tensor) -> Tensor:
        return torch.stack(xs).amax(0)

    def _concat(self, layer: Layer, *xs: Tensor) -> Tensor:
        return torch.cat(xs, 1)

    def _slice(self, layer: Layer, x: Tensor) -> Tensor:
        size = int(layer.options["size"])
        return x[:, int(layer.options["at"]) * size :][:, :size]

    def _abs(self, layer: Layer, x: Tensor) -> Tensor:
        return x.abs()

    def _divide(self, layer: Layer, x: Tensor) -> Tensor:
        return 1 / torch.where(x == 0, torch.full_like(x, 1e-4), x)

    def _softmax(self, layer: Layer, x: Tensor) -> Tensor:
        exponents = (x - x.amax(1, keepdim=True)).exp()
        return exponents / exponents.sum(1, keepdim=True)

    def _scale(self, layer: Layer, x: Tensor) -> Tensor:
        return x * self._take(layer.name, "weight", (x.shape[1],))[:, None, None]

    def _normalize(self, layer: Layer, x: Tensor) -> Tensor:
        """Normalize of weiliu89/caffe, a factor for each channel."""
        return x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt() * self._take(layer.name, "weight")[:, None, None]

    def _global(self, layer: Layer, x: Tensor) -> Tensor:
        return x.sum((2, 3), keepdim=True) / (x.shape[-2] * x.shape[-1])

    def _repeat(self, layer: Layer, x: Tensor, like: Tensor) -> Tensor:
        return x.repeat(1, 1, *like.shape[-2:])

    def _lrn(self, layer: Layer, x: Tensor) -> Tensor:
        o = layer.options
        size, alpha, beta = int(o["size"]), float(o["alpha"]), float(o["beta"])
        out = torch.empty_like(x)
        for channel in range(x.shape[1]):
            near = x[:, max(0, channel - size // 2) : channel + size // 2 + 1]
            out[:, channel] = x[:, channel] / (1 + alpha / size * near.square().sum(1)) ** beta
        return out

    def _interp(self, layer: Layer, x: Tensor) -> Tensor:
        o, sides = layer.options, []
        for side, key in ((x.shape[-2], "h"), (x.shape[-1], "w")):
            if "shrink" in o:
                sides.append((side - 1) // int(o["shrink"]) + 1)
            elif "zoom" in o:
                sides.append(side + (side - 1) * (int(o["zoom"]) - 1))
            else:
                sides.append(int(o[key]))
        return _between(x.shape[-2], sides[0], x) @ x @ _between(x.shape[-1], sides[1], x).T

    def _gate(self, layer: Layer, x: Tensor, g1: Tensor, g2: Tensor, g3: Tensor) -> Tensor:
        """GateRecurrent2dnoind of Liusifei/caffe-spn, place by place along the direction `to`."""
        to = layer.options["to"]
        if to in ("down", "up"):
            x, g1, g2, g3 = (t.transpose(-1, -2) for t in (x, g1, g2, g3))
        steps, side = x.shape[-1], x.shape[-2]
        order = range(steps) if to in ("right", "down") else range(steps - 1, -1, -1)
        out, before = torch.zeros_like(x), None
        for t in order:
            share, taken = torch.ones_like(x[..., t]), torch.zeros_like(x[..., t])
            for gate, offset in ((g1, -1), (g2, 0), (g3, 1)):
                for place in range(side):
                    if before is None or not 0 <= place + offset < side:
                        continue
                    share[..., place] -= gate[..., place, t]
                    taken[..., place] += gate[..., place, t] * out[..., place + offset, before]
            out[..., t] = share * x[..., t] + taken
            before = t
        return out.transpose(-1, -2) if to in ("down", "up") else out


def net(table: str, classes: int, **options: Any) -> Net:
    """Read a table."""
    layers = []
    for line in table.strip().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        name, kind, *rest = words
        options_ = dict(word.partition("=")[::2] for word in rest if "=" in word or word.startswith("-"))
        after = tuple(word[1:] for word in rest if word.startswith("+"))
        bottoms = tuple(word for word in rest if "=" not in word and word[0] not in "+-")
        layers.append(Layer(name, kind, bottoms, options_, after))
    return Net(layers, classes, **options)


def _windows(x: Tensor, o: Mapping[str, str], *, fill: float, padding_counts: bool = False) -> tuple[Tensor, Tensor]:
    """Cut out the windows of a pool.

    Returns:
        Their values `[N, C, H', W', k * k]`, and the place of each value in the flat map.
    """
    sizes, padding = [], int(o.get("p", 0))
    for side, key in ((x.shape[-2], "h"), (x.shape[-1], "w")):
        kernel, stride = int(o.get(f"k{key}", o.get("k", 0))), int(o.get(f"s{key}", o.get("s", 1)))
        count = -(-(side + 2 * padding - kernel) // stride) + 1
        if padding and (count - 1) * stride >= side + padding:
            count -= 1
        sizes.append((side, kernel, stride, count))
    (height, kh, sh, rows), (width, kw, sw, columns) = sizes
    top = torch.arange(rows)[:, None] * sh - padding + torch.arange(kh)[None]
    left = torch.arange(columns)[:, None] * sw - padding + torch.arange(kw)[None]
    y = top[:, None, :, None].expand(rows, columns, kh, kw).reshape(rows, columns, -1)
    z = left[None, :, None, :].expand(rows, columns, kh, kw).reshape(rows, columns, -1)
    inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)
    place = y.clamp(0, height - 1) * width + z.clamp(0, width - 1)
    values = x.flatten(2)[:, :, place.flatten()].view(*x.shape[:2], *place.shape)
    if padding_counts:  # a mean divides by the part of the window that lies on the padded map
        padded = (y < height + padding) & (z < width + padding)
        return values * padded, place
    return torch.where(inside, values, torch.full_like(values, fill)), place


def _between(before: int, after: int, like: Tensor) -> Tensor:
    """Build the matrix `[after, before]` of linear interpolation whose first and last places stay."""
    matrix = like.new_zeros(after, before)
    for i in range(after):
        place = i * (before - 1) / (after - 1) if after > 1 else 0.0
        low = min(int(place), before - 1)
        matrix[i, low] += 1 - (place - low)
        if low + 1 < before:
            matrix[i, low + 1] += place - low
    return matrix
