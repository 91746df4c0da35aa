"""Subjects learned on a loss of their own: cut off or not, the same bits."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ArtifactError
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import SilentReporter
from pcs_ext.video.subject_request import SubjectRequest
from tests.support.encoders import tiny_clip


class PowerCut(SilentReporter):
    """Ends the process, as it were, after the second step."""

    def progress(self, task: str, step: int, total: int, **fields: float) -> None:
        if step == 2:
            raise RuntimeError("power cut")


def test_a_run_that_is_cut_off_ends_as_one_that_is_not(photos: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    """The visual branch, which is no part of what is saved, is taken up again too. And where activations are computed
    again, to rounding."""
    request = SubjectRequest(
        sources=(photos,),
        recipe="videodreamer",
        noun="dog",
        base=str(tiny_sd_path),
        image_encoder=tiny_clip(tmp_path / "clip"),
        steps=4,
        device="cpu",
        precision="fp32",
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    request.run(whole, seed=3, overwrite=False, reporter=SilentReporter())
    with pytest.raises(RuntimeError, match="power cut"):
        request.run(cut, seed=3, overwrite=False, reporter=PowerCut())
    assert not cut.exists()
    request.run(cut, seed=3, overwrite=False, reporter=SilentReporter())
    one, other = Artifact.load(whole).data, Artifact.load(cut).data
    assert one.training["losses"] == other.training["losses"]
    assert len(one.training["losses"]) == 4
    for name in one.adapters:
        for key, tensor in one.tensors_of(name).items():
            assert torch.equal(tensor, other.tensors_of(name)[key]), key
    saving, leaner = dataclasses.replace(request, checkpoint_activations=True), tmp_path / "leaner"
    saving.run(leaner, seed=3, overwrite=False, reporter=SilentReporter())
    for name in one.adapters:
        for key, tensor in Artifact.load(leaner).data.tensors_of(name).items():
            torch.testing.assert_close(tensor, one.tensors_of(name)[key], atol=1e-5, rtol=1e-3)
    with pytest.raises(ArtifactError, match="exists already"):
        request.run(cut, seed=3, overwrite=False, reporter=SilentReporter())
