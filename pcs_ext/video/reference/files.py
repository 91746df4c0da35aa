"""Adapters for clip models on disk, and those of the image core that act in them."""

import json
from pathlib import Path

from pcs_ext.config_io import config, from_jsonable, read_json
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import (
    CONFIG,
    OTHER_WEIGHTS,
    OpenedAdapter,
    TrainedWith,
    check_encoder,
    encoder_folder,
    fill,
    reading_of,
)
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.reference.kinds import ClipKindConfig, build_clip_adapter, clip_adapter_class


@config
class ClipReferenceConfig(TrainedWith):
    """What a folder of ours says of an adapter for clip models."""

    adapter: ClipKindConfig
    """Its settings."""
    motion_module: str | None = None
    """Motion adapter that it was trained with; None: the base's own."""


def is_clip_adapter(name: str) -> bool:
    """Whether a folder holds an adapter that was trained for clip models."""
    path = Path(name).expanduser() / CONFIG
    if not name or not path.is_file() or not path.with_name(OTHER_WEIGHTS).is_file():
        return False
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return False  # who reads it says what is wrong with it
    from pcs_ext.video.reference import REFERENCES

    return isinstance(said, dict) and said.get("kind") in REFERENCES


def open_clip_adapter(backbone: AbstractVideoBackbone, name: str, *, encoder: str = "") -> OpenedAdapter:
    """Read and check a folder of `video learn-reference` for a backbone.

    Args:
        backbone: what it shall work on.
        name: the folder.
        encoder: folder or hub id of the image encoder; empty: the one the folder names, or that lies in it.

    Raises:
        ModelError: a file is missing or damaged.
        ArtifactError: it was made for another kind of base, or trained with another encoder.
    """
    folder = Path(name).expanduser()
    said: ClipReferenceConfig = from_jsonable(
        ClipReferenceConfig, read_json(folder / CONFIG), where=str(folder / CONFIG)
    )
    made_by, own = clip_adapter_class(said.adapter), folder / "image_encoder"
    place = own if own.is_dir() and not encoder else encoder_folder(encoder or said.encoder)
    eye = open_encoder(place, made_by.sees, backbone.device, depths=made_by.depths)
    check_encoder(eye, said)
    adapter = build_clip_adapter(said.adapter, backbone, reading_of(eye))
    fill(adapter, folder / OTHER_WEIGHTS, said, backbone)
    adapter.to(backbone.device, backbone.dtype).eval().requires_grad_(False)
    return OpenedAdapter(adapter=adapter, encoder=eye)
