"""Folders of small photos."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def picture(seed: int, width: int = 40, height: int = 34) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
