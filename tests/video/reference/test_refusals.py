"""Adapters for pictures that reach into the steps of a sampling are refused in clips, each for its own reason."""

from pathlib import Path

import pytest

from pcs_ext.errors import UsageError
from pcs_ext.image.reference.files import save_adapter
from pcs_ext.image.reference.kinds import adapter_class
from pcs_ext.video.reference.base import spatial_base
from pcs_ext.video.reference.photos import PhotoRequest
from tests.image.reference.test_kinds import said
from tests.support.tiny_clip_reference import tiny_clip_base
from tests.support.tiny_reference import TINY, at_random, tiny_system, tiny_vision

REASONS = {
    "profusion": "changes the picture before every step",
    "dreamtuner": "guidance go away from the words and from a noisier photo by turns",
    "re-imagen": "guidance go away from the words and from the photos by turns",
    "suti": "guidance go away from the words and from the photos by turns",
    "face-diffuser": "saliency say in every step which of two models draws what",
    "moma": "shows the photos where the step before drew the subject",
}


def test_the_reason_is_the_systems_own(tmp_path: Path, photos: Path) -> None:
    eye, video = tiny_vision(tmp_path / "eye"), tiny_clip_base("stylecrafter", tmp_path)
    base = spatial_base(video)
    for system, reason in REASONS.items():
        adapter, encoder = tiny_system(system, base, eye)
        at_random(adapter, base)
        save_adapter(adapter, said(system, base, encoder, eye), tmp_path / system, half=False)
        nouns = ("dog",) if adapter.asks_noun else ()
        request = PhotoRequest(photos=(photos / "0.png",), adapter=str(tmp_path / system), nouns=nouns)
        with pytest.raises(UsageError, match=f"{reason}.*; that is done where pictures are drawn, and not in clips"):
            request.show(video, ["a photo of the dog"], 3)


def test_who_reaches_into_steps_says_what_it_does_there() -> None:
    kinds = {system: adapter_class(config) for system, config in TINY.items()}
    assert {system for system, kind in kinds.items() if kind.in_steps} == set(REASONS)
    assert all(kind.in_steps for kind in kinds.values() if kind.refines or kind.mixes)
