"""The reference stage at a tiny size: trains on pairs, goes on where it stopped, and is exported as published files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pcs_ext.errors import InputError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import WEIGHTS, encoder_folder, open_adapter
from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.train.__main__ import run
from pcs_ext.toybox.train.export import export_reference
from pcs_ext.toybox.train.reference import ENCODER, pair_data, short_captions, train_reference
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.world.vocabulary import CLASSES

TINY = Settings(resolution=32, vae_factor=4, scenes=8)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    run("data", TINY, 0, None, SilentReporter())
    return TINY.folder


def test_the_stage_goes_on_where_it_stopped_and_exports(rendered: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the stage reference first"):
        export_reference(TINY, SilentReporter(), tmp_path / "weights")
    train_reference(TINY, 3, 1e-9, SilentReporter(), base=tiny_sd_path)  # out of time after one step
    assert [path.name for path in (rendered / "reference").glob("step-*")] == ["step-00000001"]
    train_reference(TINY, 3, None, SilentReporter(), base=tiny_sd_path)
    resumed = load_file(rendered / "models" / "reference" / WEIGHTS)
    (rendered / "reference").rename(rendered / "before")
    train_reference(TINY, 3, None, SilentReporter(), base=tiny_sd_path)
    straight = load_file(rendered / "models" / "reference" / WEIGHTS)
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    export_reference(TINY, SilentReporter(), tmp_path / "weights")
    folder = tmp_path / "weights" / "reference"
    assert {tensor.dtype for tensor in load_file(folder / WEIGHTS).values()} == {torch.float16}
    assert "python -m pcs_ext.toybox.train reference --steps 3" in (folder / "README.md").read_text(encoding="utf-8")
    opened = open_adapter(load_backbone(tiny_sd_path, device="cpu", precision="fp32"), str(folder))
    assert opened.encoder.digest == open_encoder(encoder_folder(ENCODER), "embedding").digest


def test_pairs_are_encoded_once_and_name_the_toy_in_two_ways(rendered: Path, tiny_sd_path: Path) -> None:
    backbone = load_backbone(tiny_sd_path, device="cpu", precision="fp32")
    encoder = open_encoder(encoder_folder(ENCODER), "embedding")
    data = pair_data(TINY, backbone, encoder, SilentReporter())
    assert (data.latents.shape, data.features.shape) == ((8, 4, 8, 8), (8, 256))
    assert data.weights is not None
    assert data.weights.shape == (8, 1, 8, 8)
    assert [group.tolist() for group in data.groups] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    path = rendered / "models" / "pair_latents.safetensors"
    written = path.stat().st_mtime_ns
    again = pair_data(TINY, backbone, encoder, SilentReporter())
    assert torch.equal(again.latents, data.latents)
    assert path.stat().st_mtime_ns == written
    for said in data.captions:
        long, short = said[:3], said[3:]
        assert len(short) == len(long)
        assert all(any(f" of a {name} " in text for name in CLASSES) for text in short), "no colour, no pattern"


def test_short_captions_leave_to_the_picture_what_it_tells() -> None:
    truth = {
        "class": "robot", "color": "red", "pattern": "striped", "accessory": "wearing a crown",
        "context": "on the beach", "style": "a photo of", "view": "front view", "motion": "",
    }  # fmt: skip
    text = "a photo of a robot wearing a crown on the beach"
    assert short_captions(truth) == (text, text, f"{text}, front view")


def test_a_base_of_another_resolution_is_refused(tiny_sd_path: Path) -> None:
    with pytest.raises(InputError, match="the base draws 32 pixels, this generation's data have 64"):
        train_reference(Settings(resolution=64), 1, None, SilentReporter(), base=tiny_sd_path)
