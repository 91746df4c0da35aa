"""Which of the files in a component's folder hold its weights: whole or in shards, in full or as a variant.

Published models lie beside themselves: `diffusion_pytorch_model.safetensors`, the same as `.fp16.safetensors`, the
weights before averaging as `.non_ema.safetensors`, pickles of all of them. One set is read.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from pcs_ext.errors import ModelError

_NAME = re.compile(
    r"(diffusion_pytorch_model|model)(?:\.(\w+?))?(?:-\d{5}-of-(\d{5}))?(?:\.(\w+))?\.safetensors", re.ASCII
)
_INDEX = "{}.safetensors.index{}.json"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")
_LAST = ("ema", "non_ema")
_LFS = b"version https://git-lfs"
_WIDTHS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class WeightFiles:
    """One complete set."""

    variant: str | None
    """In the files' names: "fp16"; None where they have none."""
    files: tuple[Path, ...]
    """One, or all shards."""

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in: float32 where they differ, or are in none of the usual ones."""
        kinds = set[str]()
        for file in self.files:
            with safe_open(file, framework="pt") as opened:
                kinds |= {opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118 (no mapping)
        floats = {kind for kind in kinds if kind.startswith(("F", "BF"))}
        return _WIDTHS.get(floats.pop(), torch.float32) if len(floats) == 1 else torch.float32


def weight_files(folder: Path) -> WeightFiles:
    """The set of a component's weights that is read: the full one if it is whole, else a variant.

    Raises:
        ModelError: there is none, or none is whole.
    """
    # In the hub's cache they are links, to nothing where a download stopped.
    names = [path.name for path in folder.iterdir() if path.exists()] if folder.is_dir() else []
    variants = by_variant(names)
    index = _index_of(folder, None)
    if index is not None:
        # Shards may be called anything and lie in other folders: the index says what is one.
        present = sorted(name for name in _listed(index) if (folder / name).is_file())
        variants = {None: present, **{variant: own for variant, own in variants.items() if variant is not None}}
    if not variants:
        raise ModelError(_nothing(folder, names))
    lacking: list[str] = []
    for variant, found in variants.items():
        missing = sorted(_expected(folder, variant, found) - set(found))
        if not missing:
            files = tuple(folder / name for name in sorted(found))
            for file in files:
                _check_fetched(file)
            return WeightFiles(variant, files)
        lacking = lacking or missing
    raise ModelError(
        f"{folder} lacks {', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}; the weights were fetched in "
        "part. `hf download` with the same arguments goes on where it stopped."
    )


def by_variant(names: Iterable[str]) -> dict[str | None, list[str]]:
    """Names of safetensors files by their variant, in the order in which sets are preferred."""
    found: dict[str | None, list[str]] = {}
    for name in names:
        if match := _NAME.fullmatch(name):
            found.setdefault(match[2] or match[4], []).append(name)
    return {variant: found[variant] for variant in sorted(found, key=_preference)}


def _preference(variant: str | None) -> tuple[bool, bool, str]:
    return variant in _LAST, variant is not None, variant or ""


def _expected(folder: Path, variant: str | None, found: Sequence[str]) -> set[str]:
    """Names of all files of a set: what its index lists, or as many shards as they say of themselves."""
    index = _index_of(folder, variant)
    if index is not None:
        return _listed(index)
    shards = {int(match[3]) for name in found if (match := _NAME.fullmatch(name)) and match[3]}
    if not shards:
        return set(found)
    stem = re.split(r"[.-]", found[0])[0]
    return {*found, _INDEX.format(stem, "" if variant is None else f".{variant}")}


def _listed(index: Path) -> set[str]:
    """Names of the files that an index spreads weights over."""
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is no index of weights ({error}); fetch the model again.") from None


def _index_of(folder: Path, variant: str | None) -> Path | None:
    ending = "" if variant is None else f".{variant}"
    # The second name is that of early variants.
    patterns = (_INDEX.format("*", ending), f"*.safetensors{ending}.index.json" if ending else "")
    return next((path for pattern in patterns if pattern for path in sorted(folder.glob(pattern))), None)


def _check_fetched(file: Path) -> None:
    """See that it is more than the note that Git leaves in a file's place."""
    if file.stat().st_size < 1024:
        with open(file, "rb") as opened:
            if opened.read(len(_LFS)) == _LFS:
                raise ModelError(
                    f"{file} is a note of Git LFS in place of the weights; run `git lfs pull` in that repository, or "
                    "fetch the model with `hf download`."
                )


def _nothing(folder: Path, names: Sequence[str]) -> str:
    if any(name.endswith(_PICKLES) for name in names):
        return (
            f"{folder} has no .safetensors file, only pickles ({_some_pickle(names)}), which can run code when they "
            "are loaded and are not. Fetch the safetensors of this model, or convert them on a machine you can lose: "
            "load them with torch.load(weights_only=True) and write them with safetensors.torch.save_file."
        )
    return (
        f"{folder} has no .safetensors file (it holds {', '.join(sorted(names)[:4]) or 'nothing'}); it was fetched in "
        "part. `hf download` with the same arguments goes on where it stopped."
    )


def _some_pickle(names: Sequence[str]) -> str:
    return next(name for name in sorted(names) if name.endswith(_PICKLES))
