"""The measures against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pcs_ext.image.evaluate import metrics
from pcs_ext.image.evaluate.figure import figure_over, pooled_figure


def _unit(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_identical_images_are_as_similar_as_can_be():
    same = _unit(1, 8).expand(5, 8)
    assert torch.allclose(metrics.reference_similarity(same, same[:3]), torch.ones(5))
    assert torch.allclose(metrics.drift(same, same), torch.zeros(5), atol=1e-6)
    assert metrics.vendi_score(same) == pytest.approx(1)
    assert metrics.pairwise_distance(same) == pytest.approx(0, abs=1e-6)


def test_orthogonal_images_are_all_different():
    basis = torch.eye(6)
    assert metrics.vendi_score(basis) == pytest.approx(6)
    assert metrics.pairwise_distance(basis) == pytest.approx(1)
    # Each image meets itself once among six references.
    assert torch.allclose(metrics.reference_similarity(basis, basis), torch.full((6,), 1 / 6))


def test_vendi_of_two_images_is_the_entropy_of_two_eigenvalues():
    # cos = 0.6: eigenvalues of [[1, .6], [.6, 1]] / 2 are 0.8 and 0.2.
    pair = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    expected = math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert metrics.vendi_score(pair) == pytest.approx(expected)
    assert metrics.pairwise_distance(pair) == pytest.approx(0.4)


def test_similarity_to_others_leaves_the_image_itself_out():
    three = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(metrics.similarity_to_others(three), torch.tensor([0.5, 0.5, 0.0]))


def test_paired_similarity_pairs_rows():
    first, second = _unit(4, 8), _unit(4, 8, seed=1)
    assert torch.allclose(metrics.paired_similarity(first, second), (first @ second.T).diagonal())


@given(count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_vendi_lies_between_one_and_the_count_whatever_the_order(count, seed):
    images = _unit(count, 5, seed)
    score = metrics.vendi_score(images)
    assert 1 - 1e-6 <= score <= count + 1e-6
    assert metrics.vendi_score(images.flip(0)) == pytest.approx(score)


def test_attribute_hits_judge_only_what_was_asked():
    read = [{"context": "snow", "style": "photo"}, {"context": "beach"}, {}]
    expected = [{"context": "snow"}, {"context": "snow"}, {"view": "side"}]
    assert metrics.attribute_hits(read, expected) == [(0, "context", True), (1, "context", False), (2, "view", False)]


def test_the_bootstrap_interval_has_the_width_of_the_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = metrics.bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    assert metrics.bootstrap_interval([3.0]) == (3.0, 3.0)
    assert metrics.bootstrap_interval(values) == (low, high)


def test_a_figure_weighs_units_and_not_images():
    figure = figure_over([[1.0, 1.0, 1.0], [0.0], []], unit="seed", prompts=3, encoder="e", higher_is_better=True)
    assert figure.value == 0.5
    assert figure.spread == pytest.approx(math.sqrt(0.5))
    assert (figure.n, figure.units, figure.interval) == (4, 2, (0.0, 1.0))


def test_figures_of_different_encoders_are_not_averaged():
    figures = [
        figure_over([[1.0]], unit="seed", prompts=1, encoder=name, higher_is_better=True)
        for name in ("first", "second")
    ]
    with pytest.raises(AssertionError, match="different encoders"):
        pooled_figure(figures)
    pooled = pooled_figure([figures[0], figures[0]])
    assert (pooled.unit, pooled.units, pooled.n, pooled.spread) == ("subject", 2, 2, 0.0)
