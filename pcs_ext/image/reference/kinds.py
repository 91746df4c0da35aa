"""Every kind of reference adapter: its settings, and how an untrained one is made of them."""

from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference import (
    blip_diffusion,
    e4t,
    elite,
    fastcomposer,
    instantbooth,
    ip_adapter,
    photomaker,
    ssr_encoder,
)
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading

KindConfig: TypeAlias = Annotated[
    ip_adapter.IPAdapterConfig
    | photomaker.PhotoMakerConfig
    | fastcomposer.FastComposerConfig
    | elite.EliteConfig
    | ssr_encoder.SSREncoderConfig
    | instantbooth.InstantBoothConfig
    | blip_diffusion.BlipDiffusionConfig
    | e4t.E4TConfig,
    Discriminator("kind"),
]
"""Settings of every kind; the field `kind` says which one a JSON object is."""

_KINDS: dict[type, tuple[type[AbstractReferenceAdapter], Any]] = {
    ip_adapter.IPAdapterConfig: (ip_adapter.IPAdapter, ip_adapter.build),
    photomaker.PhotoMakerConfig: (photomaker.PhotoMaker, photomaker.build),
    fastcomposer.FastComposerConfig: (fastcomposer.FastComposer, fastcomposer.build),
    elite.EliteConfig: (elite.Elite, elite.build),
    ssr_encoder.SSREncoderConfig: (ssr_encoder.SSREncoder, ssr_encoder.build),
    instantbooth.InstantBoothConfig: (instantbooth.InstantBooth, instantbooth.build),
    blip_diffusion.BlipDiffusionConfig: (blip_diffusion.BlipDiffusion, blip_diffusion.build),
    e4t.E4TConfig: (e4t.E4T, e4t.build),
}


def adapter_class(config: KindConfig) -> type[AbstractReferenceAdapter]:
    """The class that a kind's settings belong to: it says what is read of pictures and prompts."""
    return _KINDS[type(config)][0]


def build_adapter(
    config: KindConfig, backbone: AbstractBackbone, reading: Reading, *, seed: int = 0
) -> AbstractReferenceAdapter:
    """An untrained adapter.

    Args:
        config: of its kind.
        backbone: to be trained for.
        reading: what the image encoder gives.
        seed: of its networks.
    """
    return _KINDS[type(config)][1](config, backbone, reading, seed)
