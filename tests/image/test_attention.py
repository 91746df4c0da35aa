"""Attention programs: exact when they change nothing, exact again when they are gone."""

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.attention import AttentionMaps, attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample


def _predict(backbone: AbstractBackbone) -> torch.Tensor:
    latents = torch.randn(2, backbone.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = backbone.encode_prompt(["a red dog", "a cat"])
    return backbone.predict(latents, torch.tensor([300, 700]), conditioning)


@torch.no_grad()
def test_a_program_that_changes_nothing_changes_nothing(sd: AbstractBackbone) -> None:
    before = _predict(sd)
    processors = dict(sd.denoiser.attn_processors)
    everything = [name for name, module in sd.denoiser.named_modules() if name.endswith((".attn1", ".attn2"))]
    with attention_program(sd, lambda path, probabilities: probabilities, everything):
        torch.testing.assert_close(_predict(sd), before, atol=1e-5, rtol=0)
    assert torch.equal(_predict(sd), before)
    assert dict(sd.denoiser.attn_processors) == processors


@torch.no_grad()
def test_probabilities_arrive_with_their_path_and_can_be_replaced(sd: AbstractBackbone) -> None:
    before, seen = _predict(sd), {}

    def only_first_token(path: str, probabilities: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]))
        seen[path] = probabilities.shape
        return torch.nn.functional.one_hot(
            torch.zeros(probabilities.shape[:-1]).long(), probabilities.shape[-1]
        ).float()

    with attention_program(sd, only_first_token):
        changed = _predict(sd)
    assert tuple(seen) == sd.cross_attention_paths()
    assert all(shape[0] == 2 and shape[-1] == 24 for shape in seen.values())
    assert not torch.allclose(changed, before, atol=1e-4)
    # The first token is the start mark, the same in every prompt: what is left cannot depend on the words.
    latents = torch.zeros(1, sd.latent_channels, 8, 8)
    with attention_program(sd, only_first_token):
        a, b = (sd.predict(latents, torch.tensor([500]), sd.encode_prompt([p])) for p in ("a red dog", "snow"))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@torch.no_grad()
def test_maps_sum_to_one_and_keep_the_asked_rows(sd: AbstractBackbone) -> None:
    maps = AttentionMaps(side=8, rows=slice(2, None))
    hooks = SampleHooks(attention=lambda: attention_program(sd, maps))
    config = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=2.0)
    sample(sd, ["a red dog", "a cat"], seeds=[0, 1], config=config, hooks=hooks)
    assert maps.maps().shape == (2, 24, 8, 8)
    assert maps.calls == 3 * len(sd.cross_attention_paths())
    torch.testing.assert_close(maps.maps().sum(1), torch.ones(2, 8, 8), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("cells", "expected"), [((64, 32, 16, 8), 16), ((64, 32), 32), ((96, 48, 24, 12), 24)])
def test_exact_maps_are_the_coarsest_of_at_least_the_side(cells: tuple[int, ...], expected: int) -> None:
    """SD at 512 pixels, SDXL at 1024, SD 2.x at 768."""
    maps = AttentionMaps(16, exact=True)
    for side in (*cells, *reversed(cells)):
        maps("down", torch.full((1, 2, side * side, 3), float(side)))
    assert maps.maps().shape == (1, 3, expected, expected)
    assert (maps.calls, float(maps.maps().mean())) == (2, expected)
    with pytest.raises(UsageError, match="of 16 x 16 cells or more was recorded"):
        AttentionMaps(16, exact=True).maps()


def test_programs_nest_and_keep_gradients(sd: AbstractBackbone) -> None:
    outer, inner = AttentionMaps(side=8), AttentionMaps(side=8)
    states = sd.encode_prompt(["a red dog"])
    latents = torch.zeros(1, sd.latent_channels, 8, 8, requires_grad=True)
    with attention_program(sd, outer), attention_program(sd, inner):
        sd.predict(latents, torch.tensor([500]), states)
    assert outer.calls == inner.calls > 0
    inner.maps()[:, 3].sum().backward()
    assert latents.grad is not None
    assert float(latents.grad.abs().sum()) > 0


def test_wrong_requests_are_named(sd: AbstractBackbone) -> None:
    with (
        pytest.raises(UsageError, match=r"'mid_block.nothing' is no module"),
        attention_program(sd, lambda path, probabilities: probabilities, ["mid_block.nothing"]),
    ):
        pass
    with pytest.raises(UsageError, match="no attention was recorded"):
        AttentionMaps().maps()
