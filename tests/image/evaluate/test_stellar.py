"""Stellar's scores against values worked out by hand."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.evaluate import load_image_encoder
from pcs_ext.image.evaluate.stellar import (
    FaceProbes,
    attribute_preservation,
    fitted,
    identity_preservation,
    identity_stability,
    object_accuracy,
    whole_pictures,
)
from tests.support.encoders import tiny_resnet


def grey(*levels: float) -> Tensor:
    """Pictures of one level each."""
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, 4, 4)


def faces(pictures: Tensor) -> Sequence[Tensor]:
    """A face network of the tests: the level is an angle; black pictures have no face, white ones two."""
    found = []
    for level in pictures[:, 0, 0, 0].tolist():
        angles = torch.tensor([] if level <= -1 else [0.0, 1.0] if level >= 1 else [level])
        found.append(torch.stack([angles.cos(), angles.sin()], 1))
    return found


def test_identity_is_the_most_alike_pair_of_faces_and_stability_the_least_over_photos() -> None:
    made, shown = grey(0.2, -1.0, 0.3, 0.9), grey(0.5, 0.1, -1.0, 1.0)
    expected = torch.tensor([0.3, 0.0, 0.0, 0.1]).cos() * torch.tensor([1.0, 0, 0, 1])
    torch.testing.assert_close(identity_preservation(made, shown, faces), expected)
    others = [grey(0.2, 0.6), grey(0.4), grey(0.3, -1.0), grey(0.0, 0.5)]
    expected = torch.tensor([0.4, 0.0, 0.0, 0.9]).cos() * torch.tensor([1.0, 0, 0, 1])
    torch.testing.assert_close(identity_stability(made, others, faces), expected)
    with pytest.raises(UsageError, match="4 pictures and 2 photos"):
        identity_preservation(made, shown[:2], faces)
    with pytest.raises(UsageError, match="needs one other photo"):
        identity_stability(made[:1], [grey()], faces)
    with pytest.raises(UsageError, match="0 pictures"):
        identity_preservation(grey(), grey(), faces)


def test_a_picture_may_stand_for_a_face(tmp_path: Path) -> None:
    encoder = load_image_encoder(tiny_resnet(tmp_path / "net"))
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    score = identity_preservation(pictures, pictures.flip(0), whole_pictures(encoder))
    vectors = encoder.encode_images(pictures)
    torch.testing.assert_close(score, (vectors * vectors.flip(0)).sum(1))
    torch.testing.assert_close(
        identity_preservation(pictures, pictures, whole_pictures(encoder)), torch.ones(2), atol=1e-5, rtol=0
    )


def test_a_probe_is_where_its_gradient_is_nothing() -> None:
    """Two points at +1 and -1: by symmetry no offset, and w = 2 (1 - sigmoid(w)), w = 0.8511 or so."""
    weights = fitted(torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert float(weights[1]) == pytest.approx(0, abs=1e-6)
    w = weights[0]
    torch.testing.assert_close(w, 2 * (1 - w.sigmoid()), atol=1e-6, rtol=0)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    labels = (vectors @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > 0.3).double()
    weights = fitted(vectors, labels)
    left = (vectors @ weights[:-1] + weights[-1]).sigmoid() - labels
    torch.testing.assert_close(weights[:-1] + vectors.T @ left, torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert float(left.sum()) == pytest.approx(0, abs=1e-5)


def test_attributes_are_read_by_probes_and_what_is_not_read_is_wrong() -> None:
    photos = grey(-0.9, -0.7, -0.5, 0.5, 0.7, 0.9, -1.0)
    known = [{"old": level > 0, "tall": True} for level in photos[:, 0, 0, 0].tolist()]
    probes = FaceProbes(photos, known, faces)
    assert set(probes.probes) == {"old"}, "what all share is not read"
    assert probes.id == "probes of old"
    made = grey(0.8, -0.8, 0.8, -1.0)
    assert probes(made) == [{"old": "yes"}, {"old": "no"}, {"old": "yes"}, {}]
    own = [{"old": "yes", "tall": "yes"}, {"old": "no"}, {"old": "no"}, {"old": "yes"}]
    shares, by_kind = attribute_preservation(made, own, probes)
    assert shares.tolist() == [0.5, 1.0, 0.0, 0.0]
    assert by_kind == {"old": 0.5, "tall": 0.0}
    with pytest.raises(UsageError, match="needs one attribute of every person"):
        attribute_preservation(made, [{}, *own[1:]], probes)
    with pytest.raises(UsageError, match="the same attributes of every photo"):
        FaceProbes(photos, [{"old": True}, *known[1:]], faces)
    with pytest.raises(UsageError, match="none was found"):
        FaceProbes(grey(-1.0), [{"old": True}], faces)


def test_objects_are_scored_by_how_surely_they_are_found_persons_passed_over() -> None:
    asked: list[tuple[str, ...]] = []

    def detector(picture: Tensor, names: Sequence[str]) -> Tensor:
        asked.append(tuple(names))
        return torch.linspace(float(picture.max()), 0, len(names))

    made = grey(0.8, 0.6, 0.4)
    scores = object_accuracy(made, [["dog", "kite"], ["knight", "horse"], ["astronaut"]], detector)
    assert scores == [pytest.approx(0.4), pytest.approx(0.6), None]
    assert asked == [("dog", "kite"), ("horse",)]
    with pytest.raises(UsageError, match=r"gave \(1,\) for 2 names"):
        object_accuracy(made[:1], [["dog", "kite"]], lambda picture, names: torch.ones(1))
