"""The sets of photos that attackers learn from: clean, protected, with random noise; as they are and laundered."""

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, config_hash, file_sha256, read_json, to_jsonable, write_json
from pcs_ext.defense.budget import Budget
from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.files import encode
from pcs_ext.defense.laundering import Laundering
from pcs_ext.defense.photos import OwnPhoto, read_own_photo
from pcs_ext.defense.written import random_change
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import read_photo
from pcs_ext.image.levels import levels_of
from pcs_ext.image.png import write_png

Limited: TypeAlias = Callable[[Path], OwnPhoto]
"""Path of an original -> the photo, with the mask of where its protection may change it."""


class Pair(NamedTuple):
    """A photo before and after."""

    original: Path
    protected: Path


class Sets:
    """The photos that attackers get, as PNG files in sRGB, made once.

    Args:
        pairs: photos before and after protection.
        folder: of the files.
        backbone: the base, for launderings that need it.
        budget: that random noise uses to the full.
        limited: an original with its mask: noise goes where the perturbation may go.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        folder: Path,
        backbone: AbstractBackbone,
        budget: Budget,
        limited: Limited = read_own_photo,
    ) -> None:
        self.pairs, self.folder, self.backbone, self.budget = list(pairs), folder, backbone, budget
        self.limited = limited

    def photos(self, arm: str, laundering: Laundering | None) -> list[Path]:
        """Files of one condition."""
        plain = self._filled(arm, "", self._facts(arm), lambda: self._plain(arm))
        if laundering is None:
            return plain
        facts = [to_jsonable(laundering), self.backbone.fingerprint, [file_sha256(path) for path in plain]]

        def laundered() -> list[Tensor]:
            clean = [_levels(path) for path in self.photos("clean", None)]
            return laundering.apply([_levels(path) for path in plain], clean=clean, backbone=self.backbone, seed=0)

        return self._filled(arm, laundering.name, facts, laundered)

    def _facts(self, arm: str) -> list[object]:
        """What decides the pictures of an arm."""
        facts: list[object] = [arm, [file_sha256(path) for pair in self.pairs for path in pair]]
        return [*facts, to_jsonable(self.budget), *(self._masks if arm == "noise" else [])]

    @functools.cached_property
    def _masks(self) -> list[str]:
        """A digest for each photo, empty where it has no mask; none at all where no photo has one."""
        masks = [self.limited(pair.original).mask for pair in self.pairs]
        digests = ["" if m is None else hashlib.sha256(m.numpy().tobytes()).hexdigest() for m in masks]
        return digests if any(digests) else []

    def _plain(self, arm: str) -> list[Tensor]:
        if arm == "clean":
            return [_levels(pair.original) for pair in self.pairs]
        if arm == "protected":
            return [_levels(pair.protected) for pair in self.pairs]
        return [self._noisy(pair.original) for pair in self.pairs]

    def _noisy(self, original: Path) -> Tensor:
        """Random noise goes where the perturbation may, through a file in the photo's own colour space."""
        photo = self.limited(original)
        pixels = (photo.pixels + random_change(Canvas(photo, self.budget))).to(torch.uint8)
        path = self.folder / "own colours" / f"{photo.sha256[:16]}.png"
        atomic_write_bytes(path, encode(photo.with_pixels(pixels), "png"))
        return _levels(path)

    def _filled(self, arm: str, name: str, facts: object, make: Callable[[], list[Tensor]]) -> list[Path]:
        folder = self.folder / (re.sub(r"\W+", "-", name).strip("-") or "as-shared") / arm
        paths = [folder / f"{index:04d}.png" for index in range(len(self.pairs))]
        mark, digest = folder / "made_from.json", config_hash(facts)
        if mark.is_file() and read_json(mark) == digest and all(path.is_file() for path in paths):
            return paths
        mark.unlink(missing_ok=True)
        for path, picture in zip(paths, make(), strict=True):
            write_png(path, Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()))
        write_json(mark, digest)
        return paths


def _levels(path: Path) -> Tensor:
    """What a trainer reads, uint8 `3 h w`."""
    return levels_of(read_photo(path).image)
