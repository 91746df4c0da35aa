"""The motion reader: which of the world's motions a clip shows, or none.

Trained separately from everything it judges, on rendered clips; used to measure, never to train a generator.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pcs_ext.config_io import write_json
from pcs_ext.errors import ModelError
from pcs_ext.toybox.world.vocabulary import MOTIONS

NONE = ""
"""What the reader says of a clip in which nothing moves."""
READINGS = (*MOTIONS, NONE)


class MotionReader(nn.Module):
    """A small convolutional network over space and time, on frames and their differences.

    Args:
        readings: what it can say.
        channels: by level; every level halves the resolution.
    """

    def __init__(self, readings: tuple[str, ...] = READINGS, channels: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        self.readings, self.channels = tuple(readings), tuple(channels)
        layers: list[nn.Module] = []
        for inner, outer in zip((6, *channels[:-1]), channels, strict=True):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GroupNorm(8, outer), nn.ReLU()]
        self.frames = nn.Sequential(*layers)
        width = channels[-1]
        self.time = nn.Sequential(_Block(width), _Block(width))
        self.classifier = nn.Linear(2 * width, len(self.readings))

    def forward(self, clips: Tensor) -> Tensor:
        """Logits `b n` of clips `b f 3 h w` in [-1, 1], of at least two frames."""
        before = torch.cat([clips[:, :1], clips[:, :-1]], 1)
        seen = torch.cat([clips, clips - before], 2)
        features = self.frames(seen.flatten(0, 1)).unflatten(0, clips.shape[:2]).transpose(1, 2)
        features = self.time(features)
        return self.classifier(torch.cat([features.mean((2, 3, 4)), features.amax((2, 3, 4))], 1))

    @torch.inference_mode()
    def read(self, clips: Tensor) -> list[str]:
        """The motion in every clip, one of `readings`."""
        return [self.readings[index] for part in clips.split(16) for index in self(part).argmax(1).tolist()]

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` (float16)."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: value.cpu().half().contiguous() for key, value in self.state_dict().items()},
            folder / "model.safetensors",
        )
        write_json(folder / "config.json", {"readings": self.readings, "channels": self.channels})

    @staticmethod
    def load(folder: Path) -> "MotionReader":
        """Read what `save` wrote, as float32, in eval mode.

        Raises:
            ModelError: the folder has no motion reader.
        """
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds no motion reader (no config.json); reinstall pcs_ext or train it.")
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        reader = MotionReader(tuple(settings["readings"]), tuple(settings["channels"]))
        reader.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
        return reader.eval().requires_grad_(False)


class _Block(nn.Module):
    """Pre-activation residual block: first across frames, then across places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)),
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
