"""Where reference adapters lie: folders of ours, published files and folders, and files on the hub."""

import dataclasses
from pathlib import Path, PurePosixPath

from pcs_ext.config_io import config, from_jsonable, read_json
from pcs_ext.errors import ArtifactError, ModelError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import TOYBOX_WEIGHTS
from pcs_ext.image.reference.kinds import KindConfig

WEIGHTS, CONFIG = "ip_adapter.safetensors", "config.json"
OTHER_WEIGHTS = "reference.safetensors"
"""Of all kinds but IP-Adapter, whose files other tools read by that name."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_GET = {
    "sd": "h94/IP-Adapter/models/ip-adapter_sd15.safetensors (Stable Diffusion 1.x)",
    "sdxl": "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
}


@config
class TrainedWith:
    """What a folder of ours says of any adapter."""

    kind: str = "ip-adapter"
    """Its system, a key of `REFERENCES`."""
    encoder: str
    """`toybox/NAME`, a hub id, or a folder: the image encoder it was trained with."""
    encoder_digest: str
    """8 hex digits of that encoder's weights."""
    base: str
    """What it was trained on."""
    base_fingerprint: str
    """Of those weights; another base of the family may be used."""
    family: str
    """`sd` or `sdxl`."""
    steps: int
    """Optimiser steps."""


@config
class ReferenceConfig(TrainedWith):
    """What a folder of ours says of an adapter of the image core."""

    adapter: KindConfig | None = None
    """Its settings; None: an IP-Adapter of earlier versions."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an adapter was found."""

    weights: Path
    settings: ReferenceConfig | None
    repository: str = ""
    """On the hub, where encoders may be fetched from."""
    inside: str = ""
    """Path of the weights in it."""


def find_adapter(backbone: AbstractBackbone, name: str) -> Place:
    """Where an adapter lies, by what `open_adapter` is asked for.

    Raises:
        ModelError: nowhere, or it is a pickle; the message says how to get one.
        ArtifactError: a folder of ours that does not say what it holds.
    """
    if not name and backbone.name == "toybox":
        name = str(TOYBOX_WEIGHTS / "reference")
        if not (Path(name) / WEIGHTS).is_file():
            raise ModelError(
                "this version ships without a reference adapter for toybox. Make one with `python -m "
                "pcs_ext.toybox.train reference` and export_reference, or pass one with --reference-adapter."
            )
    if not name:
        raise ModelError(
            f"{backbone.name} needs a reference adapter and none was named; pass --reference-adapter with a folder, a "
            f".safetensors file or a file on the hub, for instance {_GET.get(backbone.family, _GET['sd'])}. "
            "`pcs-ext reference learn` trains one."
        )
    path = Path(name).expanduser()
    if path.suffix in _PICKLES:
        raise ModelError(_pickle_message(path))
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return Place(path, settings_beside(path))
    return _on_hub(name)


def _pickle_message(path: Path) -> str:
    return (
        f"{path} is a pickle, which can run code when it is loaded; expected .safetensors. The publishers of "
        "IP-Adapter have the same weights under the same name as .safetensors: take that file. Where there is none, "
        "convert it on a machine you can lose: parts = torch.load(FILE, weights_only=True); "
        'safetensors.torch.save_file({f"{part}.{key}": value for part in parts '
        "for key, value in parts[part].items()}, OUT)."
    )


def _in_folder(folder: Path) -> Place:
    for name in (WEIGHTS, OTHER_WEIGHTS):
        if (folder / name).is_file():
            return Place(folder / name, settings_beside(folder / name))
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return Place(files[0], None)
    if files:
        raise ModelError(
            f"{folder} holds {len(files)} adapters ({', '.join(file.name for file in files[:4])}); name the file."
        )
    pickles = [file for file in sorted(folder.iterdir()) if file.suffix in _PICKLES]
    if pickles:
        raise ModelError(_pickle_message(pickles[0]))
    raise ModelError(f"{folder} holds no adapter; expected {WEIGHTS} or one other .safetensors file.")


def settings_beside(weights: Path) -> ReferenceConfig | None:
    """What the folder of a file says of it; None: it is none of ours.

    Raises:
        ArtifactError: it is of ours, and its settings are missing.
    """
    path = weights.with_name(CONFIG)
    if weights.name not in (WEIGHTS, OTHER_WEIGHTS) or not path.is_file():
        return None
    said = from_jsonable(ReferenceConfig, read_json(path), where=str(path))
    if weights.name == OTHER_WEIGHTS and said.adapter is None:
        raise ArtifactError(
            f"{path} does not say what {weights.name} is; expected the settings of its adapter. Train it again, or "
            "take the file that was written with it."
        )
    return said


def _on_hub(name: str) -> Place:
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or not name.endswith(".safetensors"):
        raise ModelError(
            f"--reference-adapter {name} was not found: it is no folder, no .safetensors file and no file on the hub "
            "(owner/name/path/file.safetensors). Check the path."
        )
    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    return Place(fetched(repository, inside), None, repository, inside)


def fetched(repository: str, inside: str) -> Path:
    """The local copy of a file on the hub, fetched when it is not there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, inside))
    except (LocalEntryNotFoundError, EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"{repository}/{inside} is not in the hub cache and could not be fetched ({type(error).__name__}). On a "
            f"machine with a connection run `hf download {repository} {inside}`, or pass the path of a local file."
        ) from None
