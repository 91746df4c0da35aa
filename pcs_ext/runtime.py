"""Where a run happens (device, precision, versions) and where its randomness comes from."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

from pcs_ext.errors import ResourceError, UsageError

DeviceName = Literal["auto", "cuda", "mps", "cpu"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The device to run on: CUDA, else MPS, else CPU when `auto`.

    Raises:
        ResourceError: the named device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = name.split(":")[0]
    if kind not in available:
        raise UsageError(f"device {name!r} is unknown; expected one of auto, cuda, mps, cpu.")
    if not available[kind]:
        raise ResourceError(f"device {name!r} was asked for but is not there; use --device cpu.")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of frozen weights and autocast. `auto`: bf16 on CUDA and CPUs that compute in it, else fp32."""
    if name != "auto":
        if name not in _DTYPES:
            raise UsageError(f"precision {name!r} is unknown; expected auto, fp32, bf16 or fp16.")
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_multiplies_bf16() else torch.float32


def _cpu_multiplies_bf16() -> bool:
    """Emulated bf16 is slower than fp32: only matrix units (AMX) or dot products of it make it worth its rounding."""
    units = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, unit, lambda: False)() for unit in units)


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part: `seed_for(run_seed, "noise", step)`.

    Deriving seeds, instead of drawing on from one stream, is what makes a resumed run equal to an uninterrupted one.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_for(*parts)`: the same numbers on every device."""
    return torch.Generator("cpu").manual_seed(seed_for(*parts))


@contextlib.contextmanager
def global_randomness(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Inside, torch's global generators (of the CPU and of `device`) start at `seed_for(*parts)`.

    For code that takes no generator, such as dropout. Afterwards the caller's generators are as they were.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for(*parts))
        yield


def cache_folder() -> Path:
    """Where derived files that may be deleted live: `$PCS_EXT_CACHE`, else `~/.cache/pcs_ext`."""
    return Path(os.environ.get("PCS_EXT_CACHE") or Path.home() / ".cache" / "pcs_ext")


def environment() -> dict[str, str]:
    """Versions and machine, as stored beside every artifact. Holds no user name, host name or path."""
    packages = ("pcs_ext", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pillow")
    versions = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **versions}
