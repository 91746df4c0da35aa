"""The page's drawing: an SVG exemplar redrawn after a prompt, its layers kept."""

import dataclasses
from html import escape
from pathlib import Path

import torch

from pcs_ext.config_io import config_hash, from_jsonable, read_json
from pcs_ext.demo.data import ShownDrawing
from pcs_ext.demo.numbers import seconds_text
from pcs_ext.demo.part import part, part_seconds
from pcs_ext.demo.wording import command, quoted
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.page.pictures import data_uri, svg_uri
from pcs_ext.reporter import Reporter
from pcs_ext.svg.customize import Customized, Request, customize_svg, resolve_customization
from pcs_ext.svg.recipes import CustomizationRecipe
from pcs_ext.svg.vector.read import read_svg
from pcs_ext.svg.vector.scene import Paint, Scene, Stroke
from pcs_ext.svg.vector.write import new_svg, write_svg

FOLDER = "drawing"
NOUN, PROMPT = "house", "a red {subject} in snow"
_EXEMPLAR = Path(__file__).parents[2] / "examples" / "svg" / f"{NOUN}.svg"
_SIDE = 256


def drawing_recipe(backbone: AbstractBackbone, steps: int | None = None) -> CustomizationRecipe:
    """The command's own recipe, shortened to `steps` where they are given."""
    return resolve_customization("svg-customization-lora", NOUN, backbone, steps=steps)


def make_drawing(
    output: Path,
    backbone: AbstractBackbone,
    *,
    recipe: CustomizationRecipe,
    seed: int,
    reporter: Reporter,
) -> ShownDrawing:
    """Redraw the exemplar, or take what an equal run made; everything lies in `OUTPUT/drawing/`.

    Args:
        output: folder of the demonstration.
        backbone: the base.
        recipe: how.
        seed: of everything random.
        reporter: hears events and progress.
    """
    folder = output / FOLDER
    facts = {"recipe": config_hash(recipe), "base": backbone.fingerprint, "prompt": PROMPT, "seed": seed}
    before, after, outlines = (folder / f"{name}.svg" for name in ("exemplar", "redrawn", "outlines"))
    request = Request(exemplar=before, prompt=PROMPT, output=after, noun=NOUN, recipe=recipe, seed=seed)
    with part(folder, facts, reporter) as watch:
        if not before.is_file():
            write_svg(before, _EXEMPLAR.read_bytes())
        if not outlines.is_file():
            customize_svg(request, base=backbone, reporter=watch)
            write_svg(outlines, new_svg(outlined(read_svg(after).scene)))
    made = from_jsonable(Customized, read_json(request.work / "report.json"), where="report.json")
    return ShownDrawing(
        exemplar=f"{FOLDER}/{before.name}",
        picture=f"{FOLDER}/{request.work.name}/customized.png",
        redrawn=f"{FOLDER}/{after.name}",
        outlines=f"{FOLDER}/{outlines.name}",
        noun=NOUN,
        text=PROMPT,
        kept=made.kept,
        dropped=made.dropped,
        added=made.added,
        seconds=part_seconds(folder),
    )


def outlined(scene: Scene) -> Scene:
    """The same paths as thin lines without fills."""
    width = torch.tensor(max(scene.view_box[2:]) / 200)
    ink = Paint(color=torch.tensor([0.11, 0.42, 0.38]), opacity=torch.tensor(1.0))
    paths = [
        dataclasses.replace(path, fill=None, stroke=Stroke(paint=ink, width=width, join="round"))
        for path in scene.paths
    ]
    return dataclasses.replace(scene, paths=tuple(paths))


def drawing_section(shown: ShownDrawing, folder: Path) -> str:
    """Before, what the base imagined, after, outlines; and which layers are still there."""
    text = escape(shown.text).replace("{subject}", escape(shown.noun))
    panels = (
        (svg_uri(folder / shown.exemplar), "The exemplar", f"an SVG with named layers, a {escape(shown.noun)}"),
        (data_uri(folder / shown.picture, side=_SIDE), "Imagined", f"by the base, after “{text}”"),
        (svg_uri(folder / shown.redrawn), "Redrawn", "the exemplar's own paths, moved and coloured"),
        (svg_uri(folder / shown.outlines), "Its outlines", "smooth, closed, still one path per layer"),
    )
    figures = "".join(
        f'<figure class="plate"><img src="{source}" alt="{title}: {words}" loading="lazy" decoding="async">'
        f"<figcaption><b>{title}</b> {words}</figcaption></figure>"
        for source, title, words in panels
    )
    return (
        '<h2 id="drawing-title">A drawing redrawn, its layers kept</h2>'
        f'<p class="soft">“{text}”: ids, groups and order stay, so the result can be edited like the original. '
        f"{seconds_text(shown.seconds)}.</p>"
        f'<div class="plates">{figures}</div>{_layers(shown)}'
        f"{command(f'pcs-ext svg customize {shown.noun}.svg {quoted(shown.text)} --noun {shown.noun} -o red.svg')}"
    )


def _layers(shown: ShownDrawing) -> str:
    kinds = (("kept", shown.kept), ("gone", shown.dropped), ("new", shown.added))
    items = "".join(f'<li class="{kind}">{escape(name)}</li>' for kind, names in kinds for name in names)
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds if names)
    return f'<p class="small soft layers-title">Layers: {counts}</p><ul class="layers" role="list">{items}</ul>'
