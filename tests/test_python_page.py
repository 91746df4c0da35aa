"""The blocks of docs/python.md run, one after another, as a reader would type them."""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import pytest

from pcs_ext.image.recipes.presets import SAMPLING

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
_FEW = {
    r"\bsteps=\d+": "steps=2",
    r"\bclass_images=16\b": "class_images=2",
    r"seeds=\[0, 1\]": "seeds=[0]",
    r'output="rex", ': 'output="rex", recipe="textual-inversion", ',  # the default one paints 64 class images first
}
"""What the page would take minutes for."""


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "examples" / "rex", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SAMPLING, "toybox", dataclasses.replace(SAMPLING["toybox"], num_inference_steps=2))
    names: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(blocks()):
        for long, short in _FEW.items():
            block = re.sub(long, short, block)
        exec(compile(block, f"{PAGE.name} block {number + 1}", "exec"), names)
    made = set(os.listdir(tmp_path))
    assert {"rex", "small", "two", "two.png", "small.json", "rex-3.png"} <= made
    assert not any(name.endswith(".training") for name in made)
    shown = capsys.readouterr().out
    assert "| textual-inversion |" in shown
    assert "| custom-diffusion |" in shown
    assert "torch.Size([1, 3, 64, 64])" in shown


def test_the_json_of_the_page_is_taken_by_the_command_line(tmp_path: Path) -> None:
    from pcs_ext.config_io import write_json
    from pcs_ext.image.learn import plan
    from pcs_ext.image.recipes import RECIPES

    own = dataclasses.replace(RECIPES["dreambooth-lora"].build("dog", "toybox"), id="own")
    write_json(tmp_path / "own.json", own)
    photos = ROOT / "examples" / "rex"
    assert plan(photos, noun="dog", config=tmp_path / "own.json")["recipe"]["id"] == "own"


def test_what_is_loaded_on_first_use_is_listed_before() -> None:
    import pcs_ext

    assert {"Artifact", "evaluate", "learn"} <= set(dir(pcs_ext))
    assert all(callable(getattr(pcs_ext, name)) for name in ("Artifact", "evaluate", "learn"))
    with pytest.raises(AttributeError, match="no attribute 'lern'"):
        getattr(pcs_ext, "lern")  # noqa: B009
