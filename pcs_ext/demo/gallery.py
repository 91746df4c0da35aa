"""The page's pictures: the photos, the mosaic of the header, the gallery with its comparison strips."""

from pathlib import Path

from pcs_ext.demo.data import DemoData, ShownPrompt, ShownSystem
from pcs_ext.demo.wording import count_text, display_name, esc
from pcs_ext.page.pictures import data_uri

_KINDS = {
    "context": ("Places", "one subject, other surroundings"),
    "accessory": ("Things to wear", "none of the photos has them"),
    "style": ("Styles", "learned from photos, shown as something else"),
    "view": ("Views", "asked for in words"),
}
_LARGE, _SMALL = 256, 128


def photos_section(data: DemoData, folder: Path) -> str:
    """The references."""
    name = display_name(data)
    items = "".join(
        f'<li><img src="{data_uri(folder / photo, side=320)}" alt="Photo {index + 1} of {name}"></li>'
        for index, photo in enumerate(data.photos)
    )
    count = count_text(len(data.photos)).capitalize()
    return (
        f'<h2 id="photos-title">{count} photos, and nothing else</h2>'
        f'<p class="soft">All that was ever shown of {name}. No caption says what makes this {esc(data.noun)} '
        "different from others.</p>"
        f'<ul class="photos" role="list">{items}</ul>'
    )


def mosaic(data: DemoData, folder: Path) -> str:
    """Nine pictures for the header: the first seed of prompts spread over the gallery, unselected."""
    first = data.systems[0]
    count = min(9, len(data.prompts))
    picks = [round(index * (len(data.prompts) - 1) / max(count - 1, 1)) for index in range(count)]
    images = "".join(_image(data, first, folder, prompt, 0, _LARGE) for prompt in picks)
    return f'<div class="mosaic">{images}</div>'


def gallery_section(data: DemoData, folder: Path) -> str:
    """All prompts, grouped by what they change."""
    name, others = display_name(data), data.systems[1:]
    total = count_text(len(data.prompts)) if len(data.prompts) <= 10 else str(len(data.prompts))
    checked = others[-1].id
    inputs = "".join(
        f'<input class="pick-input" type="radio" name="pick" id="pick-{system.id}"'
        f"{' checked' if system.id == checked else ''}>"
        for system in reversed(others)
    )
    labels = "".join(f'<label for="pick-{system.id}">{esc(system.label)}</label>' for system in reversed(others))
    kinds = list(dict.fromkeys(prompt.kind for prompt in data.prompts))
    return (
        f'<h2 id="gallery-title">{name} in {total} new situations</h2>'
        f'<p class="soft">{count_text(len(data.seeds)).capitalize()} pictures for each sentence, none picked by hand. '
        "The strip below each row starts from the same random numbers.</p>"
        f'<fieldset class="pick">{inputs}<div class="pick-bar"><span>Compare with</span>{labels}</div>'
        f'<div class="kinds" style="--seeds: {len(data.seeds)}">'
        + "".join(_kind(data, folder, kind) for kind in kinds)
        + "</div></fieldset>"
    )


def _kind(data: DemoData, folder: Path, kind: str) -> str:
    title, note = _KINDS.get(kind, (kind.capitalize(), ""))
    cards = "".join(_card(data, folder, index) for index, p in enumerate(data.prompts) if p.kind == kind)
    return f'<div class="kind"><h3>{title}</h3><span class="small">{note}</span></div><div class="cards">{cards}</div>'


def _card(data: DemoData, folder: Path, prompt: int) -> str:
    first, shown = data.systems[0], data.prompts[prompt]
    strips = "".join(
        f'<div class="against against-{system.id}"><p class="strip-label"><span>{esc(system.label)}, same seeds</span>'
        f"<span>{_score(data, system, prompt)}</span></p>{_four(data, system, folder, prompt, _SMALL)}</div>"
        for system in data.systems[1:]
    )
    return (
        f'<article class="card" data-prompt="{esc(_spoken(data, shown))}"><div class="card-head">'
        f'<h4>{esc(shown.asked)}</h4><span class="score">{_score(data, first, prompt)}</span></div>'
        f"{_four(data, first, folder, prompt, _LARGE)}{strips}</article>"
    )


def _score(data: DemoData, system: ShownSystem, prompt: int) -> str:
    return f"shown in {system.hits[prompt]} of {len(data.seeds)}" if system.hits else ""


def _four(data: DemoData, system: ShownSystem, folder: Path, prompt: int, side: int) -> str:
    images = "".join(_image(data, system, folder, prompt, seed, side) for seed in range(len(data.seeds)))
    return f'<div class="four" data-label="{esc(system.label)}">{images}</div>'


def _image(data: DemoData, system: ShownSystem, folder: Path, prompt: int, seed: int, side: int) -> str:
    source = data_uri(folder / system.images[prompt * len(data.seeds) + seed], side=side)
    who = f"a plain {data.noun}" if system is data.systems[-1] else display_name(data)
    text = data.prompts[prompt].text.replace("{subject}", who)
    alt = esc(f"{text}, by {system.label}, seed {data.seeds[seed]}")
    return f'<img src="{source}" alt="{alt}" width="{side}" height="{side}" loading="lazy" decoding="async">'


def _spoken(data: DemoData, prompt: ShownPrompt) -> str:
    return prompt.text.replace("{subject}", display_name(data))
