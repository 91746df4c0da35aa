"""Tiny systems that show clip models photos, and folders of clips for them to learn from."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from pcs_ext.image.reference.encoder import PictureEncoder, open_encoder
from pcs_ext.image.reference.files import reading_of
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.clips import write_clip
from pcs_ext.video.reference.base import AbstractClipReference
from pcs_ext.video.reference.kinds import ClipKindConfig, build_clip_adapter, clip_adapter_class
from pcs_ext.video.reference.systems.consisid import ConsisIDConfig
from pcs_ext.video.reference.systems.dreamoving import DreaMovingConfig
from pcs_ext.video.reference.systems.gen1 import Gen1Config
from pcs_ext.video.reference.systems.id_animator import IDAnimatorConfig
from pcs_ext.video.reference.systems.motioncharacter import MotionCharacterConfig
from pcs_ext.video.reference.systems.stylecrafter import StyleCrafterConfig
from pcs_ext.video.reference.systems.sugar import SugarConfig
from pcs_ext.video.reference.systems.videoassembler import VideoAssemblerConfig
from pcs_ext.video.reference.systems.videobooth import VideoBoothConfig
from pcs_ext.video.reference.systems.videomaker import VideoMakerConfig
from tests.support.tiny import tiny_backbone
from tests.support.tiny_video import tiny_motion_adapter
from tests.support.tiny_wan import tiny_wan

TINY_CLIP_SYSTEMS: dict[str, ClipKindConfig] = {
    "id-animator": IDAnimatorConfig(tokens=2, inner=16, heads=1, depth=1, rank=2),
    "videobooth": VideoBoothConfig(hidden=16),
    "stylecrafter": StyleCrafterConfig(tokens=2, depth=1, scale_depth=1, heads=2),
    "videomaker": VideoMakerConfig(),
    "motioncharacter": MotionCharacterConfig(tokens=2, inner=16, heads=2),
    "videoassembler": VideoAssemblerConfig(hidden=4, tokens=2, inner=16, heads=1, depth=1),
    "gen-1": Gen1Config(structure="edges", halvings=2, still_share=0.0),
    "sugar": SugarConfig(hidden=16),
    "consisid": ConsisIDConfig(
        queries=2, identity_tokens=1, depth=5, heads=1, details=16, perceiver_heads=2, perceiver_head_width=8
    ),
    "dreamoving": DreaMovingConfig(structure="edges", face_tokens=2, cloth_tokens=2, inner=16, heads=1, depth=1),
}
"""Every system at a size of a few thousand weights."""


def tiny_clip_base(system: str, folder: Path, *, prediction_type: str = "epsilon") -> AbstractVideoBackbone:
    """What a system is for: an image model with motion modules, or a video transformer."""
    if clip_adapter_class(TINY_CLIP_SYSTEMS[system]).transformer:
        return load_video_backbone(tiny_wan(folder / "wan"), device="cpu", precision="fp32")
    sd: Any = tiny_backbone(folder / "sd", prediction_type=prediction_type)
    return AnimateDiffBackbone(sd, tiny_motion_adapter(), name="tiny")


def tiny_clip_system(
    system: str, video: AbstractVideoBackbone, eye: Path, *, seed: int = 0
) -> tuple[AbstractClipReference, PictureEncoder]:
    """An untrained adapter of a system and the encoder it reads, in the folder `tiny_vision` wrote."""
    config = TINY_CLIP_SYSTEMS[system]
    kind = clip_adapter_class(config)
    encoder = open_encoder(eye, kind.sees, depths=kind.depths)
    return build_clip_adapter(config, video, reading_of(encoder), seed=seed), encoder


def clip_albums(folder: Path, *, frames: int = 5, photos: bool = False) -> Path:
    """A subfolder of a red dog and one of a blue cat, each a clip of a rectangle that moves, and masked photos; the
    folder."""
    for noun, colour in (("dog", (220, 30, 30)), ("cat", (30, 30, 220))):
        place = folder / noun
        place.mkdir(parents=True)
        pixels = torch.full((frames, 3, 36, 36), 240, dtype=torch.uint8)
        for index in range(frames):
            pixels[index, :, 8:24, 3 * index : 3 * index + 14] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
        write_clip(pixels, place / "0.mp4", fps=8)
        (place / "0.txt").write_text(f"a photo of the {noun}")
        (place / "noun.txt").write_text(f"{noun}\n")
        if photos:
            picture, mask = Image.new("RGB", (40, 32), "gray"), Image.new("L", (40, 32))
            ImageDraw.Draw(picture).rectangle((6, 6, 24, 26), fill=colour)
            ImageDraw.Draw(mask).rectangle((6, 6, 24, 26), fill=255)
            picture.save(place / "photo.png")
            mask.save(place / "photo_mask.png")
    return folder
