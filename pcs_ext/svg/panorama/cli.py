"""Commands for panoramas: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pcs_ext.command_options import MACHINE, Machine, Output, console_reporter
from pcs_ext.errors import UsageError


def make(
    prompt: Positional[str],
    output: Output,
    subject: Path | None = None,
    look: str = "",
    base: str = "",
    seeds: tuple[int, ...] = (0,),
    method: Literal["auto", "padded", "circular", "stitch", "multidiffusion"] = "auto",
    window: Literal["auto", "wide", "square"] = "auto",
    steps: int = 0,
    guidance_scale: float = 0.0,
    height: int = 0,
    viewer: bool = True,
    overwrite: bool = False,
    machine: Machine = MACHINE,
) -> None:
    """Make a 360 degree panorama and a page to look around in.

    Its ends meet, and it is marked for photo viewers.

    Args:
        prompt: what is around; with {subject} where a learned subject goes.
        output: JPEG, PNG or WebP; with several seeds, each file has its seed in its name.
        subject: folder of a subject from `pcs-ext learn`.
        look: folder that `pcs-ext learn PANORAMAS --recipe stitchdiffusion` wrote; toybox has its own; `none`: no look.
        base: model; default: what the look or the subject was learned on, else toybox.
        seeds: one panorama each.
        method: padded (seamless, whole), circular (seamless, in windows), stitch (StitchDiffusion's canvas),
            multidiffusion (ends do not meet); auto: padded where a UNet sees the whole panorama, else circular.
        window: what the model sees at once: wide (the whole panorama) or square; auto: wide with a look.
        steps: denoising steps; 0 takes the saved or default number.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the saved or default one.
        height: pixels; 0 takes the base's resolution. The width is twice that.
        viewer: an HTML file beside the panorama in which one looks around; --no-viewer leaves it out.
        overwrite: replace files that are there.
    """
    from pcs_ext.config_io import check_output
    from pcs_ext.image.subject import Artifact
    from pcs_ext.svg.panorama.make import default_config, make_panoramas, overridden, own_look, panorama_files
    from pcs_ext.svg.panorama.metadata import check_target
    from pcs_ext.svg.panorama.viewer import write_viewer

    if window == "square" and method in ("padded", "stitch"):
        raise UsageError(f"--method {method} sees the whole panorama at once; choose circular, or leave --window out.")
    check_target(output)
    for path in panorama_files(output, seeds):
        check_output(path, overwrite)
        if viewer:
            check_output(path.with_suffix(".html"), overwrite)
    of = None if subject is None else Artifact.load(subject)
    named = base or ("toybox" if of is None else of.data.base_name)
    seen = None if look == "none" else Artifact.load(Path(look)) if look else own_look(named)
    config = overridden(
        default_config([artifact for artifact in (seen, of) if artifact is not None]),
        method=method,
        window=None if window == "auto" else window,
        num_inference_steps=steps or None,
        guidance_scale=guidance_scale or None,
        height=height or None,
    )
    made = make_panoramas(
        prompt,
        output,
        subject=of,
        look=seen,
        base=base or None,
        seeds=seeds,
        config=config,
        **machine.loading,
        reporter=console_reporter(),
    )
    for one in made:
        if viewer:
            write_viewer(one.path, one.path.with_suffix(".html"), title=one.prompt)
        sys.stdout.write(f"{one.path}  seam {one.seam:.2f} times the difference of neighbouring columns\n")


def view(
    panorama: Positional[Path],
    output: Annotated[Path | None, arg(aliases=["-o"])] = None,
    overwrite: bool = False,
) -> None:
    """Write a page to look around in a panorama, offline.

    Args:
        panorama: JPEG, PNG or WebP, twice as wide as high.
        output: the HTML file; default: beside the panorama, with its name.
        overwrite: replace a file that is there.
    """
    from pcs_ext.config_io import check_output
    from pcs_ext.svg.panorama.metadata import read_properties
    from pcs_ext.svg.panorama.viewer import check_page, write_viewer

    target = output or panorama.with_suffix(".html")
    check_page(target)
    check_output(target, overwrite)
    write_viewer(panorama, target)
    marked = "is marked" if read_properties(panorama) else "is not marked"
    sys.stdout.write(f"{target}  ({panorama.name} {marked} as a 360 degree photo)\n")
