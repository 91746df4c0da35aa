"""What a machine offers for this work and what it lacks."""

import importlib.util
import os
import shutil
from importlib import metadata
from pathlib import Path

import psutil
import torch

from pcs_ext.runtime import cache_folder, choose_device, choose_dtype, environment

_OPTIONAL = {"pillow_heif": "HEIC photos", "decord": "video reading", "trimesh": "3D export", "lxml": "SVG files"}


def examine() -> dict[str, dict[str, str]]:
    """Facts by section: `device`, `memory`, `versions`, `models`, `optional`. Downloads and changes nothing."""
    return {
        "device": _device(),
        "memory": _memory(),
        "versions": environment(),
        "models": _models(),
        "optional": {name: _optional(name, use) for name, use in _OPTIONAL.items()},
    }


def _device() -> dict[str, str]:
    device = choose_device()
    facts = {"chosen": str(device), "precision": str(choose_dtype("auto", device)).removeprefix("torch.")}
    if device.type == "cuda":
        facts["name"] = torch.cuda.get_device_name(device)
    facts["cpu cores"] = str(len(os.sched_getaffinity(0)))
    facts["cpu threads used"] = str(torch.get_num_threads())
    return facts


def _memory() -> dict[str, str]:
    memory, folder = psutil.virtual_memory(), Path.cwd()
    facts = {
        "free": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB",
        "disk free here": f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB",
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        facts["device free"] = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB"
    return facts


def _models() -> dict[str, str]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    toybox = Path(__file__).parent / "toybox" / "weights" / "base" / "model_index.json"
    facts = {"toybox": "bundled" if toybox.is_file() else "missing: this installation is incomplete, reinstall it"}
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        repos = frozenset()
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        facts[repo.repo_id] = f"in the hub cache, {repo.size_on_disk / 2**30:.1f} GiB"
    facts["own cache"] = str(cache_folder())
    return facts


def _optional(module: str, use: str) -> str:
    if importlib.util.find_spec(module) is None:
        return f"not installed ({use})"
    return f"{metadata.version(module.replace('_', '-'))} ({use})"
