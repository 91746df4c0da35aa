"""FreeCure: what a subject's weights forgot of a prompt comes back from the base, by self-attention inside masks.

Cai et al. 2024, arXiv 2411.15277 (foundation-aware self-attention); the numbers are the released code's for SDXL.
Differs from it: the host is any learned subject instead of a pretrained face model, and masks are where the base's
attention finds words that the user names, instead of a face parser's parts.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.attention import self_attention_paths
from pcs_ext.image.attention_edits import AttentionEdit, Capture, on_cells
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.duet import duet, set_scale
from pcs_ext.image.edits.members import SHUT
from pcs_ext.image.locate import LocateConfig, word_maps
from pcs_ext.image.masks import attended, grown
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample


@config
class FreeCureConfig:
    """Which attention sees the base, and how much."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Of both branches, and of the base's first picture in which the words are found."""
    boost: float = 1.5
    """Added to the scores of the base's keys inside the mask."""
    layers: float = 0.29
    """Last share of the self-attentions, in order of the denoiser (20 of SDXL's 70), in (0, 1]."""
    last: float = 1.0
    """Share of the sampling, from pure noise on, in which the base is seen, in [0, 1]."""
    locate: LocateConfig = dataclasses.field(default_factory=LocateConfig)
    """How the words are found in the base's picture."""

    def __post_init__(self) -> None:
        if not 0 < self.layers <= 1 or not 0 <= self.last <= 1:
            raise ConfigError(f"layers {self.layers} or last {self.last} is out of range; expected shares in [0, 1].")


def freecure(preset: Preset) -> FreeCureConfig:
    """1.5 in the last 20 of 70 layers, all 50 steps. `toybox`: in the last 0.6 of its few layers, 25 steps."""
    small = preset == "toybox"
    return FreeCureConfig(
        id="freecure",
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 7.5
        ),
        layers=0.6 if small else 0.29,
        locate=LocateConfig(growth=1 if small else 0),
    )


@torch.no_grad()
def sample_cured(
    backbone: AbstractBackbone,
    adapters: Sequence[AbstractAdapter],
    prompt: str,
    plain: str,
    words: Sequence[int],
    *,
    seed: int,
    config: FreeCureConfig,
    negative_prompt: str = "",
) -> tuple[Tensor, Tensor]:
    """A picture of a subject, `1 3 h w` in [-1, 1], float32 on the CPU, and the mask `1 1 h w` of latent cells.

    Args:
        backbone: with the adapters injected.
        adapters: the subject's.
        prompt: with its words.
        plain: the same with its noun; the base draws it from the same noise.
        words: tokens of `plain` that shall come back: "a hat".
        seed: of the noise.
        config: how; `last` 0 is plain sampling of the subject.
        negative_prompt: what to stay away from.

    Raises:
        UsageError: the base's attention finds the words nowhere or everywhere.
    """
    guided = config.sampling.guidance_scale != 1.0
    set_scale(adapters, 0.0)
    clean: list[Tensor] = []
    sample(
        backbone, [plain], seeds=[seed], config=config.sampling, negative_prompts=[negative_prompt],
        hooks=SampleHooks(decode=lambda latents: backbone.decode_latents(clean.append(latents) or latents)),
    )  # fmt: skip
    maps = word_maps(backbone, clean[0], plain, config.locate)
    mask = grown(attended(maps, words, config.locate.threshold), config.locate.growth)
    size = (mask.shape[-2] * backbone.vae_factor, mask.shape[-1] * backbone.vae_factor)
    told = backbone.encode_pair(negative_prompt if guided else None, plain, size=size)
    set_scale(adapters, 1.0)
    if not mask.any() or mask.all():
        raise UsageError("attention finds these words nowhere in the base's picture; name others, or another seed.")
    host = BorrowedAttention(mask, row=int(guided), boost=config.boost)
    paths = last_layers(backbone, config.layers)
    places = (("keys", host.base_keys, host.longer_keys), ("values", host.base_values, host.longer_values))
    base = [AttentionEdit(program=seen, paths=paths, at=at, last=config.last) for at, seen, _ in places]  # type: ignore[arg-type]
    subject = [AttentionEdit(program=longer, paths=paths, at=at, last=config.last) for at, _, longer in places]  # type: ignore[arg-type]
    subject.append(AttentionEdit(program=host.inside, paths=paths, at="scores", last=config.last))
    hooks = SampleHooks(predict=duet(backbone, adapters, told, base, subject, guided=guided, last=config.last))
    both = sample(
        backbone, [plain, prompt], seeds=[seed] * 2, config=config.sampling, negative_prompts=[negative_prompt] * 2,
        hooks=hooks,
    )  # fmt: skip
    return both[1:], mask.cpu()


class BorrowedAttention:
    """Programs by which self-attention of one row also sees the base's keys and values, inside a mask.

    Args:
        mask: `1 1 h w` of latent cells, zeros and ones.
        row: of the batch that sees them; for the others they are shut off.
        boost: added to their scores.
    """

    def __init__(self, mask: Tensor, *, row: int, boost: float) -> None:
        self.mask, self.row, self.boost = mask, row, boost
        self.base_keys, self.base_values = Capture([row]), Capture([row])

    def longer_keys(self, path: str, keys: Tensor) -> Tensor:
        """`b 2n d`: the base's keys behind the row's own."""
        return self._longer(keys, self.base_keys.seen[path])

    def longer_values(self, path: str, values: Tensor) -> Tensor:
        """`b 2n d`: likewise."""
        return self._longer(values, self.base_values.seen[path])

    def _longer(self, own: Tensor, base: Tensor) -> Tensor:
        return torch.cat([own, base.to(own).expand_as(own)], dim=1)

    def inside(self, path: str, scores: Tensor) -> Tensor:
        """The base's cells in the mask are looked at with `boost`, all others of its not at all."""
        count = scores.shape[-1] // 2
        cells = on_cells(self.mask, count)[:, 0].to(scores) > 0.5
        added = torch.full_like(scores[..., count:], SHUT)
        added[self.row] = torch.where(cells, self.boost, SHUT)
        return torch.cat([scores[..., :count], scores[..., count:] + added], dim=-1)


def last_layers(backbone: AbstractBackbone, share: float) -> tuple[str, ...]:
    """The last self-attentions in order of the denoiser, at least one."""
    paths = self_attention_paths(backbone)
    return paths[len(paths) - max(1, round(share * len(paths))) :]
