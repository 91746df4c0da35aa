"""What files of Inkscape, Illustrator, Figma and hands have: read as browsers read it, and written back whole."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import InputError, UsageError
from pcs_ext.svg.vector.colors import read_color
from pcs_ext.svg.vector.geometry import drawable
from pcs_ext.svg.vector.read import Document, parse_svg
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Path, Stroke, Subpath, paint
from pcs_ext.svg.vector.write import new_svg, patch_svg

FRAME = 'viewBox="0 0 200 200" width="200" height="200"'
SODIPODI = 'xmlns:sodipodi="http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd"'


def parsed(body: str, frame: str = FRAME) -> Document:
    return parse_svg(f'<svg xmlns="http://www.w3.org/2000/svg" {frame}>{body}</svg>'.encode())


def drawn(document: Document) -> torch.Tensor:
    return render(document.scene, 100, 100)


def shifted(path: Path) -> Path:
    moved = tuple(dataclasses.replace(part, points=part.points + torch.tensor([17.0, 9.0])) for part in path.subpaths)
    return dataclasses.replace(path, subpaths=moved)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#f80", (1, 136 / 255, 0, 1)),
        ("#ff880080", (1, 136 / 255, 0, 128 / 255)),
        ("RGB(255, 0, 0)", (1, 0, 0, 1)),
        ("rgb(255 0 0 / 50%)", (1, 0, 0, 0.5)),
        ("rgba(0,0,100%,.25)", (0, 0, 1, 0.25)),
        ("rgb(12.75,102,0)", (0.05, 0.4, 0, 1)),
        ("hsl(120deg 100% 25%)", (0, 0.5, 0, 1)),
        ("hsl(0.5turn, 100%, 50%)", (0, 1, 1, 1)),
        ("hwb(120 50% 0%)", (0.5, 1, 0.5, 1)),
        ("RebeccaPurple", (0.4, 0.2, 0.6, 1)),
        ("transparent", (0, 0, 0, 0)),
        ("hwb(1e999 100% 0%)", (1, 1, 1, 1)),
    ],
)
def test_colours_in_every_form(text: str, expected: tuple[float, ...]) -> None:
    assert read_color(text) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("text", ["bogus", "var(--c)", "color(display-p3 1 0 0)", "rgb(1,2)", "#12345", "", "url(#a)"])
def test_what_is_no_colour_is_none(text: str) -> None:
    assert read_color(text) is None


RECT = '<rect x="20" y="30" width="100" height="50" {}/>'
SAME = {
    "a colour browsers skip": (RECT.format('style="fill:#d94020;fill:color(display-p3 1 0 0)"'),
                               RECT.format('fill="#d94020"')),
    "a value that is none": ('<g fill="green">' + RECT.format('fill="bogus"') + "</g>", RECT.format('fill="green"')),
    "capital none": (RECT.format('fill="None" stroke="red"'), RECT.format('fill="none" stroke="red"')),
    "other screens": ("<style>.a{fill:#222222}@media (prefers-color-scheme:dark){.a{fill:#eee}}</style>"
                      + RECT.format('class="a"'), RECT.format('fill="#222222"')),
    "print": ('<style media="print">rect{fill:red}</style>' + RECT.format(""), RECT.format("")),
    "an import": ("<style>@import url(x.css);.a{fill:red}</style>" + RECT.format('class="a"'),
                  RECT.format('fill="red"')),
    "a font in the sheet": (f"<style>@font-face{{src:url(data:a;base64,{'A' * 300_000})}}.a{{fill:red}}</style>"
                            + RECT.format('class="a"'), RECT.format('fill="red"')),
    "an import with a semicolon": ("<style>@import url('https://a.example/css2?family=R:wght@400;700');"
                                   ".a{fill:red}</style>" + RECT.format('class="a"'), RECT.format('fill="red"')),
    "a sheet that is cut": ("<style>.a{fill:red</style>" + RECT.format('class="a"'), RECT.format('fill="red"')),
    "numbers that are none": ('<g stroke-width="9">' + RECT.format(
        'stroke="red" stroke-width="null" opacity="null" stroke-linecap="null" style="fill-opacity:.5;fill-opacity:x"'
    ) + "</g>", RECT.format('stroke="red" stroke-width="9" fill-opacity=".5"')),
    "capital words": (RECT.format('style="fill:INHERIT;stroke:red;stroke-width:20;stroke-linejoin:Round"'),
                      RECT.format('stroke="red" stroke-width="20" stroke-linejoin="round"')),
    "important in an attribute": (RECT.format('fill="red !important"'), RECT.format("")),
    "currentColor behind a gradient": ('<g color="red">' + RECT.format('fill="url(#no) currentColor"') + "</g>",
                                       RECT.format('fill="red"')),
    "comments in styles": ("<style>.b{}<!-- x -->.a{fill:red}</style>"
                           + RECT.format('class="a" style="/* c;d */stroke:blue"'),
                           RECT.format('fill="red" stroke="blue"')),
    "a tag and a class": ("<style>rect.a{fill:red}.a{fill:blue}</style>" + RECT.format('class="a"'),
                          RECT.format('fill="red"')),
    "unset": ('<g fill="red">' + RECT.format('style="fill:unset"') + "</g>", RECT.format('fill="red"')),
    "percentages": ('<rect width="50%" height="25%"/>', '<rect width="100" height="50"/>'),
    "a percent radius": ('<circle cx="50%" cy="50%" r="30%"/>', '<circle cx="100" cy="100" r="60"/>'),
    "auto and empty": ('<rect x="" y="30" width="100" height="50" rx="auto" ry="10"/>',
                       '<rect y="30" width="100" height="50" rx="10" ry="10"/>'),
    "capital units": ('<rect width="100PX" height="5em"/>', '<rect width="100" height="80"/>'),
    "a transform in a style": (RECT.format('style="transform:translate(20px,10px)"'),
                               RECT.format('transform="translate(20 10)"')),
    "a transform by halves": (RECT.format('transform="translate(20,10) foo(3)"'), RECT.format("")),
    "a turn about half a point": (RECT.format('transform="rotate(30 50)"'), RECT.format("")),
    "numbers without a space": (RECT.format('transform="translate(1e1-5)scale(.5.5)"'),
                                RECT.format('transform="translate(10 -5) scale(.5)"')),
    "millimetres": (RECT.format('style="transform:translate(5mm,1em)"'),
                    RECT.format('transform="translate(18.8976 16)"')),
    "percentages in a transform": (RECT.format('style="transform:translate(10%,-5%) scale(50%)"'),
                                   RECT.format('transform="translate(20,-10)scale(.5)"')),
    "flat transforms of space": (
        RECT.format('style="transform:Translate3D(20px,10px,0) rotateZ(.25turn) scale3d(1,.5,1)"'),
        RECT.format('transform="translate(20 10),rotate(90) scale(1,.5)"')),
    "a matrix of space": (RECT.format('style="transform:matrix3d(1,.5,0,0,0,1,0,0,0,0,1,0,5,6,0,1)"'),
                          RECT.format('transform="matrix(1 .5 0 1 5 6)"')),
    "a slant in radians": (RECT.format('style="transform:skew(.2rad,10grad)"'),
                           RECT.format('transform="matrix(1 .15838 .20271 1 0 0)"')),
    "an origin": (RECT.format('transform="rotate(90)" transform-origin="70 55"'),
                  RECT.format('transform="rotate(90 70 55)"')),
    "a smooth curve after another kind": ('<path d="M20 100C20 20 60 20 80 100T180 100" stroke="red" fill="none"/>',
                                          '<path d="M20 100C20 20 60 20 80 100L180 100" stroke="red" fill="none"/>'),
    "a smooth cubic after a quadratic": ('<path d="M20 100Q40 20 80 100S150 20 180 100"/>',
                                         '<path d="M20 100Q40 20 80 100C80 100 150 20 180 100"/>'),
    "a dot": ('<path d="M50 50h0" stroke="red" stroke-width="30" stroke-linecap="round"/>',
              '<circle cx="50" cy="50" r="15" fill="red"/>'),
    "a square dot": ('<path d="M50 50z" stroke="red" stroke-width="30" stroke-linecap="square"/>',
                     '<rect x="35" y="35" width="30" height="30" fill="red"/>'),
    "an error in points": ('<polygon points="20,20 100,20 100,100 foo 20,180"/>', '<path d="M20 20L100 20L100 100"/>'),
    "an error in a path": ('<path d="M20 20L100 20L100 100L20"/>', '<path d="M20 20L100 20L100 100"/>'),
    "things of others": (RECT.format("") + '<x:rect xmlns:x="http://x" width="200" height="200"/>', RECT.format("")),
    "a symbol's opacity": ('<symbol id="s" opacity=".5">' + RECT.format('fill="red"') + '</symbol><use href="#s"/>',
                           RECT.format('fill="red" fill-opacity=".5"')),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_read_as_browsers_do(name: str) -> None:
    tricky, plain = (drawn(parsed(body)) for body in SAME[name])
    assert (tricky - plain).abs().max() < 0.02


def test_a_transform_of_the_whole_picture() -> None:
    turned = drawn(parsed(RECT.format(""), FRAME + ' transform="translate(30 10)"'))
    assert torch.equal(turned, drawn(parsed(RECT.format('transform="translate(30 10)"'))))


NOTED = {
    "vector-effect": RECT.format('vector-effect="non-scaling-stroke"'),
    "paint-order": RECT.format('style="paint-order:stroke"'),
    "marker-start": '<path d="M0 0h9" style="marker:url(#m)"/>',
    "geometry in a style": RECT.format('style="width:9px"'),
    "systemLanguage": RECT.format('systemLanguage="de"'),
    "animation": '<rect width="9" height="9"><animate attributeName="x"/></rect>',
    "@media": "<style>@media print{.a{fill:red}}</style>" + RECT.format(""),
    "up to an error": '<path d="M20 20L100 20L100 100X"/>',
    "transform": RECT.format('style="transform:rotateX(30deg)"'),
    "stroke-width": RECT.format('stroke="red" stroke-width="calc(1px + 2px)"'),
    "cannot be drawn": RECT.format('fill="var(--c)"'),
}


@pytest.mark.parametrize("note", NOTED)
def test_what_is_left_out_is_noted(note: str) -> None:
    assert any(note in said for said in parsed(NOTED[note]).notes)


def test_the_picture_itself_is_asked_like_its_elements() -> None:
    assert any("clip-path" in note for note in parsed(RECT.format(""), FRAME + ' clip-path="url(#c)"').notes)
    assert any("background" in note for note in parsed(RECT.format(""), FRAME + ' style="background:red"').notes)
    wide = 'viewBox="0 0 100 50" width="200" height="200" preserveAspectRatio="xMinYMin slice"'
    assert any("xMinYMin slice" in note for note in parsed(RECT.format(""), wide).notes)


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        ('viewBox="0 0 50 25" width="100"', (100, 50)),
        ('viewBox="0 0 50 25" width="100%" height="100"', (200, 100)),
        ('viewBox="0 0 50 25" width="auto" height="10em"', (320, 160)),
        ('viewBox="0 0 50 25" width="calc(1px)"', (50, 25)),
    ],
)
def test_a_side_that_is_not_given_follows_the_other(frame: str, size: tuple[float, float]) -> None:
    assert parsed(RECT.format(""), frame).scene.size == pytest.approx(size)


@pytest.mark.parametrize("box", ["0 0 50", "0 0 fifty 25", "0 0 50% 25%", "0 0 -50 25", "0 0 1e9 5", "none"])
def test_a_view_box_that_cannot_be_read_is_passed_over_as_by_browsers(box: str) -> None:
    document, plain = (parsed(RECT.format(""), f'{more} width="80" height="40"') for more in (f'viewBox="{box}"', ""))
    assert document.scene.view_box == plain.scene.view_box == (0, 0, 80, 40)
    assert document.notes == (f"viewBox {box!r} is not four numbers and not applied",)
    assert torch.equal(drawn(document), drawn(plain))
    with pytest.raises(InputError, match="neither a viewBox nor a width and height"):
        parsed(RECT.format(""), f'viewBox="{box}"')


@pytest.mark.parametrize("hidden", ['display="none"', 'style="display:none"'])
def test_a_picture_that_is_not_displayed_is_not_drawn(hidden: str) -> None:
    shown = '<g style="display:inline"><rect width="9" height="9"/></g>'
    document = parsed(RECT.format("") + shown, f"{FRAME} {hidden}")
    assert document.scene.paths == ()
    assert document.notes == ("nothing is drawn: <svg> itself has display: none",)


def test_path_data_ends_at_its_first_error() -> None:
    assert drawable("M0 0L9 9 9") == "M0 0L9 9"
    assert drawable("M0 0h5z 3") == "M0 0h5z"
    assert drawable("M0 0A5 5 0 2 1 3 3") == "M0 0"
    whole = "M20 100a30 30 0 0130-30 30 30 0 1 1-30 30z"
    assert drawable(whole) == whole


@pytest.mark.parametrize(
    "body",
    [
        '<style>rect{fill:red;stroke:blue;stroke-width:6}</style><rect width="50" height="50"/>',
        '<style>path{fill:none;stroke:red}</style><rect width="50" height="50" fill="green"/>',
        '<style>rect.a{fill:red}</style><g transform="scale(2)"><rect class="a" width="25" height="25"/></g>',
        '<style>rect{opacity:.5;transform:rotate(9deg)}</style><rect width="50" height="50" fill="red"/>',
        '<style>path{opacity:.5;transform:rotate(9deg)}</style><rect width="50" height="50" transform="scale(.5)"/>',
        '<style>path{display:none;visibility:hidden!important}</style><rect width="50" height="50"/>',
        '<rect width="50" height="50" style="--Foo:1;fill:red;mask:url(data:a;b)"/>',
        f'<path {SODIPODI} sodipodi:type="arc" sodipodi:cx="25" d="M0 0h50v50z"/>',
    ],
)
def test_a_moved_shape_keeps_its_looks(body: str) -> None:
    document = parsed(body)
    moved = dataclasses.replace(document.scene, paths=tuple(map(shifted, document.scene.paths)))
    made = patch_svg(document, moved)
    assert (drawn(parse_svg(made)) - render(moved, 100, 100)).abs().max() < 1e-3
    assert b"sodipodi:type" not in made
    assert (b"--Foo:1" in made) == ("--Foo" in body)


@pytest.mark.parametrize(
    "body",
    [
        '<rect id="a" width="30" height="30"/><use href="#a" x="100"/>',
        '<g id="g"><rect id="a" width="30" height="30"/></g><use href="#g" x="100"/>',
        '<defs><clipPath id="c"><use href="#a"/></clipPath></defs><rect id="a" width="30" height="30"/>',
    ],
)
def test_what_is_drawn_elsewhere_too_cannot_be_moved(body: str) -> None:
    document = parsed(body)
    paths = (shifted(document.scene.paths[0]), *document.scene.paths[1:])
    with pytest.raises(UsageError, match="unlink the clone"):
        patch_svg(document, dataclasses.replace(document.scene, paths=paths))


def test_rules_and_ends_of_strokes_are_written() -> None:
    document = parsed('<path d="M10 10h80v80h-80zM30 30h40v40h-40z" stroke="red" stroke-width="9"/>')
    (path,) = document.scene.paths
    assert path.stroke is not None
    stroke = dataclasses.replace(path.stroke, cap="round", join="bevel")
    changed = dataclasses.replace(document.scene, paths=(dataclasses.replace(path, rule="evenodd", stroke=stroke),))
    (found,) = parse_svg(patch_svg(document, changed)).scene.paths
    assert found.rule == "evenodd"
    assert found.stroke is not None
    assert (found.stroke.cap, found.stroke.join) == ("round", "bevel")


@pytest.mark.parametrize(
    ("body", "frame"),
    [
        ('<path d="M20 20h80"/>', FRAME + ' fill="none" stroke="red" stroke-width="10" stroke-linecap="round"'),
        ('<path d="M20 20h80v80"/>', FRAME + ' style="fill-rule:evenodd;fill-opacity:.3"'),
        ("<style>path{fill:lime;stroke:red}</style>", FRAME + ' stroke-dasharray="4"'),
        ('<path d="M20 20h80"/>', FRAME + ' transform="translate(30 10) scale(.5)"'),
        ("<style>path{transform:scale(.5);display:none}g{opacity:.5}</style>", FRAME),
    ],
)
def test_new_paths_look_as_they_are_whatever_surrounds_them(body: str, frame: str) -> None:
    document = parsed(body, frame)
    points = torch.tensor([[110.0, 110], [120, 110], [140, 110], [150, 110], [150, 120], [150, 140], [150, 150],
                           [140, 150], [120, 150]], dtype=torch.float64)  # fmt: skip
    width = torch.tensor(6.0, dtype=torch.float64)
    new = Path(
        id="new", subpaths=(Subpath(points=points, closed=True),), fill=paint(0, 0, 1),
        stroke=Stroke(paint=paint(0, 0.5, 0), width=width, cap="butt", join="round", miter_limit=4.0),
    )  # fmt: skip
    plain = dataclasses.replace(new, id="plain", stroke=None)
    for place in ("added", "beneath"):
        made = parse_svg(patch_svg(document, document.scene, **{place: (new, plain)}))
        scene = dataclasses.replace(made.scene, paths=tuple(p for p in made.scene.paths if p.id in ("new", "plain")))
        wanted = dataclasses.replace(made.scene, paths=(new, plain))
        assert (render(scene, 100, 100) - render(wanted, 100, 100)).abs().max() < 0.01
        assert len(made.notes) == len(document.notes)


def test_new_paths_cover_as_much_as_asked_under_a_sheet_that_fades_the_picture() -> None:
    document = parsed("<style>svg{opacity:.5}</style>" + RECT.format(""))
    new = dataclasses.replace(document.scene.paths[0], id="new", fill=paint(1, 0, 0, 0.25))
    made = parse_svg(patch_svg(document, document.scene, added=(new,))).scene.paths[-1]
    assert made.fill is not None
    assert float(made.fill.opacity) == pytest.approx(0.25, abs=1e-4)


def test_view_boxes_are_written_whole() -> None:
    scene = parsed(RECT.format(""), 'viewBox="1234567.25 -0.001234567 200 100"').scene
    assert parse_svg(new_svg(scene)).scene.view_box == scene.view_box


def test_what_lies_beneath_lies_beneath_texts_and_clones() -> None:
    for first in ('<use href="#a"/><defs><rect id="a" width="9" height="9"/></defs>', "<text>Hello</text>"):
        document = parsed(first + RECT.format('id="own"'))
        ground = dataclasses.replace(document.scene.paths[-1], id="ground")
        made = parse_svg(patch_svg(document, document.scene, beneath=(ground,)))
        assert made.tree.getroot()[0].get("id") == "added-beneath"


def test_names_that_are_made_up_leave_the_file_its_own() -> None:
    document = parsed('<rect width="9" height="9"/><rect id="rect-1" x="20" width="9" height="9"/>')
    assert [path.id for path in document.scene.paths] == ["rect-1~2", "rect-1"]
