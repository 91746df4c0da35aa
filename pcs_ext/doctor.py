"""What a machine offers for this work and what it lacks."""

import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from pcs_ext.runtime import cache_folder, choose_device, choose_dtype, environment
from pcs_ext.toybox import weights_path

_EXTRAS = {
    "heif": "HEIC photos",
    "video": "reading clips",
    "threed": "meshes, 3D export",
    "svg": "SVG files",
    "dev": "make test, make check",
}
"""Optional parts of the package -> what they are for; which packages they are is read from its metadata."""
_TOYBOX = ("base", "clip", "dino", "oracle", "motion", "motion_reader", "reference", "panorama")


def examine() -> dict[str, dict[str, str]]:
    """Facts by section: device, memory, disk, versions, models, extras, missing. Downloads and changes nothing."""
    return {
        "device": _device(),
        "memory": _memory(),
        "disk": _disk(),
        "versions": environment(),
        "models": _models(),
        "extras": {name: ", ".join(_installed(name)) or "not installed" for name in _EXTRAS},
        "missing": _missing(),
    }


def _device() -> dict[str, str]:
    device = choose_device()
    chosen = f"{device}, {str(choose_dtype('auto', device)).removeprefix('torch.')}"
    facts = {"chosen": chosen if device.type != "cpu" else f"{chosen} (no CUDA or MPS device was found)"}
    if device.type == "cuda":
        facts["name"] = torch.cuda.get_device_name(device)
        facts["cuda"] = str(torch.version.cuda)
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = os.cpu_count() if allowed is None else len(allowed(0))
    facts["cpu"] = f"{cores} of {os.cpu_count()} cores may be used, torch uses {torch.get_num_threads()}"
    return facts


def _memory() -> dict[str, str]:
    memory = psutil.virtual_memory()
    facts = {"free": f"{_gib(memory.available)} of {_gib(memory.total)}"}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        facts["device free"] = f"{_gib(free)} of {_gib(total)}"
    return facts


def _disk() -> dict[str, str]:
    cache = cache_folder()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    used = sum(map(_bytes, cache.rglob("*"))) if cache.exists() else 0
    return {
        "here": f"{_gib(shutil.disk_usage(Path.cwd()).free)} free",
        "own cache": f"{cache}: {_gib(used)} used, {_gib(shutil.disk_usage(there).free)} free",
    }


def _models() -> dict[str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    found = sorted(folder.name for folder in weights_path("base").parent.glob("*/"))
    names = dict.fromkeys([*_TOYBOX, *found])
    sizes = {name: sum(_bytes(file) for file in weights_path(name).rglob("*")) for name in names}
    shipped = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes.items() if size)
    absent = ", ".join(name for name, size in sizes.items() if not size)
    facts = {"toybox": f"bundled: {shipped or 'nothing'}" + (f"; not shipped: {absent}" if absent else "")}
    facts["hub cache"] = HF_HUB_CACHE + (", offline by HF_HUB_OFFLINE" if HF_HUB_OFFLINE else "")
    return facts | (dict(_cached()) or {"found there": "no models; a --base with a hub id is fetched on first use"})


def _cached() -> Iterator[tuple[str, str]]:
    """Hub id and description of every model in the hub cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        if repo.repo_type == "model":
            names = {file.file_name for revision in repo.revisions for file in revision.files}
            use = "a pipeline for --base" if "model_index.json" in names else "no pipeline"
            yield repo.repo_id, f"{_gib(repo.size_on_disk)}, {use}"


def _requirements(extra: str) -> list[Requirement]:
    """What an extra asks for on this machine."""
    found = [Requirement(line) for line in metadata.requires("pcs_ext") or ()]
    return [
        one
        for one in found
        if one.marker is not None and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    ]


def _installed(extra: str) -> list[str]:
    return [f"{one.name} {version}" for one in _requirements(extra) if (version := _version(one)) is not None]


def _missing() -> dict[str, str]:
    """What is not there -> what it is for and the command that installs it."""
    facts = {}
    for extra, use in _EXTRAS.items():
        lacking = [one for one in _requirements(extra) if _version(one) is None]
        if lacking:
            wanted = " ".join(f'"{one.name}{one.specifier}"' for one in lacking)
            facts[extra] = f"{use}: python -m pip install {wanted}"
    if not (weights_path("base") / "model_index.json").is_file():
        facts["toybox"] = "the embedded base: this installation is incomplete, install it again"
    return facts or {"nothing": "everything that pcs_ext can use is installed"}


def _version(requirement: Requirement) -> str | None:
    """The installed version; None when there is none or it does not satisfy the requirement."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None
    return version if requirement.specifier.contains(version, prereleases=True) else None


def _bytes(path: Path) -> int:
    """Of a file; a file that is gone by now, and a folder, have none."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
