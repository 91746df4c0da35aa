"""Toybox's own judges: its CLIP pair, its self-supervised encoder and its oracle, behind the core's interfaces."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.config_io import file_sha256
from pcs_ext.image.evaluate import Judges, load_image_encoder, load_image_text_encoder
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.oracle import Oracle


@dataclasses.dataclass(frozen=True, kw_only=True)
class OracleReader:
    """The oracle as an `AttributeReader`."""

    id: str
    oracle: Oracle

    def __call__(self, images: Tensor) -> list[dict[str, str]]:
        """Attributes of images `b 3 h w` in [-1, 1] at the oracle's resolution."""
        return self.oracle.read(images)


def toybox_judges(device: torch.device | str = "cpu") -> Judges:
    """The judges that ship with toybox.

    Raises:
        ModelError: one of their folders is missing.
    """
    oracle = Oracle.load(weights_path("oracle"))
    digest = file_sha256(weights_path("oracle") / "model.safetensors")
    return Judges(
        clip=load_image_text_encoder(weights_path("clip"), device),
        dino=load_image_encoder(weights_path("dino"), device),
        attributes=OracleReader(id=f"oracle ({digest[:8]})", oracle=oracle),
    )
