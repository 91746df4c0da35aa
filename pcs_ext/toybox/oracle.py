"""The oracle: reads class, colour, pattern, accessory, context, style and view off an image of the world.

Trained separately from everything it judges; used to measure, never to train a generator.
"""

import json
from pathlib import Path

import torch
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


class Oracle(nn.Module):
    """A small residual network with one classifier per attribute.

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
        # Mean and maximum: how much of the picture, and whether anywhere.
        self.classifiers = nn.ModuleDict(
            {name: nn.Linear(2 * channels[-1], len(values)) for name, values in self.heads.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits per attribute, `b n`, of images `b 3 h w` in [-1, 1] at the resolution of training."""
        features = torch.relu(self.norm(self.levels(self.stem(images))))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return {name: classifier(pooled) for name, classifier in self.classifiers.items()}

    @torch.inference_mode()
    def read(self, images: Tensor) -> list[dict[str, str]]:
        """The attributes of every image, in words."""
        parts = [self(images[i : i + 64]) for i in range(0, len(images), 64)]
        chosen = {name: torch.cat([part[name] for part in parts]).argmax(1).tolist() for name in self.heads}
        return [{name: self.heads[name][chosen[name][i]] for name in self.heads} for i in range(len(images))]

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` (float16) and `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: value.half().contiguous().cpu() for key, value in self.state_dict().items()},
            folder / "model.safetensors",
        )
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
        oracle.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
        return oracle.eval().requires_grad_(False)


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
