"""The page: complete, self-contained, accessible, and safe against what a name may hold."""

import dataclasses
import html.parser
import re
from typing import get_args

import pytest

from pcs_ext.config_io import write_json
from pcs_ext.demo.data import DemoData
from pcs_ext.demo.job import Part
from pcs_ext.demo.numbers import seconds_text
from pcs_ext.demo.page import write_page

_INLINE = ("data:image/webp;base64,", "data:image/svg+xml;base64,", "data:video/mp4;base64,", "#")
_VOID = {"meta", "img", "input", "br", "line", "path", "circle"}
PARTS = get_args(Part)


class _Outline(html.parser.HTMLParser):
    """Tags with their attributes, visible text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(demo):
    data, folder = demo
    return write_page(data, folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def whole_page(whole):
    data, folder = whole
    return write_page(data, folder / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["page", "whole_page"])
def test_every_tag_is_closed_and_every_id_is_unique(request, name):
    page = request.getfixturevalue(name)
    outline = _Outline(page)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [a["for"] for a in outline.of("label")] + [(a["href"] or "").removeprefix("#") for a in outline.of("a")]
    assert targets
    assert set(targets) <= set(ids)


@pytest.mark.parametrize("name", ["page", "whole_page"])
def test_nothing_is_asked_for_from_outside(request, name):
    page = request.getfixturevalue(name)
    outline = _Outline(page)
    for tag, attributes in outline.tags:
        for name in ("src", "href", "srcset", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(_INLINE), (
                tag,
                name,
                value,
            )
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", page)
    assert "link" not in {tag for tag, _ in outline.tags}


def test_all_images_of_all_systems_are_there_with_words_for_them(page):
    images = _Outline(page).of("img")
    # Gallery: 2 prompts x 2 seeds x 3 systems; mosaic: both prompts; one photo.
    assert len(images) == 12 + 2 + 1
    assert all(image["alt"] for image in images)
    alts = {image["alt"] for image in images}
    assert "a photo of Rex on the beach, by DreamBooth LoRA, seed 4" in alts
    assert "a photo of a plain dog on the beach, by The word “dog”, seed 3" in alts


def test_every_svg_says_what_it_shows(page):
    figures = _Outline(page).of("svg")
    assert len(figures) == 3
    assert all(figure["role"] == "img" for figure in figures)
    labels = [figure["aria-label"] or "" for figure in figures]
    assert "DreamBooth LoRA: fidelity 0.80, editability 0.90" in labels[0]
    assert "50 steps, average loss from 1.000" in labels[1]


def test_numbers_come_with_spread_meaning_and_judge(page):
    text = _Outline(page).text
    for needed in ("0.80", "± 0.02", "90 %", "dino (resnet, 12ab34cd)", "4 values, 2 prompts, spread over 2 seeds"):
        assert needed in text
    assert "Image similarity to true new views of the subject" in text
    assert "small demonstration model of 64 px toys" in text


def test_the_commands_can_be_copied(page):
    text = _Outline(page).text
    assert "pcs-ext learn photos/ --noun dog -o rex" in text
    assert 'pcs-ext image rex "a photo of {subject} on the beach"' in text


def test_names_cannot_break_the_page(demo):
    data, folder = demo
    hostile = dataclasses.replace(data, subject='<script>"&', noun="dog</p><img src=http://x>")
    page = write_page(hostile, folder / "index.html").read_text(encoding="utf-8")
    outline = _Outline(page)
    assert len(outline.of("script")) == 1
    assert len(outline.of("img")) == 15


def test_a_page_without_judges_still_stands(demo):
    data, folder = demo
    bare = [dataclasses.replace(s, hits=(), report=dataclasses.replace(s.report, figures={})) for s in data.systems]
    data = dataclasses.replace(data, systems=tuple(bare), points=(), ceiling=None)
    page = write_page(data, folder / "index.html").read_text(encoding="utf-8")
    assert "Fidelity against editability" not in _Outline(page).text


def test_the_page_is_made_from_the_numbers_on_disk(demo, page):
    data, folder = demo
    write_json(folder / "numbers.json", data)
    loaded = DemoData.load(folder / "numbers.json")
    assert loaded == data
    assert write_page(loaded, folder / "index.html").read_text(encoding="utf-8") == page


def test_the_parts_are_shown_and_the_viewer_travels_inside(whole_page):
    outline = _Outline(whole_page)
    frames = outline.of("iframe")
    assert len(frames) == 2, "a panorama and an object"
    for frame in frames:
        assert frame["srcdoc"] == '<!doctype html><p id="hint">"Drag" & look</p>'
        assert "src" not in frame
    openers = [button for button in outline.of("button") if "data-opens" in button]
    assert all("hidden" in opener for opener in openers), "without a script there is nothing to press"
    assert {opener["data-opens"] for opener in openers} == {"around", "turn"}
    assert {"around", "turn"} <= {dialog["id"] for dialog in outline.of("dialog")}
    assert "likeness to the toy itself is 0.50" in outline.text
    assert "Layers: 2 kept, 1 gone, 1 new" in outline.text
    assert "at most 8 of 255 levels" in outline.text
    assert "Here it learns less from protected photos" in outline.text
    assert "Protect and attack" in outline.text
    assert sum((image["src"] or "").startswith("data:image/svg+xml") for image in outline.of("img")) == 3


def test_the_time_of_everything_on_the_page_is_told(whole, whole_page):
    data, _ = whole
    parts = [part for name in PARTS if (part := getattr(data, name)) is not None]
    assert len(parts) == 5
    seconds = sum(part.seconds for part in parts) + data.measure_seconds
    seconds += sum(system.learn_seconds + system.sample_seconds for system in data.systems)
    assert f'<p class="big">{seconds_text(seconds)}</p>' in whole_page


@pytest.mark.parametrize(
    ("low", "high", "noise", "verdict"),
    [
        (0.02, 0.08, 0.01, "Here it learns less"),
        (0.02, 0.08, 0.05, "random noise may do as much"),
        (-0.02, 0.08, 0.0, "No effect that could be told from chance"),
        (-0.08, -0.02, 0.0, "Here it learns more"),
    ],
)
def test_the_verdict_claims_no_more_than_was_measured(whole, low, high, noise, verdict):
    data, folder = whole
    shown = dataclasses.replace(data.protection, drop_interval=(low, high), noise_drop=noise)
    page = write_page(dataclasses.replace(data, protection=shown), folder / "index.html").read_text(encoding="utf-8")
    assert verdict in _Outline(page).text
    assert "protects nothing against public models" in _Outline(page).text


def test_hostile_names_in_the_parts_cannot_break_the_page(whole):
    data, folder = whole
    drawing = dataclasses.replace(data.drawing, kept=("<script>",), noun='"><script>')
    hostile = dataclasses.replace(data, subject="<script>", drawing=drawing)
    outline = _Outline(write_page(hostile, folder / "index.html").read_text(encoding="utf-8"))
    assert len(outline.of("script")) == 1


def test_the_parts_are_kept_in_the_numbers(whole):
    data, folder = whole
    write_json(folder / "numbers.json", data)
    assert DemoData.load(folder / "numbers.json") == data


def test_clips_stand_beside_the_one_the_motion_is_from(whole_page):
    outline = _Outline(whole_page)
    players = outline.of("video")
    assert [player["aria-label"] for player in players] == ["The clip", "Rex, with its motion", "Rex, without"]
    # "film" in base64: the clips travel inside the page, with controls for those who want them to stand still.
    assert all(player["src"] == "data:video/mp4;base64,ZmlsbQ==" for player in players)
    assert all({"controls", "loop", "muted", "playsinline", "poster"} <= player.keys() for player in players)
    for needed in ("The motion came across", "read as: jumping; fidelity +0.90", "read as: no motion; fidelity +0.00"):
        assert needed in outline.text
    assert "The looks did not come across" in outline.text, "the clip it learned from is as like the photos"
    assert "Ways to learn a motion, over many subjects and motions" in outline.text
    assert 'pcs-ext video make rex "a photo of {subject} in the snow" --motion move' in outline.text
