"""VSD, SJC, x0 reconstruction and Perp-Neg against closed forms and against SDS."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.types import Conditioning, LossTerms
from pcs_ext.threed.cameras import Cameras, orbit, ring
from pcs_ext.threed.clip_guidance import ClipGuidance
from pcs_ext.threed.distillation import (
    RECONSTRUCTION,
    SJC,
    DistillationConfig,
    distilled_score,
    guided_epsilon,
    perp_neg,
    rescaled,
)
from pcs_ext.threed.guidance import AbstractGuidance, DividedGuidance, ScoreGuidance, SingleViews, build_guidance
from pcs_ext.threed.multiview import MultiViewAdapter, camera_numbers
from pcs_ext.threed.perp_neg import PerpNegPrompts, blend
from pcs_ext.threed.personalized import PersonalizedConfig
from pcs_ext.threed.recipes import RECIPES, TextTo3dRecipe
from pcs_ext.threed.variational import VariationalConfig, VariationalScore
from pcs_ext.threed.view_prompts import DIRECTIONS, ViewWords
from tests.support.gaussian import GaussianBackbone
from tests.support.tiny import tiny_backbone


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> AbstractUnetBackbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "base")


def gaussian_case(count: int = 4) -> tuple[GaussianBackbone, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    return GaussianBackbone(), latents, torch.linspace(50, 950, count).long(), noise


def test_sjc_has_the_mean_of_uniform_sds_and_more_variance() -> None:
    backbone, _, _, _ = gaussian_case()
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=generator).expand(4000, -1, -1, -1)
    noise = torch.randn(latents.shape, dtype=torch.float64, generator=generator)
    prompts = backbone.encode_prompt([""] * 4000), backbone.encode_prompt(["a dog"] * 4000)
    t = torch.full((4000,), 400)
    kept, subtracted = (
        distilled_score(backbone, latents, t, noise, *prompts, config)
        for config in (SJC, DistillationConfig(weighting="uniform", guidance_scale=SJC.guidance_scale))
    )
    assert torch.allclose(kept - subtracted, noise)
    assert (kept.mean(0) - subtracted.mean(0)).abs().max() < 5 * 4000**-0.5
    assert kept.var() > subtracted.var()


def test_x0_reconstruction_is_the_difference_to_the_denoised_picture() -> None:
    backbone, latents, t, noise = gaussian_case()
    negative, positive = backbone.encode_prompt([""] * 4), backbone.encode_prompt(["a"] * 4)
    config = DistillationConfig(weighting="x0", guidance_scale=7.5)
    score = distilled_score(backbone, latents, t, noise, negative, positive, config)
    noisy = backbone.schedule.add_noise(latents, noise, t)
    epsilon = guided_epsilon(backbone, noisy, t, negative, positive, config)
    signal, sigma = backbone.schedule.coefficients(t, latents)
    clean = (noisy - sigma * epsilon) / signal
    torch.testing.assert_close(score, latents - clean, rtol=1e-9, atol=1e-9)


def test_rescaling_moves_the_spread_of_a_set_of_views() -> None:
    generator = torch.Generator().manual_seed(0)
    guided, plain = (torch.randn(8, 3, 4, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    moved = rescaled(5 * guided, plain, 1.0, 4)
    for first in (0, 4):
        views = slice(first, first + 4)
        assert moved[views].std() == pytest.approx(float(plain[views].std()), rel=1e-9)
    half = rescaled(5 * guided, plain, 0.5, 4)
    torch.testing.assert_close(half, (5 * guided + moved) / 2)
    assert RECONSTRUCTION.rescale == 0.5


def test_perp_neg_leaves_the_wanted_direction_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    without, given, first, second = (
        torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=generator) for _ in range(4)
    )
    weights = torch.tensor([[0.7, 0.2], [0.0, 1.5]], dtype=torch.float64)
    result = perp_neg(without, given, [first, second], weights, 7.5)
    wanted = given - without
    along = ((result - without) * wanted).sum((1, 2, 3)) / wanted.square().sum((1, 2, 3))
    torch.testing.assert_close(along, torch.full((2,), 7.5, dtype=torch.float64))
    # A repelled prompt that says the same as the wanted one, or twice as loudly, changes nothing.
    same = perp_neg(without, given, [given, without + 2 * wanted], weights, 7.5)
    torch.testing.assert_close(same, without + 7.5 * wanted)
    # What is perpendicular is taken away with its weight.
    across = first - without
    across = across - (across * wanted).sum((1, 2, 3), True) / wanted.square().sum((1, 2, 3), True) * wanted
    alone = perp_neg(without, given, [first], weights[:, :1], 2.0)
    torch.testing.assert_close(alone, without + 2 * (wanted - weights[:, 0, None, None, None] * across))


def test_views_are_blended_and_repelled_by_azimuth(base: AbstractUnetBackbone) -> None:
    assert blend(0, False)[0] == [1, 0, 0, 0]
    assert blend(45, False)[0] == blend(-45, False)[0] == [0.5, 0.5, 0, 0]
    assert blend(90, False)[0] == [0, 1, 0, 0]
    assert blend(180, False)[0] == [0, 0, 1, 0]
    assert blend(10, True) == ([0, 0, 0, 1], ("front", "side"), (0.0, 0.0))
    # A side view is pushed away from the front harder than a front view is.
    assert blend(80, False)[2][0] > blend(10, False)[2][0]
    assert all(weight >= 0 for azimuth in range(-180, 181, 5) for weight in blend(azimuth, False)[2])
    words = ViewWords()
    negative, positive, repelled = PerpNegPrompts(base, "a photo of the dog", words=words)(
        orbit([0.0, 135.0], [0.0, 0.0], [1.0, 1.0], [30.0, 30.0])
    )
    texts = base.encode_prompt([f"a photo of the dog{getattr(words, name)}" for name in DIRECTIONS]).states
    torch.testing.assert_close(
        positive.states, torch.stack([texts[0], (texts[1] + texts[2]) / 2]), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(repelled.conditionings[0].states, texts[[0, 1]], rtol=1e-4, atol=1e-5)
    assert repelled.weights.shape == (2, 2)
    assert negative.batch_size == 2


def latents_of(base: AbstractUnetBackbone, count: int) -> torch.Tensor:
    side = base.resolution // base.vae_factor
    return torch.randn((count, base.latent_channels, side, side), generator=torch.Generator().manual_seed(1))


def test_a_fresh_second_score_is_the_base_and_vsd_is_zero_then(base: AbstractUnetBackbone) -> None:
    score, clean = VariationalScore(base, VariationalConfig()), latents_of(base, 2)
    prompt, noise = base.encode_prompt(["a photo of the dog"] * 2), latents_of(base, 2).flip(-1)
    t, cameras = torch.tensor([300, 700]), camera_numbers(ring(2))
    with score.applied(), torch.no_grad():
        noisy = base.schedule.add_noise(clean, noise, t)
        second = score.epsilon(noisy, t, prompt, cameras)
        score.updates.set_scale(0.0)
        plain = base.schedule.to_epsilon(base.predict(noisy, t, prompt), noisy, t)
        assert torch.equal(second, plain)
        score.settings = VariationalConfig(score=DistillationConfig(guidance_scale=1.0))
        assert score.score(clean, t, noise, (prompt, prompt), prompt, cameras).abs().max() == 0


def test_vsd_is_sds_when_the_second_score_finds_the_noise(
    base: AbstractUnetBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = VariationalConfig(score=DistillationConfig(guidance_scale=7.5))
    score, clean, noise = VariationalScore(base, settings), latents_of(base, 2), latents_of(base, 2).flip(-1)
    negative, positive = (base.encode_prompt([text] * 2) for text in ("", "a photo of the dog"))
    t, cameras = torch.tensor([300, 700]), camera_numbers(ring(2))
    with score.applied():
        monkeypatch.setattr(score, "epsilon", lambda *_: noise)
        found = score.score(clean, t, noise, (negative, positive), positive, cameras)
    expected = distilled_score(base, clean, t, noise, negative, positive, settings.score)
    torch.testing.assert_close(found, expected)


def test_the_second_score_learns_the_renders_and_leaves_no_trace(base: AbstractUnetBackbone) -> None:
    guidance = build_guidance(base, "a photo of the dog", VariationalConfig(learning_rate=1e-2))
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    images.requires_grad_()
    losses = []
    with guidance.applied():
        parameters = [p for group in guidance.groups() for p in group.parameters]
        optimizer = torch.optim.Adam(parameters, lr=3e-2)
        for _ in range(12):
            generator = torch.Generator().manual_seed(0)
            optimizer.zero_grad()
            terms = guidance.terms(images, ring(2), progress=0.5, generator=generator).terms
            sum(terms.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
            losses.append(terms["variational"].item())
        assert all(p.grad is not None for p in parameters)
    assert losses[-1] < 0.95 * losses[0]
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    after = base.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in base.denoiser.parameters())


def test_views_are_judged_together_and_one_view_alone(base: AbstractUnetBackbone) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = DistillationConfig(shared_timestep=True, guidance_scale=3.0)

    def gradient(joint: MultiViewAdapter | None, views: int) -> torch.Tensor:
        guidance = ScoreGuidance(base, "a dog", config, joint=joint, views=views)
        free = images.clone().requires_grad_()
        generator = torch.Generator().manual_seed(0)
        guidance.terms(free, ring(4), progress=0.1, generator=generator).total.backward()
        assert free.grad is not None
        return free.grad

    alone = gradient(None, 1)
    assert torch.equal(gradient(MultiViewAdapter.of(base), 1), alone)
    together = gradient(MultiViewAdapter.of(base), 4)
    assert (together - alone).norm() > 1e-3 * alone.norm()


class Counted(AbstractGuidance):
    """A score that pulls every picture up, per view; remembers which views it saw."""

    def __init__(self) -> None:
        self.azimuths: list[float] = []

    def terms(self, images: torch.Tensor, cameras: Cameras, **_: Any) -> LossTerms:
        """See `AbstractGuidance.terms`."""
        self.azimuths = cameras.azimuth.tolist()
        return LossTerms({"score": images.sum() / len(images)})


def test_sets_are_judged_by_one_model_and_views_from_ahead_by_another() -> None:
    joint, single, images = Counted(), Counted(), torch.zeros(4, 3, 8, 8, requires_grad=True)
    divided = DividedGuidance(joint, single, SingleViews(weight=3.0, joint_weight=2.0, farthest=145.0))
    terms = divided.terms(images, ring(4), progress=0.0, generator=torch.Generator())
    assert set(terms.terms) == {"joint/score", "single/score"}
    assert (len(joint.azimuths), single.azimuths) == (4, [0.0, 90.0, -90.0])
    torch.stack(list(terms.terms.values())).sum().backward()
    assert images.grad is not None
    # Every view's pull is its own score's, whoever else is judged with it.
    assert images.grad[:, 0, 0, 0].tolist() == pytest.approx([5 / 4, 5 / 4, 2 / 4, 5 / 4])
    with pytest.raises(ConfigError, match="an azimuth in"):
        SingleViews(farthest=0.0)
    recipe = RECIPES["dream-in-4d-still"].build("sd", "fast")
    assert isinstance(recipe, TextTo3dRecipe)
    recipe.validate()
    with pytest.raises(ConfigError, match="beside a joint score"):
        dataclasses.replace(recipe, joint=False).validate()


def test_settings_that_a_guidance_does_not_read_are_refused() -> None:
    with pytest.raises(ConfigError, match="a variational guidance does not read subtract_noise of its score"):
        VariationalConfig(score=SJC)
    with pytest.raises(ConfigError, match="a personalized guidance does not read growth and perp_neg"):
        PersonalizedConfig(score=DistillationConfig(growth=((0.5, 1.5),), perp_neg=True))
    with pytest.raises(ConfigError, match="the score of clips does not read perp_neg"):
        ClipGuidance(GaussianBackbone(), "a dog", DistillationConfig(perp_neg=True))
    with pytest.raises(ConfigError, match="a rank of at least 1"):
        VariationalConfig(rank=0)


def test_views_are_not_judged_together_by_a_guidance_that_cannot() -> None:
    recipe = RECIPES["mvdream"].build("toybox", "fast")
    assert isinstance(recipe, TextTo3dRecipe)
    recipe.validate()
    alone = dataclasses.replace(recipe, field=dataclasses.replace(recipe.field, guidance=VariationalConfig()))
    with pytest.raises(ConfigError, match="judged together by a guidance of kind score, got variational"):
        alone.validate()


def test_perp_neg_refuses_subjects_whose_words_are_more_than_states(
    base: AbstractUnetBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = base.encode_prompt

    def gated(prompts: Sequence[str]) -> Conditioning:
        found = encode(prompts)
        return found.marked({"gate": torch.ones(len(prompts), found.states.shape[1])})

    PerpNegPrompts(base, "a dog")
    monkeypatch.setattr(base, "encode_prompt", gated)
    with pytest.raises(UsageError, match="Perp-Neg blends prompts"):
        PerpNegPrompts(base, "a dog")
