"""Commands that draw in panels: parse, call, report. Heavy modules are imported inside the functions."""

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from pcs_ext.command_options import (
    MACHINE,
    PICTURES,
    SAMPLING,
    Machine,
    Picture,
    Pictures,
    Sampling,
    console_reporter,
    print_paths,
)


def diptych(
    photo: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    noun: str,
    mask: Path | None = None,
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    base: str = "toybox",
    sampling: Sampling = SAMPLING,
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Draw what a photo shows anew, beside the photo; nothing is learned.

    Args:
        photo: shows the subject; it stays as it is.
        prompts: what shall be drawn, with {subject} for the noun: "a photo of {subject} on the beach".
        noun: what the photo shows: dog.
        mask: white where the subject is; by default PHOTO_mask.png or the alpha channel, else the base looks for NOUN.
        negative_prompt: what to stay away from.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        config: the method's settings as JSON.
    """
    from pcs_ext.image.data import one_photo
    from pcs_ext.image.edits.diptych import DiptychConfig
    from pcs_ext.image.edits.diptych_pictures import draw_diptychs
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.subject import save_images

    settings = resolve_edit("diptych", DiptychConfig, base, config, **sampling.asked)
    made = draw_diptychs(
        one_photo(photo, mask), prompts, noun=noun, seeds=pictures.seeds_for(prompts), config=settings,
        negative_prompt=negative_prompt, base=base, **machine.loading, reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(made, pictures.output))


def try_on(
    person: Positional[Path],
    garment: Positional[Path],
    prompt: Positional[str],
    written: Picture,
    mask: Path | None = None,
    garment_mask: Path | None = None,
    negative_prompt: str = "",
    seed: int = 0,
    base: str = "toybox",
    sampling: Sampling = SAMPLING,
    config: Path | None = None,
    adapter: str = "",
    map: tuple[str, ...] = (),
    machine: Machine = MACHINE,
) -> None:
    """Put a garment of one picture on the person of another; all else keeps its pixels.

    Nothing is learned for it, unless --adapter names one that was trained (PE-VITON).

    Args:
        person: the picture; it stays as it is.
        garment: shows the garment.
        prompt: describes what shall come out: "a photo of a man in a striped shirt".
        mask: white where the garment goes; by default PERSON_mask.png or the alpha channel.
        garment_mask: white where the garment is; by default GARMENT_mask.png or the alpha channel.
        negative_prompt: what to stay away from.
        seed: of the noise.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        config: the method's settings as JSON.
        adapter: folder that `reference learn --system pe-viton` wrote (or anydoor); empty: nothing trained.
        map: condition maps of the person that the adapter reads, pose=FILE.
    """
    from pcs_ext.errors import UsageError
    from pcs_ext.image.backbones.load import load_backbone
    from pcs_ext.image.data import one_photo
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.edits.try_on import TryOnConfig
    from pcs_ext.image.edits.try_on_picture import try_on_picture
    from pcs_ext.image.edits.try_on_trained import dress_picture

    written.check(person, garment, *(path for path in (mask, garment_mask) if path is not None))
    if map and not adapter:
        raise UsageError("--map is read by trained adapters alone; pass one with --adapter, or leave out --map.")
    settings = resolve_edit("try-on", TryOnConfig, base, config, **sampling.asked)
    photos = one_photo(person, mask), one_photo(garment, garment_mask)
    told: dict[str, Any] = {
        "seed": seed, "config": settings, "base": load_backbone(base, **machine.loading),
        "negative_prompt": negative_prompt, "reporter": console_reporter(),
    }  # fmt: skip
    if adapter:
        made = dress_picture(*photos, prompt, adapter=adapter, maps=map, **told)
    else:
        made = try_on_picture(*photos, prompt, **told)
    made.save(written.output)
    print_paths([written.output])
