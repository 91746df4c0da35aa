"""Tiny systems that show clip models photos, and folders of clips for them to learn from."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from pcs_ext.image.reference.encoder import PictureEncoder, open_encoder
from pcs_ext.image.reference.files import reading_of
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.clips import write_clip
from pcs_ext.video.reference.base import AbstractClipReference
from pcs_ext.video.reference.kinds import ClipKindConfig, build_clip_adapter, clip_adapter_class
from pcs_ext.video.reference.systems.id_animator import IDAnimatorConfig
from pcs_ext.video.reference.systems.stylecrafter import StyleCrafterConfig
from pcs_ext.video.reference.systems.videobooth import VideoBoothConfig
from pcs_ext.video.reference.systems.videomaker import VideoMakerConfig

TINY_CLIP_SYSTEMS: dict[str, ClipKindConfig] = {
    "id-animator": IDAnimatorConfig(tokens=2, inner=16, heads=1, depth=1, rank=2),
    "videobooth": VideoBoothConfig(hidden=16),
    "stylecrafter": StyleCrafterConfig(tokens=2, depth=1, scale_depth=1, heads=2),
    "videomaker": VideoMakerConfig(),
}
"""Every system at a size of a few thousand weights."""


def tiny_clip_system(
    system: str, video: AnimateDiffBackbone, eye: Path, *, seed: int = 0
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
