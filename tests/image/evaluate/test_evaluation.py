"""`evaluate` as users call it: what it hands to the protocol."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcs_ext import evaluation

PHOTOS = Path(__file__).parents[3] / "examples" / "rex"


def test_what_judges_is_on_the_device_that_was_asked_for(
    clip_folder: Path, dino_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    learned = SimpleNamespace(data=SimpleNamespace(base_name="owner/base"), backbone=lambda *_, **asked: asked)
    monkeypatch.setattr(evaluation.Artifact, "load", lambda _: learned)
    monkeypatch.setattr(evaluation, "choose_device", {"cuda": torch.device("meta")}.__getitem__)
    monkeypatch.setattr(evaluation, "evaluate_artifact", lambda *_, **named: given.update(named))
    evaluation.evaluate(tmp_path, PHOTOS, tmp_path / "out", clip=clip_folder, dino=dino_folder, device="cuda")
    assert given["backbone"]["device"] == "cuda"
    for judge in (given["judges"].clip, given["judges"].dino):
        assert {parameter.device.type for parameter in judge.model.parameters()} == {"meta"}
