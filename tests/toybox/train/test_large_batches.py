"""What training on a GPU needs besides: many processes, many captions at once, passes that are replayed."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.train import data
from pcs_ext.toybox.train.__main__ import run, train
from pcs_ext.toybox.train.graphs import Replay, capture_passes
from pcs_ext.toybox.train.settings import PRESETS, Settings
from pcs_ext.toybox.train.stage import generator_on
from pcs_ext.toybox.train.tokenizer import token_ids
from pcs_ext.toybox.train.workers import in_processes

SMALL = Settings(resolution=16, scenes=4)


def test_processes_render_what_one_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_SHARD", 2)
    folders = []
    for processes in (1, 2):
        monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path / str(processes)))
        settings = dataclasses.replace(SMALL, scenes=2, processes=processes)
        run("data", settings, 0, None, SilentReporter())
        folders.append(settings.folder)
    files = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("*.*"))
    assert len(files) == 9
    for file in files:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


def test_what_goes_wrong_in_a_process_is_told() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        in_processes(int, [("1",), ("no number",)], 2, lambda done: None)


def test_a_million_captions_are_read_as_one_is() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(weights_path("base") / "tokenizer")
    captions = ["", "a photo of a red robot in the snow", "Żółw, a blue cat", "dog " * 90]
    for length in (12, 77):
        one = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        assert torch.equal(token_ids(tokenizer, captions, length).long(), one.input_ids)


def test_on_a_cpu_nothing_is_captured_and_noise_comes_from_the_generator_itself() -> None:
    layer, given = nn.Linear(2, 2), torch.ones(1, 2)
    own = layer.forward
    capture_passes(layer, given)
    assert layer.forward == own
    read = Replay(lambda tensor: tensor * 2)
    assert torch.equal(read(given), given * 2)
    generator = torch.Generator().manual_seed(0)
    assert generator_on(torch.device("cpu"), generator) is generator


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_presets_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train("data", preset="small-gpu")
    assert "use --preset cpu" in capsys.readouterr().err


def test_a_gpu_makes_what_ships_from_the_same_geometry() -> None:
    small, cpu = PRESETS["small-gpu"], PRESETS["cpu"]
    assert (small.device, small.batches) == ("cuda", 32)
    same = dataclasses.replace(
        small, device=cpu.device, batches=cpu.batches, processes=cpu.processes, scenes=cpu.scenes
    )
    assert same == cpu
