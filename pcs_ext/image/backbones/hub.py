"""Models by names of folders and of the hub: which folder is meant, which files are needed, of what family it is."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from pcs_ext.errors import ModelError
from pcs_ext.image.backbones.weight_files import by_variant, weight_files

_INDEX = "model_index.json"
_PATIENCE = 20.0
"""Seconds until the hub is taken to be out of reach."""
_UNUSED = ("safety_checker", "feature_extractor")


def model_folder(name: str | Path) -> Path:
    """The folder of a model: one that is there, a snapshot in a folder of the hub's cache, or a hub id's.

    Raises:
        ModelError: there is none, and none can be fetched.
    """
    path = Path(name).expanduser()
    return _snapshot(path) if path.is_dir() else hub_folder(str(name))


def _snapshot(folder: Path) -> Path:
    """Of `models--owner--name`, as the hub's cache has it, the snapshot that was fetched last."""
    snapshots = [path for path in folder.glob("snapshots/*") if path.is_dir()]
    if (folder / _INDEX).exists() or not snapshots:
        return folder
    main = folder / "refs" / "main"
    named = folder / "snapshots" / main.read_text(encoding="utf-8").strip() if main.is_file() else snapshots[0]
    return named if named in snapshots else max(snapshots, key=lambda path: path.stat().st_mtime)


def hub_folder(name: str) -> Path:
    """The local copy of a model on the hub, fetched when it is not there whole: what `needed_files` names of it.

    What is there whole is used without asking whether the hub has a newer one.

    Raises:
        ModelError: it is neither cached nor can it be fetched, or the name is no hub id.
    """
    from huggingface_hub import HfApi, snapshot_download

    # HTTPError is that of whichever client the installed version uses: no connection is one of its kinds.
    from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

    cached = _cached(name)
    if cached is not None and _whole(cached):
        return cached
    advice = ""
    try:
        files = HfApi().model_info(name, timeout=_PATIENCE).siblings or []
        return Path(snapshot_download(name, allow_patterns=needed_files([file.rfilename for file in files])))
    except HFValidationError:
        raise ModelError(
            f"{name} was not found: it is no folder, no .safetensors file and no hub id (owner/name). "
            f"Check the path{_alike(name)}; `--base toybox` always works."
        ) from None
    except RepositoryNotFoundError as error:
        why, advice = error, " The hub shows no such model: the name is another, or it asks for `hf auth login`."
    except (OSError, HTTPError) as error:
        why = error
    if cached is not None:
        return cached  # whoever loads it says what is missing
    raise ModelError(
        f"{name} is neither a local folder{_alike(name)} nor in the hub cache, and it could not be fetched "
        f"({type(why).__name__}).{advice} On a machine with a connection run `hf download {name}`, or pass the path "
        "of a diffusers folder or a .safetensors file."
    )


def _whole(folder: Path) -> bool:
    """Whether all weights of a model are there: of a pipeline, those of each part that has a configuration of them."""
    try:
        if not (folder / _INDEX).is_file():
            return bool(weight_files(folder).files)
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        named = [name for name, kind in index.items() if isinstance(kind, list) and kind[0] is not None]
        parts = [name for name in named if name not in _UNUSED]
        weighted = [name for name in parts if not name.startswith(("tokenizer", "scheduler"))]
        return all((folder / name).is_dir() for name in parts) and all(weight_files(folder / w) for w in weighted)
    except (OSError, ValueError, ModelError):
        return False


def _alike(name: str) -> str:
    """A folder or file beside the one that is not there, whose name is close to its."""
    path = Path(name).expanduser()
    try:
        beside = [found.name for found in path.parent.iterdir() if not found.name.startswith(".")]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6)
    return f" (did you mean {path.with_name(close[0])}?)" if close else ""


def is_sdxl(name: str) -> bool:
    """Whether a base is SDXL, as far as that shows without loading it; of one that is not here, its name says so."""
    path = Path(name).expanduser()
    try:
        if path.suffix == ".safetensors" and path.is_file():
            with safe_open(path, framework="pt") as opened:
                return any(key.startswith("conditioner.embedders.1.") for key in opened.keys())  # noqa: SIM118
        folder = _snapshot(path) if path.is_dir() else _cached(name)
        if folder is not None and (folder / _INDEX).is_file():
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            return index.get("text_encoder_2", [None])[0] is not None
    except (OSError, ValueError, SafetensorError):
        pass  # whoever loads it says what is wrong
    return "xl" in path.name.lower()


def _cached(name: str) -> Path | None:
    """The local copy of a hub id, if there is one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def needed_files(names: Sequence[str]) -> list[str]:
    """Of a repository's files those that are read: one set of each component's weights, no pickles.

    Published pipelines hold everything several times: as pickles, in half precision, before averaging, and once more as
    single files beside the folders.

    Args:
        names: of all files, with `/`.
    """
    pipeline = _INDEX in names
    kept = [name for name in names if name.endswith((".json", ".txt"))]
    folders: dict[str, list[str]] = {}
    for name in names:
        place = PurePosixPath(name)
        unused = pipeline and (len(place.parts) == 1 or place.parts[0] in _UNUSED)
        if name.endswith(".safetensors") and not unused:
            folders.setdefault(str(place.parent), []).append(place.name)
    for folder, files in folders.items():
        variants = by_variant(files)
        spare = {name for found in list(variants.values())[1:] for name in found}
        kept += [str(PurePosixPath(folder) / name) for name in files if name not in spare]
    return kept
