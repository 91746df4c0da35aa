"""Pairs that a base draws of names it knows, as users ask for them."""

from pathlib import Path

import pytest

from pcs_ext.image.reference.albums import read_subjects
from tests.support.command_line import run


def test_a_base_invents_pairs_that_can_be_learned_from(
    tiny_sd_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs"
    asked = ["--noun", "dog", "-o", pairs, "--base", tiny_sd_path, "--device", "cpu", "--precision", "fp32"]
    prompts = ["--prompts", "a photo of {subject}", "{subject} on beach"]
    code, out, err = run("reference", "invent", "red dog", *asked, *prompts, capture=capsys)
    assert (code, out.split()) == (0, [str(pairs)]), err
    before = (pairs / "red-dog" / "0.png").read_bytes()
    code, _, err = run("reference", "invent", "red dog", "blue dog", *asked, *prompts, capture=capsys)
    assert code == 0, err
    assert (pairs / "red-dog" / "0.png").read_bytes() == before
    one, other = read_subjects(pairs, asks_noun=True)
    assert one.nouns == other.nouns == ("dog",)
    assert [photo.caption for photo in one.photos] == ["a photo of dog", "dog on beach"]
    assert (one.photos[0].image - other.photos[0].image).abs().max() > 0.01
    code, _, err = run("reference", "invent", "cat", *asked, "--prompts", "a cat", "{subject}", capture=capsys)
    assert (code, "has no {subject}" in err) == (2, True), err
