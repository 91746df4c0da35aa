"""Every kind of adapter that shows clip models photos: its settings, and how an untrained one is made of them."""

from typing import Annotated, TypeAlias

import torch
from pydantic import Discriminator

from pcs_ext.image.reference.base import Reading
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.reference.base import AbstractClipReference, clip_model, transformer_model
from pcs_ext.video.reference.systems import (
    consisid,
    dreamoving,
    gen1,
    id_animator,
    motioncharacter,
    stylecrafter,
    sugar,
    videoassembler,
    videobooth,
    videomaker,
)

ClipKindConfig: TypeAlias = Annotated[
    id_animator.IDAnimatorConfig
    | videobooth.VideoBoothConfig
    | stylecrafter.StyleCrafterConfig
    | videomaker.VideoMakerConfig
    | motioncharacter.MotionCharacterConfig
    | videoassembler.VideoAssemblerConfig
    | gen1.Gen1Config
    | sugar.SugarConfig
    | consisid.ConsisIDConfig
    | dreamoving.DreaMovingConfig,
    Discriminator("kind"),
]
"""Settings of every kind; the field `kind` says which one a JSON object is."""

_KINDS: dict[type, type[AbstractClipReference]] = {
    id_animator.IDAnimatorConfig: id_animator.IDAnimator,
    videobooth.VideoBoothConfig: videobooth.VideoBooth,
    stylecrafter.StyleCrafterConfig: stylecrafter.StyleCrafter,
    videomaker.VideoMakerConfig: videomaker.VideoMaker,
    motioncharacter.MotionCharacterConfig: motioncharacter.MotionCharacter,
    videoassembler.VideoAssemblerConfig: videoassembler.VideoAssembler,
    gen1.Gen1Config: gen1.Gen1,
    sugar.SugarConfig: sugar.Sugar,
    consisid.ConsisIDConfig: consisid.ConsisID,
    dreamoving.DreaMovingConfig: dreamoving.DreaMoving,
}


def clip_adapter_class(config: ClipKindConfig) -> type[AbstractClipReference]:
    """The class that a kind's settings belong to: it says what is read of photos and prompts."""
    return _KINDS[type(config)]


def build_clip_adapter(
    config: ClipKindConfig, backbone: AbstractVideoBackbone, reading: Reading, *, seed: int = 0
) -> AbstractClipReference:
    """An untrained adapter.

    Args:
        config: of its kind.
        backbone: to be trained for.
        reading: what the image encoder gives.
        seed: of its networks.

    Raises:
        UsageError: the backbone is not of the kind that it is for.
    """
    (transformer_model if _KINDS[type(config)].transformer else clip_model)(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _KINDS[type(config)].untrained(config, backbone, reading, seed).to(backbone.device)
