"""A garment of one picture on the person of another, in two stages: shape, then texture.

In the spirit of PE-VITON (arXiv 2312.15480), of which only a summary is known here: a shape control module fits the
garment to the body, a texture guided one paints it. Nothing is trained here: the shape is a warp, row by row, of
outline to outline, and the texture is guided as in Diptych Prompting (arXiv 2411.15466), by attention to the garment
in a panel of its own.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, InputError
from pcs_ext.image.attention_edits import edited
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.blended import PutBack
from pcs_ext.image.edits.diptych import looking_left, on_white, squared
from pcs_ext.image.edits.region import check_sides
from pcs_ext.image.image_to_image import first_step
from pcs_ext.image.masks import bounding_box, cells_of
from pcs_ext.image.recipes import Preset
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.sample import SampleConfig, SampleHooks, build_scheduler, initial_noise, sample
from pcs_ext.reporter import Reporter


@config
class TryOnConfig:
    """How a garment is put on."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Of the person's picture; sides are the picture's."""
    strength: float = 0.6
    """Noise level at which the second stage takes over from the warped garment, as a share of the schedule, in (0, 1]:
    less keeps more of the warp."""
    attention: float = 1.3
    """What the person's panel pays to the garment's is multiplied by this; 1: the base's own attention."""
    feather: float = 0.02
    """Width of the soft edge inside the region, as a share of the picture's shorter side."""

    def __post_init__(self) -> None:
        check_sides(self.sampling)
        if not (0 < self.strength <= 1 and self.attention >= 0 and 0 <= self.feather <= 1):
            raise ConfigError(
                f"strength {self.strength}, attention {self.attention} or feather {self.feather} is out of range; "
                "expected a share in (0, 1], 0 or more, and a share in [0, 1]."
            )


def try_on(preset: Preset) -> TryOnConfig:
    """Every number is ours but the attention, which is Diptych Prompting's."""
    return TryOnConfig(id="try-on", sampling=SAMPLING[preset])


def fitted(garment: Tensor, outline: Tensor, region: Tensor) -> Tensor:
    """The garment stretched row by row over the region, `1 3 h w`; white outside of it (the first stage).

    A row of the region shows the row of the garment at the same share of its height, from end to end of that row's
    longest run, so that no ground is seen between a shirt and its sleeve.

    Args:
        garment: `1 3 h2 w2` in [-1, 1].
        outline: `1 1 h2 w2`, above 0.5 where the garment is.
        region: `1 1 h w`, above 0.5 where it goes.

    Raises:
        InputError: one of the two marks nothing.
    """
    for mask, what in ((outline, "the garment"), (region, "where the garment goes")):
        if not (mask > 0.5).any():
            raise InputError(f"the mask of {what} marks nothing; expected white there.")
    (gtop, gleft, gright), (top, left, right) = _extents(outline, longest=True), _extents(region)
    height, width = region.shape[-2:]
    rows = torch.arange(len(left))
    source = ((rows + 0.5) / len(left) * len(gleft) - 0.5).clamp(0, len(gleft) - 1)
    near = source.round().long()
    grid = torch.full((height, width, 2), -2.0)
    across = (torch.arange(width)[None] + 0.5 - left[:, None]) / (right - left).clamp_min(1)[:, None]
    x = gleft[near][:, None] + across * (gright - gleft)[near][:, None]
    y = (gtop + source + 0.5)[:, None].expand_as(x)
    sides = torch.tensor([garment.shape[-1], garment.shape[-2]])
    grid[top : top + len(left)] = torch.stack([x, y], -1) / sides * 2 - 1
    warped = F.grid_sample(garment, grid[None].to(garment), padding_mode="border", align_corners=False)
    return torch.where(region > 0.5, warped, torch.ones_like(warped))


def _extents(mask: Tensor, *, longest: bool = False) -> tuple[int, Tensor, Tensor]:
    """First row of a mask `1 1 h w`, and of each of its rows from there on the left and right end, exclusive.

    Rows between with nothing in them take the whole box's.

    Args:
        mask: above 0.5 inside.
        longest: of a row with gaps, the ends of its longest run; else of all of it.
    """
    left, top, right, bottom = bounding_box(mask)
    ends = [_ends(row, longest=longest) or (left, right) for row in mask[0, 0, top:bottom] > 0.5]
    first, last = torch.tensor(ends, dtype=torch.float32).T
    return top, first, last


def _ends(row: Tensor, *, longest: bool) -> tuple[int, int] | None:
    """Where a row of booleans is true, from and to (exclusive); None: nowhere."""
    steps = torch.diff(F.pad(row.int(), (1, 1)))
    starts, stops = (steps == 1).nonzero()[:, 0].tolist(), (steps == -1).nonzero()[:, 0].tolist()
    if not starts:
        return None
    if not longest:
        return starts[0], stops[-1]
    return max(zip(starts, stops, strict=True), key=lambda run: run[1] - run[0])


@torch.no_grad()
def put_on(
    backbone: AbstractBackbone,
    person: Tensor,
    region: Tensor,
    garment: Tensor,
    outline: Tensor,
    prompt: str,
    *,
    seed: int,
    config: TryOnConfig,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> Tensor:
    """The person in the garment, `1 3 h w` in [-1, 1], float32 on the CPU; only cells of the region are painted.

    Args:
        backbone: draws; adapters may be in it.
        person: `1 3 h w` in [-1, 1], sides as `edit_size` gives them.
        region: `1 1 h w`, where the garment goes.
        garment: `1 3 h2 w2`, of any size.
        outline: `1 1 h2 w2`, where in it the garment is.
        prompt: describes what shall come out.
        seed: of the noise.
        config: how.
        negative_prompt: what to stay away from.
        reporter: hears the progress.

    Raises:
        InputError: a mask that marks nothing.
    """
    height, width = person.shape[-2:]
    dressed = torch.where(region > 0.5, fitted(garment, outline, region), person)
    shown = panel(squared(on_white(garment, outline)), (height, width))
    canvas = dataclasses.replace(config.sampling, height=height, width=2 * width)
    pictures = torch.cat([shown, dressed], -1).to(backbone.device, backbone.dtype)
    known = backbone.encode_images(pictures).float()
    cells = cells_of(region, backbone.vae_factor).to(known)
    free = torch.cat([torch.zeros_like(cells), cells], -1)
    put_back = PutBack(backbone, known, free, canvas)
    scheduler = build_scheduler(backbone, canvas)
    first = first_step(scheduler.timesteps, config.strength * backbone.schedule.num_train_timesteps)
    noise = initial_noise(backbone, [seed], canvas).to(known)
    size = (known.shape[-2], known.shape[-1])
    made = sample(
        backbone, [prompt], seeds=[seed], config=canvas, negative_prompts=[negative_prompt], reporter=reporter,
        hooks=SampleHooks(
            predict=edited(backbone, looking_left(backbone, size, config.attention)),
            started=put_back.started,
            on_step=put_back.on_step,
            initial_latents=scheduler.add_noise(known, noise, scheduler.timesteps[first : first + 1]),
            first_step=first,
        ),
    )  # fmt: skip
    return made[..., width:]


def panel(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A square picture as large as fits a white panel of `size`, in its middle: `1 3 *size`."""
    side = min(size)
    small = F.interpolate(picture, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    rows, columns = size[0] - side, size[1] - side
    return F.pad(small, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), value=1.0)
