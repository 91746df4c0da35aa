"""Writing what other tools read: files that appear whole, headers within their limit, nothing overwritten unasked."""

import dataclasses
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import UsageError

MAX_HEADER_BYTES = 1 << 20
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What all formats have in common."""

    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of the weights in the file; fp16 and bf16 round once."""
    overwrite: bool = False
    """Replace a file that is there already."""
    training_metadata: bool = True
    """Tell how it was trained (steps, learning rates, seed, labels); false leaves only what readers need to load it."""
    title: str = ""
    """Name that tools show; empty takes the file's."""
    author: str = ""
    """Who made it."""
    description: str = ""
    """One sentence."""
    license: str = ""
    """Of the file."""

    def cast(self, tensor: Tensor) -> Tensor:
        """A weight as it is stored: contiguous, in `precision`.

        Raises:
            UsageError: it is too large for that.
        """
        stored = tensor.to(_DTYPES[self.precision]).contiguous().clone()
        if not stored.isfinite().all():
            raise UsageError(
                f"a weight of {float(tensor.abs().max()):.3g} does not fit into {self.precision}, where it would be "
                "infinite; export with --precision bf16 or fp32."
            )
        return stored


def check_free(path: Path, options: ExportOptions) -> None:
    """Make sure nothing is lost.

    Raises:
        UsageError: something is there and `overwrite` is off.
    """
    if path.exists() and not options.overwrite:
        raise UsageError(f"{path} exists already; choose another --output or pass --overwrite to replace it.")


def with_suffix(path: Path) -> Path:
    """The path of a safetensors file, the suffix added where it is not written.

    Raises:
        UsageError: it has no name.
    """
    if not path.name:
        raise UsageError(f"--output {path} is a folder; expected the name of a file.")
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], options: ExportOptions
) -> Path:
    """Write one file, keys in order.

    Raises:
        UsageError: the file exists, or the header would be too large for readers.
    """
    check_free(path, options)
    content = save(dict(sorted(tensors.items())), {"format": "pt", **metadata})
    (header,) = struct.unpack("<Q", content[:8])
    if header > MAX_HEADER_BYTES:
        raise UsageError(
            f"the header of {path} would have {header} bytes, readers accept {MAX_HEADER_BYTES}; "
            "export without training metadata."
        )
    atomic_write_bytes(path, content)
    return path


def read_header(path: Path) -> dict[str, str]:
    """The metadata strings of a safetensors file."""
    with open(path, "rb") as handle:
        (size,) = struct.unpack("<Q", handle.read(8))
        return json.loads(handle.read(size)).get("__metadata__", {})
