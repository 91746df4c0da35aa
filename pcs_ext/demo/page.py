"""One self-contained `index.html` from `DemoData` and the images beside it: no outside request, readable without JS."""

from importlib import resources
from pathlib import Path
from string import Template

from pcs_ext.config_io import atomic_write_text
from pcs_ext.demo.data import DemoData
from pcs_ext.demo.drawing import drawing_section
from pcs_ext.demo.gallery import gallery_section, mosaic, photos_section
from pcs_ext.demo.numbers import numbers_section, seconds_text
from pcs_ext.demo.object import object_section
from pcs_ext.demo.panorama import panorama_section
from pcs_ext.demo.protection import protection_section
from pcs_ext.demo.video import video_section
from pcs_ext.demo.wording import count_text, display_name, esc, machine_text, metric_of
from pcs_ext.page import style

_COLORS = {"class-word": "--plain", "dreambooth-lora": "--first", "textual-inversion": "--second"}


def write_page(data: DemoData, path: Path) -> Path:
    """Write the page.

    Args:
        data: what to show; its image paths are relative to the page's folder.
        path: of the page, such as `demo-out/index.html`.
    """
    folder = path.parent
    parts = {
        "title": f"{display_name(data)}, learned from {count_text(len(data.photos))} photos",
        "style": style() + Template(_text("style.css")).substitute(colors=_color_rules(data)),
        "header": _header(data, folder),
        "photos": photos_section(data, folder),
        "gallery": gallery_section(data, folder),
        "parts": _parts(data, folder),
        "numbers": numbers_section(data),
        "own": _own_section(data),
        "footer": _footer(data),
    }
    atomic_write_text(path, Template(_text("template.html")).substitute(parts))
    return path


def _parts(data: DemoData, folder: Path) -> str:
    """A section for each part that was made."""
    name, sections = display_name(data), {}
    if data.panorama is not None:
        sections["panorama"] = panorama_section(data.panorama, folder, name)
    if data.object is not None:
        sections["object"] = object_section(data.object, folder, name)
    if data.video is not None:
        sections["video"] = video_section(data.video, folder, name)
    if data.drawing is not None:
        sections["drawing"] = drawing_section(data.drawing, folder)
    if data.protection is not None:
        sections["protection"] = protection_section(data.protection, folder, name)
    return "".join(
        f'<section class="wide" aria-labelledby="{part}-title">\n{text}\n</section>\n'
        for part, text in sections.items()
    )


def _text(name: str) -> str:
    return resources.files("pcs_ext.demo").joinpath(name).read_text(encoding="utf-8")


def _color_rules(data: DemoData) -> str:
    """A colour per system for the plots, and which comparison strip each choice of the gallery shows."""
    rules = []
    for system in dict.fromkeys([*(point.id for point in data.points), *(shown.id for shown in data.systems)]):
        color = f"var({_COLORS.get(system, '--other')})"
        rules.append(f".mark.s-{system} {{ fill: {color}; }} .label.s-{system} {{ fill: {color}; }}")
        rules.append(f".line.s-{system}, .whisker.s-{system} {{ stroke: {color}; }}")
    others = [system.id for system in data.systems[1:]]
    for system in others:
        chosen = f"#pick-{system}:checked ~"
        rules.append(
            f"{chosen} .pick-bar label[for=pick-{system}] "
            "{ background: var(--ink); color: var(--paper); border-color: var(--ink); }"
        )
        focused = f"#pick-{system}:focus-visible ~ .pick-bar label[for=pick-{system}]"
        rules.append(focused + " { outline: 3px solid var(--first); outline-offset: 3px; }")
        rules += [f"{chosen} .kinds .against-{other} {{ display: none; }}" for other in others if other != system]
    return "\n".join(rules)


def _header(data: DemoData, folder: Path) -> str:
    name, first, word = display_name(data), data.systems[0], data.systems[-1]
    images = len(data.prompts) * len(data.seeds)
    stats = [
        (str(len(data.photos)), "photos, from different sides and places"),
        (seconds_text(first.learn_seconds), f"to learn, on {machine_text(data)}"),
        (seconds_text(first.sample_seconds), f"for {images} new pictures"),
    ]
    metric = metric_of(data, "dino-i-truth", "dino-i")
    if metric is not None:
        mine, plain = first.report.figures[metric].value, word.report.figures[metric].value
        stats.append(
            (f"{mine:.2f}", f"likeness to the real {name}; the word “{esc(data.noun)}” alone gets {plain:.2f}")
        )
    items = "".join(f"<div><dt>{text}</dt><dd>{value}</dd></div>" for value, text in stats)
    return (
        f'<div class="mark-line"><b>pcs_ext</b><span>{esc(first.label)} on {esc(data.base)}</span></div>'
        '<div class="hero"><div>'
        f"<h1>Meet {name}.</h1>"
        f'<p class="lede">{name} is a {esc(data.noun)} this model had never seen. It took '
        f"{count_text(len(data.photos))} photos and {seconds_text(first.learn_seconds)}; "
        f"now a sentence is enough to put {name} anywhere.</p></div>"
        f"{mosaic(data, folder)}</div>"
        f'<dl class="stats">{items}</dl>'
    )


def _own_section(data: DemoData) -> str:
    name, noun = esc(data.subject), esc(data.noun)
    return (
        '<div class="own"><div><h2 id="own-title">Now with your own photos</h2>'
        "<p>Three to ten photos of one thing, in any common format and size.</p>"
        '<pre tabindex="0"><code>'
        f'<span class="c"># learn it once</span>\n'
        f"pcs-ext learn photos/ --noun {noun} -o {name} \\\n"
        "    --base stable-diffusion-v1-5/stable-diffusion-v1-5\n\n"
        f'<span class="c"># then use it</span>\n'
        f'pcs-ext image {name} "a photo of {{subject}} on the beach"'
        "</code></pre>"
        '<p class="soft small">The same in Python: <code>pcs_ext.learn("photos/", noun='
        f'"{noun}", output="{name}")</code></p></div>'
        f'<div class="honest"><h3>What this page is, and is not</h3>'
        f"<p>The pictures come from <b>toybox</b>, a small demonstration model of {data.resolution} px toys. It ships "
        "inside pcs_ext and was trained on a procedural world, which makes everything here checkable in minutes on two "
        f"CPU cores. It does not know your {noun}.</p>"
        "<p>For real photos the same commands take <code>--base</code> with the name of a Stable Diffusion model, its "
        "folder or its file; that wants a graphics card.</p></div></div>"
    )


def _footer(data: DemoData) -> str:
    seeds = ", ".join(map(str, data.seeds))
    return (
        f"<p>Every picture is unselected: {len(data.prompts)} prompts, seeds {seeds}, the same seeds for every row. "
        "The PNG files, the reports and all numbers lie beside this page, in <code>images/</code> and "
        "<code>numbers.json</code>.</p>"
    )
