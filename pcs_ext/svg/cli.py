"""Commands for vector art: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path

from tyro.conf import Positional

from pcs_ext.command_options import MACHINE, Machine, Output, console_reporter
from pcs_ext.errors import UsageError


def vectorize(
    picture: Positional[Path],
    output: Output,
    paths: int = 32,
    rounds: int = 5,
    steps: int = 60,
    segments: int = 4,
    side: int = 160,
    config: Path | None = None,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Turn a picture into an SVG of layered, filled paths.

    The picture stays as it is.

    Args:
        picture: photo or drawing in any readable format; transparent parts count as white.
        output: the SVG to write.
        paths: at most so many, 1 to 512.
        rounds: of adding paths where the drawing is still wrong, then optimising all.
        steps: optimisation steps per round; the last round takes twice as many.
        segments: cubic curves per path, 3 to 32.
        side: longer side in pixels while optimising; more finds finer detail, more slowly.
        config: all settings as JSON, instead of these flags and not beside them.
        overwrite: replace the output.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.config_io import check_output, from_jsonable, read_json
    from pcs_ext.svg.vector.trace import check_svg, trace
    from pcs_ext.svg.vector.vectorize import Vectorization

    settings = Vectorization(paths=paths, rounds=rounds, steps=steps, segments=segments, side=side)
    if config is not None:
        if settings != Vectorization():
            raise UsageError("--config has all settings; leave out --paths, --rounds, --steps, --segments and --side.")
        settings = from_jsonable(Vectorization, read_json(config), where=str(config))
    check_svg(picture, output)
    check_output(output, overwrite)
    traced = trace(picture, output, settings, reporter=console_reporter(jsonl))
    sys.stdout.write(f"{output}  {traced.paths} paths, mean difference {traced.levels:.1f} of 255 levels\n")


def customize(
    exemplar: Positional[Path],
    prompt: Positional[str],
    output: Output,
    noun: str,
    recipe: str = "svg-customization-lora",
    base: str = "toybox",
    subject: Path | None = None,
    steps: int = 0,
    candidates: int = 4,
    added: int = -1,
    seed: int = 0,
    config: Path | None = None,
    machine: Machine = MACHINE,
    jsonl: Path | None = None,
) -> None:
    """Redraw an SVG after a prompt; layers, ids and order stay.

    What is done so far lies in OUTPUT.work; the same command goes on from it. Edit alignment.json there (keep, drop or
    freeze a path, move or colour it) and run the command again.

    Args:
        exemplar: the SVG; it stays as it is.
        prompt: text with {subject} where the drawing goes: "a red {subject} in the snow".
        output: the SVG to write.
        noun: what the drawing shows, one or two words: dog, house, coffee mug.
        recipe: svg-customization-lora, or svg-customization (keys, values and a word learn, as in the paper).
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        subject: the exemplar as learned before (OUTPUT.work/subject of another prompt), instead of learning it.
        steps: of learning the exemplar; 0 takes the recipe's.
        candidates: pictures to imagine; the one that shows most of the exemplar's paths is used.
        added: at most so many new paths on top of the exemplar's; -1 takes the recipe's.
        seed: of everything random.
        config: a recipe as JSON (OUTPUT.work/recipe.json is one) instead of the recipe's own values.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.svg.customize import Request, customize_svg, resolve_customization

    if subject is not None and steps:
        raise UsageError("--steps are those of learning the exemplar, which --subject has learned; leave one out.")
    resolved = resolve_customization(
        recipe, noun, base, steps=steps or None, added=None if added < 0 else added, config=config
    )
    request = Request(
        exemplar=exemplar,
        prompt=prompt,
        output=output,
        noun=noun,
        recipe=resolved,
        subject=subject,
        seed=seed,
        candidates=candidates,
    )
    made = customize_svg(request, base=base, **machine.loading, reporter=console_reporter(jsonl))
    for note in made.notes:
        sys.stdout.write(f"not drawn as the file asks: {note}\n")
    sys.stdout.write(
        f"{output}  {len(made.kept)} paths kept, {len(made.dropped)} dropped, {len(made.added)} added; "
        f"mean difference to the picture {made.levels:.1f} of 255 levels\n{request.work / 'alignment.json'}\n"
    )


def make(
    subject: Positional[Path],
    prompt: Positional[str],
    output: Output,
    base: str = "",
    paths: int = 0,
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    machine: Machine = MACHINE,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Draw a learned subject as an SVG of new paths.

    By VectorFusion; interrupted, the same command goes on.

    Args:
        subject: folder written by `learn`.
        prompt: text with {subject} where the subject goes.
        output: the SVG to write.
        base: another base of the same family than the one it was learned on.
        paths: at most so many; 0 takes the recipe's.
        steps: of score distillation; 0 takes the recipe's.
        seed: of everything random.
        config: a recipe as JSON instead of the recipe's own values; --paths and --steps go before it.
        overwrite: replace the output.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.config_io import check_output
    from pcs_ext.svg.make import make_svg

    check_output(output, overwrite)
    scene = make_svg(
        subject,
        prompt,
        output,
        base=base,
        paths=paths or None,
        steps=steps or None,
        seed=seed,
        config=config,
        **machine.loading,
        reporter=console_reporter(jsonl),
    )
    sys.stdout.write(f"{output}  {len(scene.paths)} paths\n")
