"""A garment on the person of a picture of any size, by an adapter that was trained to fill holes with what it is shown.

The other half of the command, `pcs_ext.image.edits.try_on`, needs nothing trained.
"""

import dataclasses
from collections.abc import Sequence

import torch.nn.functional as F

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Photo
from pcs_ext.image.edits.region import Region
from pcs_ext.image.edits.try_on import TryOnConfig
from pcs_ext.image.levels import to_pil
from pcs_ext.image.reference.facts import with_facts
from pcs_ext.image.reference.files import open_adapter
from pcs_ext.image.reference.inpaint import filled
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter, SilentReporter


def dress_picture(
    person: Photo,
    garment: Photo,
    prompt: str,
    *,
    adapter: str,
    maps: Sequence[str] = (),
    seed: int,
    config: TryOnConfig,
    base: AbstractBackbone,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> GeneratedImage:
    """A picture as large as the person's; all outside of the person's mask keeps its pixels.

    Args:
        person: its mask says where the garment may go.
        garment: its mask says where it is; without one, all of the picture is garment.
        prompt: describes what shall come out.
        adapter: see `open_adapter`; one that puts things into photos (`pe-viton`, `anydoor`).
        maps: see `show`, of the person's picture.
        seed: of the noise.
        config: of it sampling and feather count.
        base: loaded.
        negative_prompt: what to stay away from.
        reporter: hears the progress.

    Raises:
        UsageError: an empty prompt, an adapter that sees no picture to put things into, or maps that it does not read.
        InputError: the person's mask is missing, or marks nothing.
        ModelError, ArtifactError: see `open_adapter`.
    """
    reporter = reporter or SilentReporter()
    if not prompt.strip():
        raise UsageError('the prompt is empty; say what shall come out: "a photo of a man in a red shirt".')
    if person.mask is None or not (person.mask > 0.5).any():
        raise InputError(
            f"{person.path} has no mask of where the garment goes, or one that marks nothing; put "
            f"{person.path.stem}_mask.png beside it, or name one."
        )
    opened = open_adapter(base, adapter)
    if not opened.adapter.asks_scene:
        raise UsageError(
            f"{adapter} does not put what it is shown into a picture; expected an adapter that does (`pcs-ext "
            "reference learn --system pe-viton`, or anydoor)."
        )
    reference = seen_by(opened, [garment], scale=1.0, nouns=(), maps=maps)
    image, where = person.image[None], (person.mask[None] > 0.5).float()
    region = _whole(person, base)
    size = (region.height, region.width)
    hole = (F.interpolate(where, size=size, mode="area") > 0).float()
    sampling = dataclasses.replace(config.sampling, height=size[0], width=size[1])
    made = filled(
        base, reference, region.cut(image)[0], hole[0], prompt.strip(), [seed], sampling, negative_prompt, reporter
    )
    full = region.paste(image, made, where, config.feather)
    facts = {
        "edit": config.id, "base": base.name, "garment": garment.path.name, "negative_prompt": negative_prompt,
        "adapter": adapter, "seed": seed,
        **dataclasses.asdict(sampling),
    }  # fmt: skip
    drawn = GeneratedImage(to_pil(full[0]), prompt.strip(), facts)
    return with_facts([drawn], reference, {drawn.prompt: drawn.prompt}, 1, None, reporter)[0]


def _whole(person: Photo, backbone: AbstractBackbone) -> Region:
    """All of a picture, its shorter side as long as the base draws: adapters were trained on pictures no smaller."""
    height, width = person.image.shape[1:]
    unit = backbone.vae_factor * 2 ** (len(backbone.denoiser.config["block_out_channels"]) - 1)
    scale = backbone.resolution / min(height, width) / unit
    return Region(0, 0, width, height, unit * round(height * scale), unit * round(width * scale))
