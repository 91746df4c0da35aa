"""A process that protects a folder in a forked child for every life, so that a kill costs milliseconds.

A line `live OUTPUT` on stdin forks a child that protects the folder given as argument into OUTPUT. Lines on stdout:
`ready`, `born PID`, `written NAME` from the child, `dead STATUS`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from pcs_ext.defense.protect import Options, protect
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.reporter import SilentReporter


def say(text: str) -> None:
    """One line to the test, unbuffered."""
    os.write(1, f"{text}\n".encode())


class Announcing(SilentReporter):
    """Tells of every photo."""

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Say what was written."""
        if name == "protected":
            say(f"written {fields['output']}")


def live(backbone: AbstractBackbone, photos: Path, output: Path) -> None:
    """One life, in a child process."""
    child = os.fork()
    if child == 0:
        try:
            options = Options(noun="dog", seed=3)
            protect(
                photos, output=output, recipe="advdm", base=backbone, steps=2, options=options, reporter=Announcing()
            )
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    say(f"born {child}")
    _, status = os.waitpid(child, 0)
    say(f"dead {status}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    loaded = load_backbone(sys.argv[1], device="cpu", precision="fp32")
    say("ready")
    for line in sys.stdin:
        live(loaded, Path(sys.argv[2]), Path(line.split()[1]))
