"""Diptych Prompting: a photo as the left panel of a picture of two, and its subject drawn into the right one.

Shin et al. 2024, arXiv 2411.15466; the numbers are the released code's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.attention import path_grid, self_attention_paths
from pcs_ext.image.attention_edits import AttentionEdit, edited
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.blended import PutBack
from pcs_ext.image.recipes import Preset
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.reporter import Reporter

_BOTH = (
    "A diptych with two side-by-side images of same {noun}. On the left, a photo of {noun}. On the right, replicate "
    "this {noun} exactly but as {prompt}"
)


@config
class DiptychConfig:
    """How a photo's subject is drawn beside it."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Of both panels together; height and width are the panels', the canvas is twice as wide."""
    attention: float = 1.3
    """What the right panel's cells pay to the left one's is multiplied by this after the softmax, and nothing is
    divided again; 1: the base's own attention."""
    template: str = _BOTH
    """What is asked of the whole canvas, with `{noun}` and `{prompt}`."""
    margin: float = 8 / 784
    """Of white around the photo, as a share of its panel: 8 of 784 pixels."""

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ConfigError(f"template {self.template!r} does not say {{prompt}}; put it where the prompt goes.")
        if self.attention < 0 or not 0 <= self.margin < 0.5:
            raise ConfigError(
                f"attention {self.attention} or margin {self.margin} is out of range; expected 0 or more, and a share "
                "in [0, 0.5)."
            )


def diptych(preset: Preset) -> DiptychConfig:
    """Attention 1.3 and the paper's prompt; `toybox`, which reads no such sentence: the prompt alone.

    Differs from the paper, whose base is FLUX with an inpainting ControlNet: a UNet whose left panel is put back after
    every step (blended diffusion), with that family's own sampling and guidance. A port, not a reproduction.
    """
    sampling = SAMPLING[preset]
    if preset == "toybox":
        return DiptychConfig(id="diptych", sampling=sampling, template="{prompt}")
    return DiptychConfig(id="diptych", sampling=sampling)


@torch.no_grad()
def draw_beside(
    backbone: AbstractBackbone,
    photo: Tensor,
    prompt: str,
    *,
    noun: str,
    seeds: tuple[int, ...],
    config: DiptychConfig,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> Tensor:
    """Right panels, `n 3 h w` in [-1, 1], float32 on the CPU; one per seed.

    Args:
        backbone: draws; adapters may be in it.
        photo: the subject before white, `1 3 h w` in [-1, 1], of any size; it is brought to the panel's.
        prompt: what the right panel shall be.
        noun: what the photo shows.
        seeds: of the noise.
        config: how.
        negative_prompt: what to stay away from.
        reporter: hears the progress.

    Raises:
        UsageError: no seed, or a panel that the base cannot draw.
    """
    if not seeds:
        raise UsageError("pictures need at least one seed, got none.")
    height, width = (side or backbone.resolution for side in (config.sampling.height, config.sampling.width))
    canvas = SampleConfig(
        scheduler=config.sampling.scheduler, num_inference_steps=config.sampling.num_inference_steps,
        guidance_scale=config.sampling.guidance_scale, height=height, width=2 * width,
    )  # fmt: skip
    left = framed(photo, (height, width), config.margin)
    # The right half is never read: it is drawn.
    known = backbone.encode_images(torch.cat([left, torch.ones_like(left)], -1).to(backbone.device, backbone.dtype))
    free = (torch.arange(known.shape[-1], device=known.device) >= known.shape[-1] // 2).float().expand(1, 1, 1, -1)
    put_back = PutBack(backbone, known.float(), free, canvas)
    text = config.template.replace("{noun}", noun).replace("{prompt}", prompt)
    made = sample(
        backbone,
        [text] * len(seeds),
        seeds=seeds,
        config=canvas,
        negative_prompts=[negative_prompt] * len(seeds),
        hooks=SampleHooks(
            predict=edited(backbone, looking_left(backbone, (known.shape[-2], known.shape[-1]), config.attention)),
            started=put_back.started,
            on_step=put_back.on_step,
        ),
        reporter=reporter,
    )
    return made[..., width:]


def framed(photo: Tensor, size: tuple[int, int], margin: float) -> Tensor:
    """The photo `1 3 h w` in a white frame, `1 3 *size`; the frame is `margin` times the shorter side wide."""
    width = round(margin * min(size))
    inner = (size[0] - 2 * width, size[1] - 2 * width)
    small = F.interpolate(photo, size=inner, mode="bicubic", antialias=True).clamp(-1, 1)
    return F.pad(small, (width, width, width, width), value=1.0)


def looking_left(backbone: AbstractBackbone, size: tuple[int, int], factor: float) -> list[AttentionEdit]:
    """Self-attention of the right half to the left one, times `factor`; no edit at all at 1.

    Args:
        backbone: whose self-attentions are meant.
        size: rows and columns of the canvas' latents.
        factor: 0 or more.
    """
    if factor == 1:
        return []
    return [
        AttentionEdit(program=LookLeft(path_grid(backbone, path, size)[1], factor), paths=(path,))
        for path in self_attention_paths(backbone)
    ]


class LookLeft:
    """A program on probabilities: those of right cells for left cells times a factor, rows then sum to more than 1.

    Args:
        columns: of the cells that the attention sees, row by row.
        factor: of the part from right to left.
    """

    def __init__(self, columns: int, factor: float) -> None:
        self.columns, self.factor = columns, factor

    def __call__(self, path: str, probabilities: Tensor) -> Tensor:
        right = torch.arange(probabilities.shape[-1], device=probabilities.device) % self.columns >= self.columns // 2
        crossing = right[:, None] & ~right
        return torch.where(crossing, self.factor * probabilities, probabilities)


def on_white(photo: Tensor, mask: Tensor) -> Tensor:
    """The subject of a photo `1 3 h w` alone, before white.

    Args:
        photo: in [-1, 1].
        mask: `1 1 h w` in [0, 1], of the subject.
    """
    return torch.lerp(torch.ones_like(photo), photo, mask)


def squared(picture: Tensor) -> Tensor:
    """A picture `1 3 h w` in the middle of the smallest white square that holds it."""
    height, width = picture.shape[-2:]
    rows, columns = max(width - height, 0), max(height - width, 0)
    return F.pad(picture, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), value=1.0)
