"""A garment on the person of a picture of any size; all else keeps its pixels."""

import dataclasses

import torch.nn.functional as F

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Photo
from pcs_ext.image.edits.region import whole
from pcs_ext.image.edits.try_on import TryOnConfig, put_on
from pcs_ext.image.levels import to_pil
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter


def try_on_picture(
    person: Photo,
    garment: Photo,
    prompt: str,
    *,
    seed: int,
    config: TryOnConfig,
    base: AbstractBackbone,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> GeneratedImage:
    """A picture as large as the person's.

    Args:
        person: its mask says where the garment goes.
        garment: its mask says where it is.
        prompt: describes what shall come out.
        seed: of the noise.
        config: how.
        base: loaded.
        negative_prompt: what to stay away from.
        reporter: hears the progress.

    Raises:
        UsageError: an empty prompt.
        InputError: a mask is missing, or marks nothing.
    """
    if not prompt.strip():
        raise UsageError('the prompt is empty; say what shall come out: "a photo of a man in a red shirt".')
    for photo, what in ((person, "where the garment goes"), (garment, "the garment")):
        if photo.mask is None:
            raise InputError(
                f"{photo.path} has no mask of {what}; put {photo.path.stem}_mask.png beside it, or name one."
            )
    assert person.mask is not None
    assert garment.mask is not None
    image, where = person.image[None], person.mask[None]
    region = whole(image, base)
    size = (region.height, region.width)
    painted = put_on(
        base, region.cut(image), F.interpolate(where, size=size, mode="area"), garment.image[None], garment.mask[None],
        prompt.strip(), seed=seed, config=config, negative_prompt=negative_prompt, reporter=reporter,
    )  # fmt: skip
    full = region.paste(image, painted, where, config.feather)
    facts = {
        "edit": config.id, "base": base.name, "garment": garment.path.name, "negative_prompt": negative_prompt,
        "seed": seed, "strength": config.strength,
        **dataclasses.asdict(config.sampling),
    }  # fmt: skip
    return GeneratedImage(to_pil(full[0]), prompt.strip(), facts)
