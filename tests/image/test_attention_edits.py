"""Captured, replaced and blended attention: exact at both ends, only in the rows, layers and steps that are meant."""

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.attention import (
    AttentionMaps,
    attention_program,
    decoder_paths,
    path_grid,
    self_attention_paths,
    token_grid,
)
from pcs_ext.image.attention_edits import AttentionEdit, Blend, Capture, branch_rows, edited, on_cells, with_rows
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample

CONFIG = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=3.0)
PROMPTS = ["a red dog", "a cat in the snow"]


@pytest.fixture(params=["sd", "sdxl"])
def backbone(request: pytest.FixtureRequest) -> AbstractBackbone:
    return request.getfixturevalue(request.param)


def latents(backbone: AbstractBackbone, count: int = 2, size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    return torch.randn(count, backbone.latent_channels, *size, generator=torch.Generator().manual_seed(0))


def predicted(backbone: AbstractBackbone, noisy: torch.Tensor | None = None) -> torch.Tensor:
    noisy = latents(backbone) if noisy is None else noisy
    return backbone.predict(noisy, torch.tensor([500, 500]), backbone.encode_prompt(PROMPTS))


def drawn(backbone: AbstractBackbone, edits: list[AttentionEdit], rows: slice = slice(None)) -> torch.Tensor:
    hooks = SampleHooks(predict=edited(backbone, edits))
    return sample(backbone, PROMPTS[rows], seeds=[1, 2][rows], config=CONFIG, hooks=hooks)


@torch.no_grad()
def test_edits_of_no_duration_change_no_bit(backbone: AbstractBackbone) -> None:
    paths, plain = self_attention_paths(backbone), drawn(backbone, [])
    assert torch.equal(plain, sample(backbone, PROMPTS, seeds=[1, 2], config=CONFIG))
    never = [AttentionEdit(program=Blend([0], [1]), paths=paths, at=at, last=0.0) for at in ("probabilities", "output")]
    assert torch.equal(drawn(backbone, never), plain)
    nothing = AttentionEdit(program=Blend([0], [1], weight=0.0), paths=paths, at="output")
    assert torch.equal(drawn(backbone, [nothing]), plain)
    masked = Blend([0], [1], weight=torch.zeros(1, 1, 8, 8))
    assert torch.equal(drawn(backbone, [AttentionEdit(program=masked, paths=paths, at="output")]), plain)


@torch.no_grad()
def test_all_of_another_row_makes_the_rows_equal(backbone: AbstractBackbone) -> None:
    same = latents(backbone)[:1].repeat(2, 1, 1, 1)
    cross, own = backbone.cross_attention_paths(), self_attention_paths(backbone)
    assert not torch.equal(*predicted(backbone, same))
    with attention_program(backbone, Blend([0], [1]), cross, at="output"):
        first, second = predicted(backbone, same)
    if backbone.family == "sd":  # SDXL also reads the pooled text
        assert torch.equal(first, second)
    seen = Capture([1])
    with (
        attention_program(backbone, Blend([0], [1]), own, at="output"),
        attention_program(backbone, seen, own, at="output"),
    ):
        expected = predicted(backbone)[0]
    assert set(seen.seen) == set(own)
    torch.testing.assert_close(expected, predicted(backbone)[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_masked_blend_acts_inside_alone(sd: AbstractBackbone) -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    path = self_attention_paths(sd)[0]
    plain, mixed = Capture(), Capture()
    with attention_program(sd, plain, [path], at="output"):
        predicted(sd)
    with (
        attention_program(sd, Blend([0], [1], weight=mask), [path], at="output"),
        attention_program(sd, mixed, [path], at="output"),
    ):
        predicted(sd)
    before, after = plain.seen[path], mixed.seen[path]
    inside = on_cells(mask, before.shape[1])[:, 0] == 1
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1][~inside], before[1][~inside])
    assert torch.equal(after[1][inside], before[0][inside])
    assert not torch.equal(before[0][inside], before[1][inside])


@torch.no_grad()
def test_captured_attention_returns_in_a_later_pass(sd: AbstractBackbone) -> None:
    paths, kept = decoder_paths(self_attention_paths(sd)), Capture([0])
    assert paths
    assert all(path.startswith("up_blocks") for path in paths)
    with attention_program(sd, kept, paths):
        predicted(sd)
    other = latents(sd).flip(0)
    after = Capture()
    with (
        attention_program(sd, Blend([0, 0], [0, 1], captured=kept), paths),
        attention_program(sd, after, paths),
    ):
        predicted(sd, other)
    for path in paths:
        assert torch.equal(after.seen[path][0], kept.seen[path][0])
        assert torch.equal(after.seen[path][1], kept.seen[path][0])


@torch.no_grad()
@pytest.mark.parametrize("at", ["queries", "keys", "values", "output"])
def test_places_beside_the_softmax_keep_the_fused_kernel(backbone: AbstractBackbone, at: str) -> None:
    processors = dict(backbone.denoiser.attn_processors)
    seen = Capture()
    paths = (*self_attention_paths(backbone), *backbone.cross_attention_paths())
    with attention_program(backbone, seen, paths, at=at):  # type: ignore[arg-type]
        inside = predicted(backbone)
        assert dict(backbone.denoiser.attn_processors) == processors
    assert torch.equal(inside, predicted(backbone))
    assert all(tensor.dim() == 3 for tensor in seen.seen.values())
    assert set(seen.seen) == set(paths)
    with attention_program(backbone, lambda path, tensor: tensor * 0, paths, at=at):  # type: ignore[arg-type]
        assert not torch.equal(predicted(backbone), inside)
    assert torch.equal(inside, predicted(backbone))


@torch.no_grad()
def test_scores_come_before_probabilities_whatever_the_order_of_nesting(sd: AbstractBackbone) -> None:
    def forbid(path: str, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[..., 2] = float("-inf")
        return scores

    for order in (("scores", "probabilities"), ("probabilities", "scores")):
        seen = Capture()
        programs = {"scores": forbid, "probabilities": seen}
        with (
            attention_program(sd, programs[order[0]], at=order[0]),  # type: ignore[arg-type]
            attention_program(sd, programs[order[1]], at=order[1]),  # type: ignore[arg-type]
        ):
            predicted(sd)
        for probabilities in seen.seen.values():
            assert not probabilities[..., 2].any()
            torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]))
    with attention_program(sd, lambda path, scores: scores, at="scores"):
        torch.testing.assert_close(predicted(sd), predicted(sd), atol=1e-5, rtol=0)


@torch.no_grad()
def test_edits_act_in_their_share_of_the_steps(sd: AbstractBackbone) -> None:
    calls: list[str] = []

    def count(path: str, tensor: torch.Tensor) -> torch.Tensor:
        calls.append(path)
        return tensor

    path = self_attention_paths(sd)[:1]
    for first, last, expected in ((0.0, 0.5, 2), (0.5, 1.0, 2), (0.25, 0.5, 1), (0.0, 1.0, 4)):
        calls.clear()
        drawn(sd, [AttentionEdit(program=count, paths=path, at="output", first=first, last=last)])
        assert len(calls) == expected, (first, last)


def test_cells_of_pictures_that_are_not_square(sd: AbstractBackbone) -> None:
    assert token_grid(8 * 12, (8, 12)) == (8, 12)
    assert token_grid(4 * 6, (8, 12)) == (4, 6)
    assert token_grid(3 * 2, (9, 7)) == (3, 2)
    with pytest.raises(UsageError, match="over 7 cells does not belong to latents of 8 x 12"):
        token_grid(7, (8, 12))
    maps, seen = AttentionMaps(side=8, size=(8, 12)), Capture()
    paths = sd.cross_attention_paths()
    with torch.no_grad(), attention_program(sd, maps), attention_program(sd, seen):
        predicted(sd, latents(sd, size=(8, 12)))
    assert maps.maps().shape == (2, 24, 8, 12)
    for path in paths:
        rows, columns = path_grid(sd, path, (8, 12))
        assert rows * columns == seen.seen[path].shape[-2], path


def test_rows_are_copied_and_branches_counted() -> None:
    tensor = torch.arange(6.0).reshape(3, 2)
    changed = with_rows(tensor, [1], torch.tensor([[9.0, 9.0]]))
    assert changed.tolist() == [[0, 1], [9, 9], [4, 5]]
    assert tensor[1].tolist() == [2, 3]
    assert branch_rows(1, 3, guided=True) == [1, 4]
    assert branch_rows(1, 3, guided=False) == [1]
