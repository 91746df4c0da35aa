"""A process that trains a small network and forks itself for every life, so that a kill costs milliseconds.

Protocol: a line `live SLOW EVERY` on stdin forks a child that trains in the folder given as argument, saving at every
multiple of EVERY steps, with every fsync and rename slowed by SLOW milliseconds. Lines on stdout: `born PID`, then
from the child `resumed STEP`, `begin STEP` and `end STEP` of every save, `touch` before each fsync and rename in
between, `finished`; then `dead STATUS`.
"""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.types import LossTerms, ParameterGroup

STEPS = 320
CONFIG = FitConfig(
    steps=STEPS,
    gradient_accumulation=2,
    lr_schedule="cosine",
    warmup_steps=20,
    ema_decay=0.99,
    checkpoint_every_seconds=None,
)


def say(text: str) -> None:
    """One line to the test, unbuffered: what was said before a kill is never lost."""
    os.write(1, f"{text}\n".encode())


class Announcing(CheckpointFolder):
    """Tells when a save begins and ends."""

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        say(f"begin {step}")
        path = super().save(step, tensors, state)
        say(f"end {step}")
        return path


class Network(nn.Module):
    """A denoiser in miniature: convolutions in channels_last, normalisation, dropout, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.Dropout(0.1))
        self.head = nn.Conv2d(6, 2, 3, padding=1)
        self.level = nn.Linear(1, 6)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Noise in `x` `b 2 h w` at `level` `b 1`."""
        return self.head(self.body(x) + self.level(level)[:, :, None, None])


def train(folder: Path, every: int) -> None:
    """Train to the end, from wherever the folder says."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Network().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        clean = torch.rand(3, 2, 1, 1, generator=generator).expand(3, 2, 6, 6)
        noise, level = torch.randn(clean.shape, generator=generator), torch.rand(3, 1, generator=generator)
        share = level[:, :, None, None]
        return LossTerms(
            {"noise": (model(share.sqrt() * clean + (1 - share).sqrt() * noise, level) - noise).pow(2).mean()}
        )

    groups = [
        ParameterGroup(name="body", parameters=tuple(model.body.parameters()), learning_rate=3e-3, weight_decay=0.01),
        ParameterGroup(
            name="rest", parameters=(*model.head.parameters(), *model.level.parameters()), learning_rate=1e-3
        ),
    ]
    checkpoints = Announcing(folder, config_hash="crash")
    config = dataclasses.replace(CONFIG, checkpoint_every_steps=every)
    for _ in fit(loss, groups, config, checkpoints=checkpoints, on_start=lambda run: say(f"resumed {run.step}")):
        pass
    say("finished")


def slow_down(milliseconds: float) -> None:
    """Make the moments inside a save long enough to be hit."""

    def slowed(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            say("touch")
            time.sleep(milliseconds / 1000)
            return real(*arguments, **options)

        return call

    os.fsync, os.replace = slowed(os.fsync), slowed(os.replace)


def live(folder: Path, slow: float, every: int) -> None:
    """One life, in a child process."""
    child = os.fork()
    if child == 0:
        if slow:
            slow_down(slow)
        try:
            train(folder, every)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    say(f"born {child}")
    _, status = os.waitpid(child, 0)
    say(f"dead {status}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    say("ready")
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            _, slow, every = line.split()
            live(Path(sys.argv[1]), float(slow), int(every))
