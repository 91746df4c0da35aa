"""The image encoder that tells a motion's networks what clips look like: found again wherever the motion lies."""

from pathlib import Path

import torch

from pcs_ext.errors import ArtifactError, ModelError
from pcs_ext.image.backbones.load import TOYBOX_WEIGHTS
from pcs_ext.image.evaluate.encoders import ImageEncoder, load_image_encoder

_TOYBOX = "toybox/"


def encoder_name(folder: Path) -> str:
    """A folder by a name that leads to it from any directory; toybox's own, from any installation."""
    place = folder.expanduser().resolve()
    own = place.is_relative_to(TOYBOX_WEIGHTS.resolve())
    return f"{_TOYBOX}{place.relative_to(TOYBOX_WEIGHTS.resolve()).as_posix()}" if own else str(place)


def told_encoder(name: str, known: str | None, device: torch.device, *, given: Path | None = None) -> ImageEncoder:
    """The encoder that a motion was learned with.

    Args:
        name: from `encoder_name`.
        known: its id; None: not known.
        device: where it runs.
        given: where it lies now; None: where it did.

    Raises:
        ModelError: it is not there.
        ArtifactError: it is another one.
    """
    own = TOYBOX_WEIGHTS / name.removeprefix(_TOYBOX) if name.startswith(_TOYBOX) else Path(name)
    place = own if given is None else given.expanduser()
    if not place.is_dir():
        raise ModelError(
            f"the image encoder that this motion was learned with should lie in {place}, which is no folder; say with "
            "--image-encoder where it lies."
        )
    encoder = load_image_encoder(place, device)
    if known is not None and _weights(encoder.id) != _weights(known):
        raise ArtifactError(
            f"this motion was learned with the image encoder {known}, and {place} holds {encoder.id}; say with "
            "--image-encoder where that one lies."
        )
    return encoder


def _weights(identity: str) -> str:
    """Kind and digits of an id; the folder's name in front may change."""
    return identity[identity.rfind("(") :]
