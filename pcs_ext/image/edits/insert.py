"""A subject from another picture placed into a scene, and changed by a prompt, without learning it (TIGIC).

Tuning-free image customization with image and text guidance (Li et al., ECCV 2024, arXiv 2403.12658).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, InputError
from pcs_ext.image.attention import decoder_paths, self_attention_paths
from pcs_ext.image.attention_edits import AttentionEdit, Blend, branch_rows, edited
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.region import check_sides
from pcs_ext.image.inversion import invert
from pcs_ext.image.masks import bounding_box, cells_of, grown, inside_only
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.reporter import Reporter


@config
class InsertConfig:
    """How a subject is placed. Durations are shares of the steps, from pure noise on, in [0, 1]."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Scheduler ddim, which can be run backwards."""
    inversion_iterations: int = 1
    """Predictions per step of inversion (see `invert`)."""
    subject: float = 0.6
    """How far self-attention inside the region is the pasted subject's, in [0, 1]; the rest is the prompt's own."""
    subject_last: float = 0.6
    """How long."""
    scene_last: float = 0.8
    """How long self-attention outside of the region is the scene's."""
    growth: float = 0.05
    """How far the region reaches beyond the subject's outline, as a share of the box."""
    feather: float = 0.02
    """Width of the soft edge inside the region, as a share of the picture's shorter side."""

    def __post_init__(self) -> None:
        check_sides(self.sampling)
        shares = ("subject", "subject_last", "scene_last", "growth", "feather")
        wrong = {name: getattr(self, name) for name in shares if not 0 <= getattr(self, name) <= 1}
        if wrong:
            raise ConfigError(f"{wrong} is out of range; expected shares in [0, 1].")
        if self.sampling.scheduler != "ddim":
            raise ConfigError(f"expected scheduler 'ddim', which can be inverted; got {self.sampling.scheduler!r}.")


def tigic(preset: Preset) -> InsertConfig:
    """20 steps at guidance 5, as released; how long and how far features are blended is ours.

    Differs from TIGIC: DDIM is inverted instead of DPM-Solver++; blended are the outputs of the decoder's
    self-attentions of three branches, scene, collage and edit, by place (the paper's rule could not be read).
    """
    del preset
    return InsertConfig(id="tigic", sampling=SampleConfig(scheduler="ddim", num_inference_steps=20, guidance_scale=5.0))


def collage(scene: Tensor, picture: Tensor, mask: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """The scene with what a mask cuts out of another picture, as large as fits the box, at its bottom in the middle.

    Args:
        scene: `1 3 h w`.
        picture: `1 3 h2 w2`.
        mask: `1 1 h2 w2`.
        box: in the scene.

    Returns:
        The collage `1 3 h w`, and where the subject lies in it, `1 1 h w` of zeros and ones.

    Raises:
        InputError: the mask marks nothing.
    """
    if not (mask > 0.5).any():
        raise InputError("the subject's mask marks nothing; expected white where the subject is.")
    height, width = scene.shape[-2:]
    left, top, right, bottom = bounding_box(mask)
    room = (round((box.bottom - box.top) * height), round((box.right - box.left) * width))
    scale = min(room[0] / (bottom - top), room[1] / (right - left))
    size = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    cut = [x[..., top:bottom, left:right] for x in (picture, mask.float())]
    cut = [F.interpolate(x, size=size, mode="bicubic", antialias=True) for x in cut]
    y = min(round(box.bottom * height), height) - size[0]
    x = round((box.left + box.right) / 2 * width - size[1] / 2)
    y, x = max(y, 0), min(max(x, 0), width - size[1])
    placed, where = scene.clone(), torch.zeros(1, 1, height, width)
    alpha = cut[1].clamp(0, 1)
    place = (..., slice(y, y + size[0]), slice(x, x + size[1]))
    placed[place] = torch.lerp(placed[place], cut[0].clamp(-1, 1), alpha)
    where[place] = (alpha > 0.5).float()
    return placed, where


def insert(
    backbone: AbstractBackbone,
    scene: Tensor,
    pasted: Tensor,
    region: Tensor,
    *,
    scene_prompt: str,
    prompt: str,
    config: InsertConfig,
    reporter: Reporter | None = None,
) -> Tensor:
    """The scene with the pasted subject made part of it, as `prompt` says; `1 3 h w` in [-1, 1], float32, CPU.

    Outside of the region the latents are the scene's, bit for bit.

    Args:
        backbone: predicts.
        scene, pasted: the scene and the collage, `1 3 h w` in [-1, 1], sides as `edit_size` gives them.
        region: `1 1 h w`, above 0.5 where the scene may change.
        scene_prompt: describes the scene as it is.
        prompt: describes what shall come out.
        config: how.
        reporter: hears the progress.
    """
    with torch.no_grad():
        both = torch.cat([scene, pasted]).to(backbone.device, backbone.dtype)
        plain = dataclasses.replace(config.sampling, guidance_scale=1.0)
        states = invert(
            backbone, backbone.encode_images(both).float(), [scene_prompt, prompt], config=plain,
            fixed_point_iterations=config.inversion_iterations, reporter=reporter,
        )  # fmt: skip
        inside = cells_of(region, backbone.vae_factor).to(backbone.device)
        found: list[Tensor] = []

        def on_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            known = states[-2 - step]
            return torch.cat([known, inside_only(latents[2:], known[:1], inside)])

        start = inside_only(states[-1][1:], states[-1][:1], inside)
        hooks = SampleHooks(
            predict=edited(backbone, insert_edits(backbone, config, inside)),
            on_step=on_step,
            initial_latents=torch.cat([states[-1], start]),
            decode=lambda latents: found.append(latents[2:]) or latents,
        )
        sample(backbone, [scene_prompt, prompt, prompt], seeds=[0] * 3, config=config.sampling, hooks=hooks,
               reporter=reporter)  # fmt: skip
        return backbone.decode_latents(found[0].to(backbone.dtype)).float().cpu().clamp(-1, 1)


def insert_edits(backbone: AbstractBackbone, config: InsertConfig, inside: Tensor) -> list[AttentionEdit]:
    """What the edit (third branch) takes from scene (first) and collage (second), in the decoder."""
    guided = config.sampling.guidance_scale != 1.0
    scene, subject, edit = (branch_rows(branch, 3, guided=guided) for branch in range(3))
    paths = decoder_paths(self_attention_paths(backbone))
    return [
        AttentionEdit(program=Blend(scene, edit, weight=1 - inside), paths=paths, at="output", last=config.scene_last),
        AttentionEdit(
            program=Blend(subject, edit, weight=config.subject * inside),
            paths=paths,
            at="output",
            last=config.subject_last,
        ),
    ]


def region_of(where: Tensor, box: Box, growth: float) -> Tensor:
    """The subject's outline `1 1 h w`, grown by a share of the box's longer side."""
    height, width = where.shape[-2:]
    longer = max((box.bottom - box.top) * height, (box.right - box.left) * width)
    return grown(where, round(growth * longer))
