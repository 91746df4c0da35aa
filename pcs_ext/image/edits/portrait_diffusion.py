"""Portrait Diffusion: one picture's content painted in another one's manner, by attention to its features.

Liu et al. 2023, arXiv 2312.02212; the numbers are the released code's. Its chain of painting is this, done again with
other masks on what came out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.attention import decoder_paths, self_attention_paths, token_grid
from pcs_ext.image.attention_edits import AttentionEdit, Blend, edited
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.region import check_sides
from pcs_ext.image.inversion import invert
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.reporter import Reporter

_STYLE, _CONTENT, _TARGET = 0, 1, 2
_SHUT = -1e4
"""Added to scores that shall become no attention at all; finite in half precision."""


@config
class PortraitDiffusionConfig:
    """How a manner is taken over. Times are shares of the steps, from pure noise on, in [0, 1]."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Scheduler ddim; guidance 1: three branches are denoised side by side, two of them on inverted courses."""
    first: float = 0.08
    """When attention to the style's keys and values begins (step 4 of 50)."""
    free: float = 0.7
    """Until then the target asks the content's questions; from then on its own (step 35 of 50)."""
    style_guidance: float = 1.5
    """How far the target's answers go beyond the content's, once it asks its own questions; 1: not beyond."""
    blocks_left_out: int = 1
    """Decoder blocks with attention, coarsest first, that are left alone (layers from the tenth of 16 on)."""

    def __post_init__(self) -> None:
        check_sides(self.sampling)
        if self.sampling.scheduler != "ddim" or self.sampling.guidance_scale != 1.0:
            raise ConfigError(
                "Portrait Diffusion inverts with DDIM and samples without guidance; expected scheduler 'ddim' and "
                f"guidance_scale 1, got {self.sampling.scheduler!r} and {self.sampling.guidance_scale}."
            )
        if not (0 <= self.first <= self.free <= 1 and self.style_guidance >= 0 and self.blocks_left_out >= 0):
            raise ConfigError(
                f"first {self.first}, free {self.free}, style_guidance {self.style_guidance} or blocks_left_out "
                f"{self.blocks_left_out} is out of range; expected 0 <= first <= free <= 1, and 0 or more."
            )


def portrait_diffusion(preset: Preset) -> PortraitDiffusionConfig:
    """Steps 4 and 35 of 50, guidance 1.5, all decoder blocks but the coarsest."""
    steps = 25 if preset == "toybox" else 50
    return PortraitDiffusionConfig(
        id="portrait-diffusion",
        sampling=SampleConfig(scheduler="ddim", num_inference_steps=steps, guidance_scale=1.0),
    )


@torch.no_grad()
def restyle(
    backbone: AbstractBackbone,
    content: Tensor,
    style: Tensor,
    *,
    config: PortraitDiffusionConfig,
    prompt: str = "head",
    masks: tuple[Tensor, Tensor] | None = None,
    reporter: Reporter | None = None,
) -> Tensor:
    """The content in the manner of the style, `1 3 h w` in [-1, 1], float32 on the CPU.

    Args:
        backbone: any of a UNet; adapters may be in it.
        content, style: `1 3 h w` in [-1, 1], of one size that the base takes.
        config: how.
        prompt: describes both in a word or two (the released code's: head).
        masks: `1 1 h w` each, of content and style: what is inside looks at what is inside, outside at outside. Differs
            from the released code, whose content branch then gets the target's features: it keeps its own.
        reporter: hears the progress.

    Raises:
        UsageError: pictures of two sizes, or a mask with nothing inside or outside.
    """
    if content.shape != style.shape:
        raise UsageError(f"content and style must have one size, got {tuple(content.shape)} and {tuple(style.shape)}.")
    for mask in masks or ():
        if not 0 < float((mask > 0.5).float().mean()) < 1:
            raise UsageError("a mask must have something inside and something outside.")
    latents = torch.cat([backbone.encode_images(x.to(backbone.device, backbone.dtype)).float() for x in
                         (style, content)])  # fmt: skip
    states = invert(backbone, latents, [prompt] * 2, config=config.sampling, reporter=reporter)[::-1]
    size = (latents.shape[-2], latents.shape[-1])
    found: list[Tensor] = []
    sample(
        backbone, [prompt] * 3, seeds=[0] * 3, config=config.sampling, reporter=reporter,
        hooks=SampleHooks(
            predict=edited(backbone, manner_edits(backbone, config, size, masks)),
            on_step=lambda step, timestep, now: torch.cat([states[step + 1], now[_TARGET:]]),
            initial_latents=torch.cat([states[0], states[0][_CONTENT:]]),
            decode=lambda three: found.append(backbone.decode_latents(three[_TARGET:])) or three,
        ),
    )  # fmt: skip
    return found[0].float().cpu().clamp(-1, 1)


def manner_edits(
    backbone: AbstractBackbone,
    config: PortraitDiffusionConfig,
    size: tuple[int, int],
    masks: tuple[Tensor, Tensor] | None = None,
) -> list[AttentionEdit]:
    """What self-attentions of the finer decoder blocks do, for a batch of style, content and target.

    Content and target see the style's keys and values alone. The target first has the content's queries, then its own,
    and its output is moved away from the content's: content + guidance (target - content), which passes through the
    output projection unchanged because the weights sum to 1.
    """
    paths = decoder_paths(self_attention_paths(backbone))
    blocks = list(dict.fromkeys(path.split(".")[1] for path in paths))[config.blocks_left_out :]
    paths = tuple(path for path in paths if path.split(".")[1] in blocks)
    taken = Blend([_STYLE, _STYLE], [_CONTENT, _TARGET])
    asked = Blend([_CONTENT], [_TARGET])
    beyond = Blend([_CONTENT], [_TARGET], weight=1 - config.style_guidance)
    edits = [
        AttentionEdit(program=taken, paths=paths, at="keys", first=config.first),
        AttentionEdit(program=taken, paths=paths, at="values", first=config.first),
        AttentionEdit(program=asked, paths=paths, at="queries", first=config.first, last=config.free),
        AttentionEdit(program=beyond, paths=paths, at="output", first=config.free),
    ]
    if masks is not None:
        edits.append(AttentionEdit(program=Matched(*masks, size), paths=paths, at="scores", first=config.first))
    return edits


class Matched:
    """A program on scores: cells of content and target see cells of the style on the same side of the masks.

    Args:
        content, style: masks of pixels, `1 1 h w`.
        size: rows and columns of the latents.
    """

    def __init__(self, content: Tensor, style: Tensor, size: tuple[int, int]) -> None:
        self.content, self.style, self.size = content, style, size

    def __call__(self, path: str, scores: Tensor) -> Tensor:
        asks, answers = (self._inside(mask, scores.shape[-2]) for mask in (self.content, self.style))
        apart = (asks[:, None] != answers).to(scores.device)
        later = torch.where(apart, scores[_CONTENT:] + _SHUT, scores[_CONTENT:])
        return torch.cat([scores[:_CONTENT], later])

    def _inside(self, mask: Tensor, cells: int) -> Tensor:
        """`cells` bool; the fullest cell is inside and the emptiest is not, so that nobody looks at nothing."""
        share = F.interpolate(mask.float(), size=token_grid(cells, self.size), mode="area").flatten()
        inside = share > 0.5
        inside[share.argmax()], inside[share.argmin()] = True, False
        return inside
