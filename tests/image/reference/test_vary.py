"""Identities that are mixed in a style space: who they are, how they are shown, and the command."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ModelError, PhotoError, UsageError
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.style_networks import StyleAutoencoder, StyleNetworks
from pcs_ext.image.reference.style_space import save_style_space
from pcs_ext.image.reference.vary import Seen, invented, vary_pairs
from tests.support.command_line import run
from tests.support.tiny_albums import albums


def test_an_identity_is_between_two_and_shown_as_others_are() -> None:
    """Three albums whose means are 0, 10 and 200, with differences of 1 and -1, 2 and -2, 3 and -3."""
    seen = [
        Seen(
            noun="dog", mean=torch.full((2, 1), mean), differences=torch.tensor([[[own], [own]], [[-own], [-own]]]),
            captions=(f"{own:.0f}", f"{-own:.0f}"),
        )
        for mean, own in ((0.0, 1.0), (10.0, 2.0), (200.0, 3.0))
    ]  # fmt: skip
    for number in range(20):
        codes, captions = invented(seen, 8, torch.Generator().manual_seed(number))
        assert codes.shape == (8, 2, 1)
        who = codes[:, 0, 0] - torch.tensor([float(caption) for caption in captions])
        torch.testing.assert_close(who, who[:1].expand(8), msg="all pictures show one")
        pairs = ((0.0, 10.0), (0.0, 200.0), (10.0, 200.0))
        shares = [(float(who[0]) - low) / (high - low) for low, high in pairs]
        assert any(0.29 < share < 0.71 for share in shares)
        assert len(set(captions[:6])) == 6, "none is borrowed twice before all were"
        assert captions[6:] == captions[:2]
    again, _ = invented(seen, 8, torch.Generator().manual_seed(19))
    assert torch.equal(codes, again)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    space = tmp_path / "space"
    save_style_space(StyleAutoencoder(StyleNetworks(resolution=32, width=8, depth=1, channels=8, capacity=64)), space)
    pairs = albums(tmp_path / "pairs", couples=1)
    asked = ("--space", str(space), "--identities", "2", "--photos", "3", "--device", "cpu")
    with pytest.raises(PhotoError, match="no noun has two albums"):
        vary_pairs(pairs, pairs, space=space)
    albums(tmp_path / "more")
    (tmp_path / "more" / "dog-album").rename(pairs / "other-dog")
    command = ("reference", "vary", str(pairs), "-o", str(pairs), *asked)
    code, printed, err = run(*command, capture=capsys)
    assert (code, printed.split()) == (0, [str(pairs)]), err
    made = [own for own in read_subjects(pairs, several=True) if "synthetic" in str(own.photos[0].path)]
    assert [(own.nouns, len(own.photos)) for own in made] == [(("dog",), 3)] * 2
    assert all(photo.mask is not None and photo.mask.min() == 1 for own in made for photo in own.photos)
    assert all(photo.caption == "a photo of the dog" for own in made for photo in own.photos)
    with Image.open(made[0].photos[0].path) as image:
        assert image.size == (32, 32)
    # What is there is kept, and lends nothing to others.
    first = (pairs / "synthetic-00000" / "0.png").read_bytes()
    vary_pairs(pairs, tmp_path / "again", space=space, identities=1, photos=3, device="cpu")
    assert (tmp_path / "again" / "synthetic-00000" / "0.png").read_bytes() == first
    code, _, err = run(*command[:-1], "cpu", "--photos", "1", capture=capsys)
    assert (code, "two photos or more each" in err) == (2, True), err
    with pytest.raises(UsageError, match="expected one identity or more"):
        vary_pairs(pairs, pairs, space=space, identities=0)
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "config.json").write_text('{"kind": "style-space", "written": {"styles": 4, "width": 8}}')
    with pytest.raises(ModelError, match="codes that another tool writes"):
        vary_pairs(pairs, pairs, space=tmp_path / "codes")
