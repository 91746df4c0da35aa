"""Commands that tell learned subjects more than words do: parse, call, report. Heavy modules are imported inside."""

from pathlib import Path

from tyro.conf import Positional

from pcs_ext.command_options import (
    MACHINE,
    PICTURES,
    SAMPLING,
    Machine,
    Pictures,
    Sampling,
    console_reporter,
    print_paths,
)


def guide(
    subjects: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    box: tuple[str, ...] = (),
    region: tuple[str, ...] = (),
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    scale: float = 1.0,
    sampling: Sampling = SAMPLING,
    base: str = "",
    machine: Machine = MACHINE,
) -> None:
    """Generate images of subjects that were learned with a segmentation map, each in its own region.

    Learn them first: pcs-ext learn PHOTOS --noun "robot, mug" --recipe matsuda -o both

    Args:
        subjects: folder written by `learn --recipe matsuda`.
        prompts: texts with {subject} for all, or with <robot> and <mug> by name.
        box: "NAME: LEFT TOP RIGHT BOTTOM" in shares of the picture, as "robot: 0.1 0.2 0.5 0.9".
        region: NAME=FILE, a picture that is white where that subject shall be.
        negative_prompt: what to stay away from.
        scale: strength of the learned subjects, 1 as trained.
        base: another base of the same family than the one they were learned on.
    """
    from pcs_ext.image.edits.boxes import parse_box
    from pcs_ext.image.guided_pictures import box_regions, draw_guided, read_region, united
    from pcs_ext.image.subject import Artifact, save_images

    regions = united([*box_regions([parse_box(text) for text in box]), *(read_region(text) for text in region)])
    made = draw_guided(
        Artifact.load(subjects), prompts, regions, seeds=pictures.seeds_for(prompts), negative_prompt=negative_prompt,
        steps=sampling.steps or None, guidance_scale=sampling.guidance_scale or None, scale=scale, base=base or None,
        **machine.loading, reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(made, pictures.output))


def view(
    subject: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    azimuth: tuple[float, ...] = (),
    elevation: float | None = None,
    distance: float = 1.0,
    cameras: Path | None = None,
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    scale: float = 1.0,
    sampling: Sampling = SAMPLING,
    base: str = "",
    machine: Machine = MACHINE,
) -> None:
    """Generate images of a learned subject as it is seen from given cameras.

    Learn it first, from about 50 photos with masks and a transforms.json:
    pcs-ext learn PHOTOS --noun dog --recipe viewpoint-control -o rex

    Args:
        subject: folder written by `learn --recipe viewpoint-control`.
        prompts: texts with {subject} where the subject goes.
        azimuth: degrees around the subject, one image each: 0 looks along +y of the photos' world, 90 comes from +x.
        elevation: degrees above the horizon, which is level to the photos' cameras; by default as they are on average.
        distance: times the photos' mean.
        cameras: a transforms.json in the photos' world instead: an image for each of its frames.
        negative_prompt: what to stay away from.
        scale: strength of the learned subject, 1 as trained.
        base: another base of the same family than the one it was learned on.
    """
    from pcs_ext.errors import UsageError
    from pcs_ext.image.subject import Artifact, save_images
    from pcs_ext.image.viewed_pictures import around, cameras_of, draw_viewed

    if (cameras is None) == (not azimuth):
        raise UsageError("say from where: --azimuth 0 90 180, or --cameras transforms.json, one of the two.")
    learned = Artifact.load(subject)
    where = around(learned, azimuth, elevation, distance) if cameras is None else cameras_of(cameras)
    seeds = pictures.seeds_for(prompts * len(where))
    made = draw_viewed(
        learned, prompts, where, seeds=seeds, negative_prompt=negative_prompt, steps=sampling.steps or None,
        guidance_scale=sampling.guidance_scale or None, scale=scale, base=base or None, **machine.loading,
        reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(made, pictures.output))
