"""The embedded base: a procedural world whose truth is known, and the small models trained on it."""

from pathlib import Path


def weights_path(name: str) -> Path:
    """Folder of a shipped model: `base` (a StableDiffusionPipeline folder), `clip`, `dino`, `oracle` or `reference`."""
    return Path(__file__).parent / "weights" / name
