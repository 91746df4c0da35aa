"""Class images for prior preservation: made once by the base, cached, resumed after a kill."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import to_jsonable, write_json
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.levels import in_unit_range, to_pil
from pcs_ext.image.png import write_png
from pcs_ext.image.sample import SampleConfig, images_at_once, sample
from pcs_ext.image.types import Batch
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import cache_folder, seed_for


class ClassImages:
    """A set of images of the plain class word, and batches of them.

    Args:
        images: `n 3 h w`, in [-1, 1] or as 8-bit levels: of 200 images of 1024 pixels these are 600 MB, floats 2.5 GB.
        prompts: what made each, `n` texts, or one for all.
    """

    def __init__(self, images: Tensor, prompts: str | Sequence[str]) -> None:
        self._images = images
        self.prompts = [prompts] * len(images) if isinstance(prompts, str) else list(prompts)

    @property
    def images(self) -> Tensor:
        """All of them, `n 3 h w` in [-1, 1]."""
        return in_unit_range(self._images)

    @property
    def prompt(self) -> str:
        """Of the first image: of all of them, unless sets were joined."""
        return self.prompts[0]

    @staticmethod
    def joined(sets: Sequence["ClassImages"]) -> "ClassImages":
        """All images of several sets, one at least, with their own prompts."""
        kept = [s._images for s in sets]
        alike = all(images.dtype == kept[0].dtype for images in kept)
        images = torch.cat(kept if alike else [in_unit_range(images) for images in kept])
        return ClassImages(images, [prompt for s in sets for prompt in s.prompts])

    def captioned(self, prompt: str) -> "ClassImages":
        """The same images, learned under another text."""
        return ClassImages(self._images, prompt)

    @staticmethod
    def generate(
        backbone: AbstractBackbone,
        *,
        prompt: str,
        count: int,
        config: SampleConfig,
        seed: int = 0,
        reporter: Reporter | None = None,
        folder: Path | None = None,
    ) -> "ClassImages":
        """`count` images from the cache; those that are missing are sampled and added.

        The cache's key is the base's weights, the prompt, the sampling settings and the seed. Image k does not depend
        on the count, so asking for more later keeps what is there.

        Args:
            backbone: without adapters.
            prompt: of the class, such as "a photo of a dog".
            count: how many.
            config: of sampling.
            seed: first of the images' seeds.
            reporter: hears the progress.
            folder: of the cache; None: the user's.
        """
        reporter = reporter or SilentReporter()
        facts = {"base": backbone.fingerprint, "prompt": prompt, "sampling": to_jsonable(config), "seed": seed}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        place = (folder or cache_folder() / "class_images") / key
        missing = [index for index in range(count) if not (place / f"{index:05d}.png").is_file()]
        if missing:
            write_json(place / "made_from.json", facts)
        together = images_at_once(backbone, config)
        for first in range(0, len(missing), together):
            chunk = missing[first : first + together]
            seeds = [seed_for("class image", seed, index) for index in chunk]
            with torch.inference_mode():
                images = sample(backbone, [prompt] * len(chunk), seeds=seeds, config=config)
            for index, image in zip(chunk, images, strict=True):
                write_png(place / f"{index:05d}.png", to_pil(image))
            reporter.progress("class images", first + len(chunk), len(missing))
        return ClassImages(torch.stack([_read(place / f"{index:05d}.png") for index in range(count)]), prompt)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """`size` class images with their prompts, drawn with replacement."""
        rows = torch.randint(len(self._images), (size,), generator=generator).tolist()
        return Batch(
            images=in_unit_range(self._images[rows]),
            captions=tuple(self.prompts[row] for row in rows),
            is_prior=torch.ones(size, dtype=torch.bool),
            keys=tuple(f"class/{row}" for row in rows),
        )


def _read(path: Path) -> Tensor:
    """Levels `3 h w`."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
