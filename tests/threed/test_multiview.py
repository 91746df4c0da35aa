"""The view-joint UNet: exact where it must not differ, joint where it must, and it learns to follow cameras."""

import itertools
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.types import LossTerms, ParameterGroup
from pcs_ext.threed.cameras import Cameras, orbit, ring
from pcs_ext.threed.multiview import MultiViewAdapter, camera_numbers, set_errors
from pcs_ext.threed.view_sets import sample_sets
from tests.support.tiny import tiny_backbone


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> AbstractUnetBackbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def trained(backbone: AbstractUnetBackbone) -> MultiViewAdapter:
    """An adapter that no longer is zero anywhere."""
    torch.manual_seed(0)
    adapter = MultiViewAdapter.of(backbone)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return adapter


def predict(backbone: AbstractUnetBackbone, latents: torch.Tensor) -> torch.Tensor:
    prompts = backbone.encode_prompt(["a photo of the dog"] * len(latents))
    with torch.no_grad():
        return backbone.predict(latents, torch.full((len(latents),), 500), prompts)


def latents_of(backbone: AbstractUnetBackbone, count: int) -> torch.Tensor:
    side = backbone.resolution // backbone.vae_factor
    shape = (count, backbone.latent_channels, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(backbone.dtype)


def test_one_view_is_the_base_exactly_and_leaving_restores_it(
    backbone: AbstractUnetBackbone, trained: MultiViewAdapter
) -> None:
    latents = latents_of(backbone, 4)
    before = predict(backbone, latents)
    with trained.joined(backbone, ring(4), 1):
        assert torch.equal(predict(backbone, latents), before)
    with trained.joined(backbone, ring(4), 4):
        assert not torch.allclose(predict(backbone, latents), before)
    assert torch.equal(predict(backbone, latents), before)


def test_a_fresh_adapter_on_equal_views_is_the_base(backbone: AbstractUnetBackbone) -> None:
    # Attention over copies of the same tokens weighs as attention over the tokens once.
    latents = latents_of(backbone, 1).expand(4, -1, -1, -1)
    before = predict(backbone, latents)
    with MultiViewAdapter.of(backbone).joined(backbone, ring(4), 4):
        torch.testing.assert_close(predict(backbone, latents), before, rtol=1e-4, atol=1e-5)


def test_views_of_a_thing_see_each_other_and_no_other_thing(
    backbone: AbstractUnetBackbone, trained: MultiViewAdapter
) -> None:
    latents = latents_of(backbone, 8)
    changed = latents.clone()
    changed[0] += 1
    cameras = Cameras(**{name: torch.cat([value, value]) for name, value in vars(ring(4)).items()})
    with trained.joined(backbone, cameras, 4):
        moved = (predict(backbone, changed) - predict(backbone, latents)).abs().amax((1, 2, 3))
    assert (moved[:4] > 0).all()
    assert (moved[4:] == 0).all()


def test_directions_matter_distance_and_place_do_not(backbone: AbstractUnetBackbone, trained: MultiViewAdapter) -> None:
    latents = latents_of(backbone, 4)
    outputs = []
    for cameras in (ring(4), ring(4, target=(1.0, 2.0, 3.0), distance=9.0), ring(4, elevation=60)):
        with trained.joined(backbone, cameras, 4):
            outputs.append(predict(backbone, latents))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(outputs[0], outputs[2], rtol=1e-3, atol=1e-4)
    assert camera_numbers(ring(3)).shape == (3, 16)


def test_guidance_repeats_the_sets(backbone: AbstractUnetBackbone, trained: MultiViewAdapter) -> None:
    latents = latents_of(backbone, 4)
    with trained.joined(backbone, ring(4), 4):
        once, twice = predict(backbone, latents), predict(backbone, torch.cat([latents, latents]))
        torch.testing.assert_close(twice, torch.cat([once, once]), rtol=1e-4, atol=1e-5)
        with pytest.raises(UsageError, match="multiple of 4 rows"):
            predict(backbone, latents[:3])


def test_a_subject_learned_on_the_base_works_in_the_joint_model(
    backbone: AbstractUnetBackbone, trained: MultiViewAdapter
) -> None:
    latents = latents_of(backbone, 4)
    adapter = build_adapter("subject", LowRankConfig(rank=2))
    with trained.joined(backbone, ring(4), 4):
        without = predict(backbone, latents)
        with injected(backbone, adapter), torch.no_grad():
            for parameter in itertools.chain(*adapter.parameters().values()):
                parameter.fill_(0.1)
            assert not torch.allclose(predict(backbone, latents), without)
        assert torch.equal(predict(backbone, latents), without)


def test_gradients_reach_the_adapter_alone(backbone: AbstractUnetBackbone) -> None:
    adapter, latents = MultiViewAdapter.of(backbone), latents_of(backbone, 4)
    prompts = backbone.encode_prompt(["a photo"] * 4)
    with adapter.joined(backbone, ring(4), 4):
        backbone.predict(latents, torch.full((4,), 500), prompts).square().sum().backward()
    zero = [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # Behind the zero output layer nothing can learn in the very first step.
    assert all(name.startswith("camera.0") for name in zero), zero
    assert all(parameter.grad is None for parameter in backbone.denoiser.parameters())


def test_sets_of_views_are_sampled_together(backbone: AbstractUnetBackbone, trained: MultiViewAdapter) -> None:
    prompts, config = ["a photo of the dog", "a cat"], SampleConfig(num_inference_steps=2, guidance_scale=3.0)

    def draw(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        return sample_sets(backbone, trained, prompts, ring(4), seeds=seeds, config=config)

    both = draw(prompts, [5, 6])
    assert both.shape == (2, 4, 3, backbone.resolution, backbone.resolution)
    torch.testing.assert_close(both[1:], draw(prompts[1:], [6]), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both[:1], draw(prompts[1:], [5]), atol=1e-2)
    with pytest.raises(UsageError, match="a seed for every prompt"):
        draw(prompts, [5])


def test_files_round_trip(backbone: AbstractUnetBackbone, trained: MultiViewAdapter, tmp_path: Path) -> None:
    trained.save(tmp_path / "views")
    again, latents = MultiViewAdapter.load(tmp_path / "views"), latents_of(backbone, 4)
    with trained.joined(backbone, ring(4), 4):
        first = predict(backbone, latents)
    with again.joined(backbone, ring(4), 4):
        torch.testing.assert_close(predict(backbone, latents), first, rtol=1e-2, atol=1e-2)
    (tmp_path / "views" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json missing"):
        MultiViewAdapter.load(tmp_path / "views")
    (tmp_path / "views" / "config.json").write_text('{"layers": {}}', encoding="utf-8")
    with pytest.raises(ModelError, match="is no multi-view adapter .*expected what save wrote"):
        MultiViewAdapter.load(tmp_path / "views")


@pytest.mark.parametrize(("count", "views"), [(3, 2), (4, 0)])
def test_half_sets_are_refused(backbone: AbstractUnetBackbone, count: int, views: int) -> None:
    with (
        pytest.raises(UsageError, match="whole sets"),
        MultiViewAdapter.of(backbone).joined(backbone, ring(count), views),
    ):
        pass


def test_an_adapter_of_another_base_is_refused(backbone: AbstractUnetBackbone) -> None:
    adapter = MultiViewAdapter({"mid_block.attn1.to_q": (8, 8)}, 16)
    with pytest.raises(UsageError, match="base it was trained on"), adapter.joined(backbone, ring(2), 2):
        pass


class Posts:
    """Posts that are bright from the front, dark from behind and tinted to the sides; each is more or less so.

    How strong a post is, all of its views tell alike; which side a picture shows, its camera alone. The cameras of a
    set stand in a random order: the place in the set tells nothing.
    """

    def __init__(self, backbone: AbstractUnetBackbone) -> None:
        self.side, self.channels = backbone.resolution // backbone.vae_factor, backbone.latent_channels
        torch.manual_seed(0)
        self.tints = torch.randn(2, self.channels)
        self.tints = self.tints / self.tints.norm(dim=1, keepdim=True) * self.channels**0.5

    def latents(self, cameras: Cameras, strength: torch.Tensor) -> torch.Tensor:
        """`b c h w` of posts of strengths `b`."""
        angle = torch.deg2rad(cameras.azimuth)
        sides = torch.stack([angle.cos(), angle.sin()], 1) @ self.tints
        return (strength[:, None] * sides)[..., None, None].expand(-1, -1, self.side, self.side)

    def draw(self, sets: int, generator: torch.Generator) -> tuple[Cameras, torch.Tensor]:
        """Cameras `4 sets` and latents."""
        start = torch.rand(sets, generator=generator) * 360
        order = torch.rand(sets, 4, generator=generator).argsort(1) * 90.0
        azimuth, count = (start[:, None] + order).flatten().tolist(), 4 * sets
        cameras = orbit(azimuth, [15.0] * count, [5.2] * count, [32.0] * count)
        strength = (0.6 + 0.8 * torch.rand(sets, generator=generator)).repeat_interleave(4)
        return cameras, self.latents(cameras, strength)


def taught(backbone: AbstractUnetBackbone, posts: Posts, *, shuffled: bool) -> MultiViewAdapter:
    """An adapter after some steps, beside true cameras or beside those of the set in another order."""
    torch.manual_seed(0)
    adapter = MultiViewAdapter.of(backbone)
    prompts = backbone.encode_prompt(["a photo of a post"] * 16)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        cameras, clean = posts.draw(4, generator)
        if shuffled:
            order = torch.rand(4, 4, generator=generator).argsort(1) + 4 * torch.arange(4)[:, None]
            cameras = cameras[order.flatten()]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(600, 1000, (4,), generator=generator).repeat_interleave(4)
        errors = set_errors(backbone, adapter, clean, noise, timesteps, prompts, cameras, 4)
        return LossTerms({"v": errors.mean()})

    group = ParameterGroup(name="adapter", parameters=tuple(adapter.parameters()), learning_rate=1e-2)
    for _ in fit(loss, [group], FitConfig(steps=110, optimizer="adam", lr_schedule="cosine")):
        pass
    return adapter


@torch.no_grad()
def drawn(backbone: AbstractUnetBackbone, adapter: MultiViewAdapter, cameras: Cameras) -> torch.Tensor:
    """Mean colours `4 c` of what an adapter sees in pure noise, over a few draws of it."""
    side, draws = backbone.resolution // backbone.vae_factor, 6
    shape = (4 * draws, backbone.latent_channels, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    timesteps, prompts = torch.full((4 * draws,), 999), backbone.encode_prompt(["a photo of a post"] * (4 * draws))
    with adapter.joined(backbone, cameras, 4):
        seen = backbone.predict(noise, timesteps, prompts)
    epsilon = backbone.schedule.to_epsilon(seen, noise, timesteps)
    signal, sigma = backbone.schedule.coefficients(timesteps, noise)
    return ((noise - sigma * epsilon) / signal).mean((2, 3)).unflatten(0, (draws, 4)).mean(0)


def test_what_it_learns_to_draw_follows_cameras_and_the_base_stays(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path / "sd", prediction_type="v_prediction")
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    posts = Posts(backbone)
    follows, control = (taught(backbone, posts, shuffled=shuffled) for shuffled in (False, True))
    assert all(torch.equal(value, before[name]) for name, value in backbone.denoiser.state_dict().items())
    for start in (0.0, 50.0):
        cameras = orbit([start, start + 90, start + 180, start - 90], [15.0] * 4, [5.2] * 4, [32.0] * 4)
        true = posts.latents(cameras, torch.ones(4)).mean((2, 3))
        for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
            found, blind = (drawn(backbone, one, cameras[order]) for one in (follows, control))
            assert torch.cdist(found, true).argmin(1).tolist() == order
            error, by_chance = (float((one - true[order]).square().mean()) for one in (found, blind))
            assert error < 0.5 < 0.7 < by_chance, (error, by_chance)
