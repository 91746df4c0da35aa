"""Reading, patching and writing SVG files, friendly and hostile."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import InputError, UsageError
from pcs_ext.svg.vector.read import parse_svg, read_svg
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Scene
from pcs_ext.svg.vector.write import new_svg, patch_svg
from tests.svg.conftest import reference

LOGO = b"""<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 100 100" width="100">
<title>A logo</title><metadata><author>someone</author></metadata>
<style>.warm{fill:#cc3311} #ring{stroke-width:4}</style>
<defs><circle id="dot" r="5"/></defs>
<!-- the body -->
<g id="body" transform="translate(50 50) rotate(30)" class="layer">
  <rect id="box" class="warm" x="-30" y="-20" width="60" height="40" rx="6"/>
  <path id="wave" d="M-20 0q10 -15 20 0t20 0a8 8 0 0 1 -10 8z" fill="#225588" fill-rule="evenodd"/>
</g>
<ellipse id="ring" cx="70" cy="25" rx="18" ry="12" fill="none" stroke="green" stroke-linejoin="round"/>
<use id="left" xlink:href="#dot" x="12" y="80" fill="#8833aa"/>
<polygon id="star" points="20,10 26,30 8,16 32,16 14,30" style="fill:#ffaa00;fill-rule:evenodd"/>
</svg>"""


def _move(scene: Scene, name: str, shift: float) -> Scene:
    paths = []
    for path in scene.paths:
        if path.id == name:
            moved = tuple(dataclasses.replace(part, points=part.points + shift) for part in path.subpaths)
            path = dataclasses.replace(path, subpaths=moved)
        paths.append(path)
    return dataclasses.replace(scene, paths=tuple(paths))


def test_a_real_file_is_read_whole_and_drawn_like_resvg() -> None:
    document = parse_svg(LOGO)
    assert [path.id for path in document.scene.paths] == ["box", "wave", "ring", "dot", "star"]
    assert document.scene.paths[0].groups == ("body",)
    assert document.notes == ()
    mean = (render(document.scene, 200, 200) - reference(LOGO, 200)).abs().mean()
    assert mean * 255 < 0.3


EXEMPLARS = sorted((Path(__file__).parents[2] / "examples" / "svg").glob("*.svg"))


@pytest.mark.parametrize("path", EXEMPLARS, ids=lambda path: path.stem)
def test_every_drawn_element_of_the_exemplars_has_a_name(path: Path) -> None:
    found = read_svg(path)
    ids = [drawn.id for drawn in found.scene.paths]
    source = path.read_text(encoding="utf-8")
    assert not found.notes
    assert len(set(ids)) == len(ids) >= 9
    assert all(f'id="{name}"' in source for name in ids)
    width, height = (round(side) for side in found.scene.size)
    assert (render(found.scene, height, width) - reference(source.encode(), width)).abs().mean() < 0.3 / 255


def test_patching_changes_one_element_and_keeps_the_rest() -> None:
    document = parse_svg(LOGO)
    written = patch_svg(document, _move(document.scene, "box", 3.0))
    again = parse_svg(written)
    for old, new in zip(document.scene.paths, again.scene.paths, strict=True):
        shift = 3.0 if old.id == "box" else 0.0
        difference = new.subpaths[0].points - old.subpaths[0].points - shift
        assert old.id == new.id
        assert float(difference.abs().max()) < 1e-4
    lines = LOGO.decode().splitlines()
    kept = [line for line in lines[1:] if 'id="box"' not in line and "<svg" not in line]
    assert all(line in written.decode() for line in kept)
    assert 'class="warm"' in written.decode()
    assert patch_svg(document, document.scene) == patch_svg(parse_svg(LOGO), parse_svg(LOGO).scene)


def test_patched_colours_win_over_style_sheets_and_keep_group_opacity() -> None:
    data = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><style>.a{fill:red}</style>
    <g opacity="0.5"><rect id="r" class="a" width="9" height="9"/></g></svg>"""
    document = parse_svg(data)
    path = document.scene.paths[0]
    assert path.fill is not None
    fill = dataclasses.replace(path.fill, color=torch.tensor([0.0, 0.0, 1.0]), opacity=torch.tensor(0.25))
    scene = dataclasses.replace(document.scene, paths=(dataclasses.replace(path, fill=fill),))
    again = parse_svg(patch_svg(document, scene)).scene.paths[0].fill
    assert again is not None
    assert again.color.tolist() == [0.0, 0.0, 1.0]
    assert float(again.opacity) == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(
    ("sheet", "style", "color"),
    [
        (".a{fill:red!important}", "fill:lime", "#f00"),
        (".a{fill:red ! IMPORTANT}", "fill:lime !important", "#0f0"),
        (".a{fill:red!important} #r{fill:blue}", "", "#f00"),
        (".a{fill:red!important} #r{fill:blue!important}", "", "#00f"),
        ("", "fill:red !important; fill:blue", "#f00"),
    ],
)
def test_important_declarations_win_as_in_browsers_and_over_them_patched_colours(
    sheet: str, style: str, color: str
) -> None:
    shape = f'<rect id="r" class="a" style="{style}" width="9" height="9"/></svg>'
    data = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><style>{sheet}</style>{shape}'.encode()
    document = parse_svg(data)
    path = document.scene.paths[0]
    assert path.fill is not None
    assert path.fill.color.tolist() == [float(digit == "f") for digit in color[1:]]
    fill = dataclasses.replace(path.fill, color=torch.tensor([1.0, 0.0, 1.0]))
    patched = patch_svg(document, dataclasses.replace(document.scene, paths=(dataclasses.replace(path, fill=fill),)))
    again = parse_svg(patched).scene.paths[0].fill
    assert again is not None
    assert again.color.tolist() == [1.0, 0.0, 1.0]
    assert b'id="r" class="a"' in patched


TRANSLUCENT = {
    "rgba": '<rect id="r" width="9" height="9" fill="rgba(255,0,0,0.5)"/>',
    "hex": '<rect id="r" width="9" height="9" fill="#ff000080"/>',
    "gradient": '<defs><linearGradient id="g"><stop stop-color="red" stop-opacity="0.5"/></linearGradient></defs>'
    '<rect id="r" width="9" height="9" fill="url(#g)"/>',
    "inherited": '<g fill-opacity=".5"><rect id="r" width="9" height="9" fill="red"/></g>',
    "class": '<style>.half{fill-opacity:.5}</style><rect id="r" class="half" width="9" height="9" fill="red"/>',
    "both": '<g opacity="0.625" fill-opacity=".9"><rect id="r" opacity=".8" width="9" height="9" fill="#f00"/></g>',
    "stroke": '<g stroke-opacity="50%"><rect id="r" width="9" height="9" fill="none" stroke="red"/></g>',
}


@pytest.mark.parametrize("kind", TRANSLUCENT)
@pytest.mark.parametrize("opacity", [None, 0.4])
def test_patched_paint_covers_as_much_as_asked(kind: str, opacity: float | None) -> None:
    document = parse_svg(f"{HEAD}{TRANSLUCENT[kind]}</svg>".encode())
    path = document.scene.paths[0]
    found = path.fill or (path.stroke and path.stroke.paint)
    assert found is not None
    wanted = float(found.opacity) if opacity is None else opacity
    new = dataclasses.replace(found, color=torch.tensor([0.0, 0.0, 1.0]), opacity=torch.tensor(wanted))
    if path.fill:
        path = dataclasses.replace(path, fill=new)
    else:
        assert path.stroke is not None
        path = dataclasses.replace(path, stroke=dataclasses.replace(path.stroke, paint=new))
    again = parse_svg(patch_svg(document, dataclasses.replace(document.scene, paths=(path,)))).scene.paths[0]
    paint = again.fill or (again.stroke and again.stroke.paint)
    assert paint is not None
    assert paint.color.tolist() == [0.0, 0.0, 1.0]
    assert float(paint.opacity) == pytest.approx(wanted, abs=5e-3 if kind == "hex" else 1e-4)


def test_a_clone_cannot_be_changed_alone() -> None:
    document = parse_svg(LOGO)
    with pytest.raises(UsageError, match="unlink the clone"):
        patch_svg(document, _move(document.scene, "dot", 1.0))


def test_removed_paths_leave_the_document() -> None:
    document = parse_svg(LOGO)
    paths = tuple(path for path in document.scene.paths if path.id != "star")
    written = patch_svg(document, dataclasses.replace(document.scene, paths=paths))
    assert b"star" not in written
    assert b"ring" in written


def test_new_documents_read_back_equal(scene: Scene) -> None:
    again = parse_svg(new_svg(scene)).scene
    for old, new in zip(scene.paths, again.paths, strict=True):
        assert float((old.subpaths[0].points - new.subpaths[0].points).abs().max()) < 1e-4
        assert old.fill is not None
        assert new.fill is not None
        assert float((old.fill.color - new.fill.color).abs().max()) <= 0.5 / 255 + 1e-9


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ('<text x="1" y="1">hi</text>', "<text> is not drawn"),
        ('<image href="http://example.com/a.png"/>', "<image> is not drawn"),
        ('<use href="http://example.com/a.svg#b"/>', "another file"),
        ('<rect width="3" height="3" filter="url(#f)"/>', "filter is not applied"),
        ('<rect width="3" height="3" stroke="red" stroke-dasharray="1 2"/>', "stroke-dasharray"),
        ('<g clip-path="url(#c)"><rect width="3" height="3"/></g>', "clip-path"),
        ('<rect width="3" height="3" fill="url(#nothing)"/>', "left out"),
        ("<style>g > rect {fill: red}</style>", "style rule"),
        ("<script>alert(1)</script>", "<script> is not drawn"),
    ],
)
def test_what_is_not_drawn_is_noted(body: str, note: str) -> None:
    data = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{body}</svg>'
    assert any(note in found for found in parse_svg(data.encode()).notes)


def test_gradients_become_their_mean_colour_with_a_note() -> None:
    data = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><defs><linearGradient id="g">
    <stop stop-color="#000"/><stop offset="1" stop-color="#fff"/></linearGradient></defs>
    <rect width="9" height="9" fill="url(#g)"/></svg>"""
    document = parse_svg(data)
    fill = document.scene.paths[0].fill
    assert fill is not None
    assert fill.color.tolist() == pytest.approx([0.5] * 3)
    assert "mean colour" in document.notes[0]


HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
HOSTILE = {
    "entities": '<!DOCTYPE svg [<!ENTITY a "b"><!ENTITY c "&a;&a;">]>' + HEAD + "&c;</svg>",
    "file": '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + HEAD + "<text>&a;</text></svg>",
    "segments": HEAD + '<path d="M0 0' + "L1 2 3 4" * 500_000 + '"/></svg>',
    "doubling": HEAD
    + '<g id="a0"><rect width="1" height="1"/></g>'
    + "".join(f'<g id="a{i}"><use href="#a{i - 1}"/><use href="#a{i - 1}"/></g>' for i in range(1, 40))
    + "</svg>",
    "itself": HEAD + '<g id="a"><use href="#a"/></g></svg>',
    "circle": HEAD + '<defs><g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g></defs><use href="#a"/></svg>',
    "deep": HEAD + "<g>" * 200 + "</g>" * 200 + "</svg>",
    "deeper": HEAD + "<g>" * 5000 + "</g>" * 5000 + "</svg>",
    "huge": HEAD + '<path d="M0 0L1e300 1e300L5 5z"/></svg>',
    "numbers": HEAD + '<path d="M0 0Lnan nanL5 inf"/></svg>',
    "transform": HEAD + '<rect width="1" height="1" transform="scale(1e300)"/></svg>',
    "empty": "",
    "text": "just words",
    "html": "<html><body/></html>",
    "cut": HEAD + "<g",
    "frame": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 0 9"/>',
    "length": HEAD + '<rect width="3km" height="2"/></svg>',
    "digits": HEAD + f'<rect width="{"1" * 500_000}!"/></svg>',
    "blanks": HEAD + f'<rect width="1{" " * 500_000}!"/></svg>',
    "comments": HEAD + "<defs><g id='a'>" + "<!-- -->" * 20_000 + "</g></defs>" + "<use href='#a'/>" * 2500 + "</svg>",
    "attributes": HEAD + "<rect " + " ".join(f"a{i}='1'" for i in range(100_000)) + "/></svg>",
    "styles": HEAD
    + "<defs><rect id='a' style='"
    + "fill:red;" * 50_000
    + "'/></defs>"
    + "<use href='#a'/>" * 2500
    + "</svg>",
}


WORDS = {
    "entities": "declares entities",
    "file": "declares entities",
    "segments": "path segments",
    "doubling": "more than 3000 paths",
    "itself": "contains itself",
    "circle": "contains itself",
    "deep": "levels",
    "deeper": "not well-formed",
    "huge": "beyond",
    "numbers": "cannot be parsed",
    "transform": "transform=",
    "empty": "not well-formed",
    "text": "not well-formed",
    "html": "root is <html>",
    "cut": "not well-formed",
    "frame": "0 wide or high",
    "length": "width=",
    "digits": "width=",
    "blanks": "width=",
    "comments": "elements or",
    "attributes": "more than 200 attributes",
    "styles": "MB of attributes",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_end_in_a_clear_error(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    file.write_text(HOSTILE[kind])
    start = time.process_time()
    with pytest.raises(InputError, match=f"picture.svg: .*{WORDS[kind]}"):
        read_svg(file)
    assert time.process_time() - start < 5
    assert file.read_text() == HOSTILE[kind]


RED = "<rect class='a' width='1' height='1' fill='url(#g)'/>"
LONG = {
    "no rule": "<style>" + "a" * 500_000 + "</style>",
    "selectors": "<style>x" + " " * 500_000 + "!{fill:red}</style>",
    "comments": "<style>" + "/*" * 250_000 + "</style>",
    "imports": "<style>" + "@import (" * 50_000 + "</style>",
    "at rules": "<style>" + "@a ;" * 100_000 + "</style>",
    "rules": "<style>" + ".a{fill:red}" * 20_000 + "</style>" + RED * 1000,
    "calls": "<rect transform='" + "translate(" * 50_000 + "'/>",
    "arguments": "<rect transform='translate" + " " * 500_000 + "!'/>",
    "properties": "<rect style='" + "".join(f"p{i}:1;" for i in range(50_000)) + "'/>",
    "important": "<rect style='fill:a" + " " * 500_000 + "b'/>",
    "colours": "<rect fill='rgb(" + "1" * 500_000 + "!,1,1)'/>",
    "stops": "<linearGradient id='g'>" + "<stop/>" * 5000 + "</linearGradient>" + RED * 2000,
    "uses": "<g id='a'>" + "<g/>" * 9000 + "</g><defs>" + "<use href='#a'/>" * 9000 + "</defs>",
}


@pytest.mark.parametrize("kind", LONG)
def test_reading_time_grows_with_the_length_whatever_is_long(kind: str) -> None:
    data = f"{HEAD}{LONG[kind]}</svg>".encode()
    start = time.process_time()
    parse_svg(data)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("piece", ["L1 2", "t1 2", "s1 2 3 4", "a1 2 3 0 1 4 5", "M1 2L3 4", "M1 2L3 4z", "h1"])
def test_reading_time_grows_with_the_length_only(piece: str) -> None:
    count = 29_000 // (8 if piece[0] == "a" else 4)
    data = f'{HEAD}<path d="M0 0{piece * count}"/></svg>'
    start = time.process_time()
    document = parse_svg(data.encode())
    assert time.process_time() - start < 5
    drawn = sum(subpath.segments for subpath in document.scene.paths[0].subpaths)
    assert count <= drawn <= 30_000


def test_arcs_are_round() -> None:
    data = f'{HEAD}<path d="M6 4a2 2 0 1 1 -4 0a2 2 0 1 1 4 0z"/></svg>'
    image = render(parse_svg(data.encode()).scene, 90, 90)
    assert float((1 - image[0]).sum()) == pytest.approx(1256.6, abs=2)


def test_a_million_segments_stay_below_a_gibibyte(tmp_path: Path) -> None:
    file = tmp_path / "million.svg"
    file.write_text(HOSTILE["segments"])
    # VmHWM belongs to the process's own memory; getrusage of children counts every child the test run ever had.
    code = (
        "import sys, pathlib, re\nfrom pcs_ext.svg.vector.read import read_svg\n"
        "try: read_svg(pathlib.Path(sys.argv[1]))\nexcept Exception as e: print(type(e).__name__)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    error, kilobytes = done.stdout.split()
    assert error == "InputError"
    assert int(kilobytes) < 1 << 20


def test_a_rule_that_is_left_out_may_insist_too() -> None:
    data = f'{HEAD}<style>g path{{fill:red!important}}</style><g><path id="p" d="M0 0h9v9z" fill="#00f"/></g></svg>'
    document = parse_svg(data.encode())
    path = document.scene.paths[0]
    assert path.fill is not None
    fill = dataclasses.replace(path.fill, color=torch.tensor([0.0, 1.0, 0.0]))
    patched = patch_svg(document, dataclasses.replace(document.scene, paths=(dataclasses.replace(path, fill=fill),)))
    assert b"fill:#00ff00 !important" in patched
