"""The oracle: reads class, colour, pattern, accessory, context, style and view off an image of the world.

Trained separately from everything it judges; used to measure, never to train a generator.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pcs_ext.config_io import write_json
from pcs_ext.errors import ModelError
from pcs_ext.toybox.world.vocabulary import ACCESSORIES, CLASSES, COLORS, CONTEXTS, PATTERNS, STYLES, VIEWS

HEADS: dict[str, tuple[str, ...]] = {
    "class": CLASSES,
    "color": tuple(COLORS),
    "pattern": PATTERNS,
    "accessory": ACCESSORIES,
    "context": CONTEXTS,
    "style": STYLES,
    "view": VIEWS,
}

_LARGE = 1 << 15
"""Numbers from which on a weight is stored as int8; smaller ones gain nothing and the first layers stay exact."""


class Oracle(nn.Module):
    """A small residual network with one classifier per attribute.

    Coarse features know what and where the toy is, fine ones what its surface looks like: they are added from coarse
    to fine up to a quarter of the resolution, where every attribute weighs the places it reads.

    Args:
        heads: attribute -> its values.
        channels: by level; the stem and every level halve the resolution.
    """

    def __init__(
        self, heads: dict[str, tuple[str, ...]] | None = None, channels: tuple[int, ...] = (48, 96, 160, 224)
    ) -> None:
        super().__init__()
        self.heads, self.channels = dict(heads or HEADS), tuple(channels)
        self.stem = nn.Conv2d(3, channels[0], 4, stride=2, padding=1)
        levels = []
        for inner, outer in zip(channels, (*channels[1:], channels[-1]), strict=True):
            levels += [_Block(inner), nn.Conv2d(inner, outer, 3, stride=2, padding=1)]
        self.levels = nn.Sequential(*levels, _Block(channels[-1]))
        self.norm = nn.GroupNorm(8, channels[-1])
        self.surface = _Surface(channels, len(self.heads))
        # Mean and maximum: how much of the picture, and whether anywhere.
        width = 2 * channels[-1] + channels[1]
        self.classifiers = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in self.heads.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits per attribute, `b n`, of images `b 3 h w` in [-1, 1] at the resolution of training."""
        x, blocks = self.stem(images), []
        for layer in self.levels:
            x = layer(x)
            if isinstance(layer, _Block):
                blocks.append(x)
        whole = torch.relu(self.norm(x))
        pooled = torch.cat([whole.mean((2, 3)), whole.amax((2, 3))], 1)
        looked_at = self.surface(blocks[1:]).unbind(1)
        return {
            name: classifier(torch.cat([pooled, own], 1))
            for (name, classifier), own in zip(self.classifiers.items(), looked_at, strict=True)
        }

    @torch.inference_mode()
    def read(self, images: Tensor) -> list[dict[str, str]]:
        """The attributes of every image, in words, by the sum of what is seen at all its `_glances`."""
        parts = [[self(glance) for glance in _glances(batch)] for batch in images.split(64)]
        chosen = {
            name: torch.cat([torch.stack([seen[name] for seen in part]).sum(0) for part in parts]).argmax(1).tolist()
            for name in self.heads
        }
        return [{name: self.heads[name][chosen[name][i]] for name in self.heads} for i in range(len(images))]

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`: large weights int8, the rest float16."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_packed(self.state_dict()), folder / "model.safetensors")
        write_json(folder / "config.json", {"heads": self.heads, "channels": self.channels})

    @staticmethod
    def load(folder: Path) -> "Oracle":
        """Read what `save` wrote, as float32, in eval mode.

        Raises:
            ModelError: the folder has no oracle.
        """
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds no oracle (config.json is missing); reinstall pcs_ext or train it.")
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        oracle = Oracle(
            {name: tuple(values) for name, values in settings["heads"].items()}, tuple(settings["channels"])
        )
        oracle.load_state_dict(_unpacked(load_file(folder / "model.safetensors")))
        return oracle.eval().requires_grad_(False)


def _packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """float16, but int8 with a float16 scale per output (`KEY.scale`) where it pays."""
    packed = {}
    for key, value in state.items():
        value = value.float().cpu()
        if value.numel() >= _LARGE:
            scale = (value.flatten(1).abs().amax(1) / 127).clamp(min=1e-7).half()
            packed[f"{key}.scale"] = scale
            value = value / scale.float().view(-1, *[1] * (value.ndim - 1))
            packed[key] = value.round().clamp(-127, 127).to(torch.int8).contiguous()
        else:
            packed[key] = value.half().contiguous()
    return packed


def _unpacked(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {key: value.float() for key, value in packed.items() if not key.endswith(".scale")}
    for key in state:
        if (scale := packed.get(f"{key}.scale")) is not None:
            state[key] = state[key] * scale.float().view(-1, *[1] * (state[key].ndim - 1))
    return state


def _glances(images: Tensor) -> Iterator[Tensor]:
    """The images moved by at most a pixel each way, and the mirror image of each: no attribute tells left from right.

    Surfaces of a few pixels look different on every raster; 18 readings together say more than one.
    """
    height, width = images.shape[-2:]
    framed = F.pad(images, (1, 1, 1, 1), mode="replicate")
    for down, right in itertools.product(range(3), repeat=2):
        moved = framed[..., down : down + height, right : right + width]
        yield moved
        yield moved.flip(-1)


class _Block(nn.Module):
    """Pre-activation residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Surface(nn.Module):
    """Features from coarse to fine, then a weighted mean over places for every head."""

    def __init__(self, channels: tuple[int, ...], heads: int) -> None:
        super().__init__()
        width = channels[1]
        self.laterals = nn.ModuleList([nn.Conv2d(c, width, 1) for c in (*channels[1:], channels[-1])])
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), _Block(width), nn.GroupNorm(8, width), nn.ReLU()
        )
        self.places = nn.Conv2d(width, heads, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Finest first -> `b heads width`."""
        laterals = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        x = laterals[-1]
        for finer in reversed(laterals[:-1]):
            x = finer + F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.mix(x)
        weights = self.places(x).flatten(2).softmax(-1)
        return weights @ x.flatten(2).transpose(1, 2)
