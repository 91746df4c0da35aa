"""The view model: reads and is stored as Zero-1-to-3 is, and learns to follow cameras from one picture."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.types import Conditioning, LossTerms, ParameterGroup
from pcs_ext.threed.cameras import Cameras, orbit
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.known_view import KnownPhoto, KnownView
from pcs_ext.threed.view_guidance import SummedGuidance, ViewGuidance, ViewScore, angles
from pcs_ext.threed.view_model import Told, ViewModel, load_view_model, pose_numbers, view_errors
from tests.support.tiny import tiny_backbone
from tests.support.tiny_views import tiny_view_model

CENTER = (0.0, 0.0, 0.75)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> AbstractUnetBackbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def model(base: AbstractUnetBackbone, tmp_path_factory: pytest.TempPathFactory) -> ViewModel:
    return tiny_view_model(base, tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def stored(model: ViewModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "views"
    model.save(folder)
    return folder


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise_of(model: AbstractUnetBackbone, rows: int = 1) -> torch.Tensor:
    side = model.resolution // model.vae_factor
    return torch.randn(rows, model.latent_channels, side, side, generator=torch.Generator().manual_seed(1))


def test_poses_by_hand() -> None:
    known = orbit([170.0], [20.0], [5.0], [32.0], CENTER)
    cameras = orbit([-100.0, 170.0, 80.0], [50.0, 20.0, -10.0], [6.0, 5.0, 4.0], [32.0] * 3, CENTER)
    found = pose_numbers(cameras, known, CENTER, 0.5)
    third = torch.pi / 6
    # Up by 30 degrees, on by a quarter turn, away by 1; nothing; down by 30, back by a quarter turn, nearer by 1.
    expected = torch.tensor([[-third, 1.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.0], [third, -1.0, 0.0, -0.5]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    round_it = orbit([0.0, 90.0, 180.0], [0.0] * 3, [5.0] * 3, [32.0] * 3, CENTER)
    found = angles(round_it, orbit([0.0], [0.0], [3.0], [32.0], CENTER), CENTER)
    torch.testing.assert_close(found, torch.tensor([0.0, 90.0, 180.0]), atol=1e-3, rtol=0)


def test_a_fresh_model_is_its_base_under_one_token_and_does_not_read_the_pictures_cells(
    base: AbstractUnetBackbone, tmp_path: Path
) -> None:
    fresh = tiny_view_model(base, tmp_path, noise=0.0)
    told, noisy, when = fresh.see(picture()), noise_of(fresh), torch.tensor([400])
    poses = torch.tensor([[0.1, 0.5, 0.8, 0.0]])
    given = fresh.conditioning(told, poses)
    assert given.states.shape == (1, 1, base.denoiser.config["cross_attention_dim"])
    expected = base.predict(noisy, when, Conditioning(states=given.states))
    torch.testing.assert_close(fresh.predict(noisy, when, given), expected, rtol=1e-5, atol=1e-6)
    other = fresh.conditioning(Told(told.embedding, told.latents + 1), poses)
    torch.testing.assert_close(fresh.predict(noisy, when, other), expected, rtol=1e-5, atol=1e-6)
    token = torch.cat([told.embedding, poses], 1) @ fresh.projection.weight.T
    torch.testing.assert_close(given.states[:, 0], token, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="reads a picture and a camera, no words"):
        fresh.encode_prompt(["a dog"])


def test_the_pictures_latents_stand_unscaled_beside_the_noisy_ones(model: ViewModel) -> None:
    told, noisy, when = model.see(picture()), noise_of(model), torch.tensor([400])
    latents = model.vae.encode(picture()).latent_dist.mean
    torch.testing.assert_close(told.latents, latents, rtol=1e-4, atol=1e-5)
    given = model.conditioning(told, torch.zeros(1, 4))
    expected = model.denoiser(torch.cat([noisy, latents], 1), when, encoder_hidden_states=given.states).sample
    torch.testing.assert_close(model.predict(noisy, when, given), expected, rtol=1e-4, atol=1e-5)
    unseen = model.nothing(given)
    none = model.denoiser(torch.cat([noisy, 0 * latents], 1), when, encoder_hidden_states=0 * given.states).sample
    torch.testing.assert_close(model.predict(noisy, when, unseen), none, rtol=1e-4, atol=1e-5)
    both = Conditioning.cat([unseen, given])
    together = model.predict(torch.cat([noisy] * 2), torch.cat([when] * 2), both)
    torch.testing.assert_close(together, torch.cat([none, expected]), rtol=1e-4, atol=1e-5)


def test_guidance_by_hand(model: ViewModel) -> None:
    photo = KnownPhoto(picture()[0] * 0.5 + 0.5, torch.ones(32, 32))
    known = KnownView()
    score = DistillationConfig(guidance_scale=5.0, timesteps=TimestepLaw(low=(0.2, 0.2), high=(0.6, 0.6)))
    settings = ViewScore(guidance=score, weight=40.0, by_angle=True, unit=1.0)
    judge = ViewGuidance(model, photo, known, settings, CENTER)
    cameras = orbit([45.0], [0.0], [5.2], [32.0], CENTER)
    images = picture(3).requires_grad_()
    judge.terms(images, cameras, progress=0.0, generator=torch.Generator().manual_seed(7)).total.backward()
    assert images.grad is not None
    generator = torch.Generator().manual_seed(7)
    again = picture(3).requires_grad_()
    latents = model.encode_images(again)
    total = model.schedule.num_train_timesteps
    when = torch.randint(round(0.2 * total), round(0.6 * total) + 1, (1,), generator=generator)
    noise = torch.randn(latents.shape, generator=generator, dtype=torch.float64).float()
    with torch.no_grad():
        noisy = model.schedule.add_noise(latents, noise, when)
        given = model.conditioning(model.see(picture()), pose_numbers(cameras, known.camera(CENTER), CENTER, 1.0))
        with_it, without = (model.predict(noisy, when, one) for one in (given, model.nothing(given)))
        sigma2 = 1 - model.schedule.alphas_cumprod[when]
        pull = 40 * 45 / 180 * sigma2 * (without + 5 * (with_it - without) - noise)
    latents.backward(pull)
    torch.testing.assert_close(images.grad, again.grad, rtol=1e-3, atol=1e-5)
    behind = SummedGuidance([judge]).terms(images, cameras, progress=0.0, generator=torch.Generator().manual_seed(7))
    assert set(behind.terms) == {"view"}


def test_files_round_trip_in_either_layout(model: ViewModel, stored: Path, tmp_path: Path) -> None:
    again = load_view_model(stored, device="cpu", precision="fp32")
    told, noisy, when = model.see(picture()), noise_of(model), torch.tensor([400])
    expected = model.predict(noisy, when, model.conditioning(told, torch.ones(1, 4)))

    def found(one: ViewModel) -> torch.Tensor:
        return one.predict(noisy, when, one.conditioning(one.see(picture()), torch.ones(1, 4)))

    torch.testing.assert_close(found(again), expected, rtol=2e-2, atol=2e-2)
    assert (again.resolution, again.schedule.prediction_type) == (model.resolution, model.schedule.prediction_type)
    other = tmp_path / "other"
    shutil.copytree(stored, other)
    (other / "clip_camera_projection").rename(other / "cc_projection")
    file = next((other / "cc_projection").glob("*.safetensors"))
    save_file({key.replace("proj.", "projection."): value for key, value in load_file(file).items()}, file)
    torch.testing.assert_close(found(load_view_model(other, device="cpu", precision="fp32")), found(again))
    assert load_view_model(other, device="cpu", precision="fp32").fingerprint == again.fingerprint


def test_what_is_no_view_model_is_refused(stored: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a view model in the hub cache"):
        load_view_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="image_encoder/ missing"):
        load_view_model(tiny_sd_path, device="cpu")
    other = tmp_path / "other"
    shutil.copytree(stored, other)
    file = next((other / "clip_camera_projection").glob("*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    with pytest.raises(ModelError, match="holds a damaged .safetensors file"):
        load_view_model(other)
    file.write_bytes(whole)
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"with a .safetensors file.*Pickles"):
        load_view_model(other, device="cpu")
    save_file({"proj.weight": torch.zeros(3, 5), "proj.bias": torch.zeros(3)}, file)
    with pytest.raises(ModelError, match="camera projection is of 5 to 3 numbers"):
        load_view_model(other, device="cpu")
    shutil.rmtree(other / "unet")
    shutil.copytree(tiny_sd_path / "unet", other / "unet")
    with pytest.raises(ModelError, match="UNet reads 8 channels and writes 4, this one reads 4"):
        load_view_model(other, device="cpu")
    assert json.loads((stored / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DConditionModel"]


_BATCH = 8


class Things:
    """Things of some colour or its opposite, more or less of it, all painted alike: one tint in front, another on the
    right, their opposites behind and on the left.

    Which colour and how much, only the picture tells; which side is wanted, the camera alone.
    """

    def __init__(self, model: ViewModel) -> None:
        self.model, self.side = model, model.resolution // model.vae_factor
        self.tints = torch.eye(model.latent_channels)[:3] * model.latent_channels**0.5
        self.embedding = model.encoder(torch.zeros(1, 3, 32, 32))

    def latents(self, azimuths: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        """`b c h w`."""
        angle = torch.deg2rad(azimuths)
        colors = torch.stack([strength, angle.cos(), angle.sin()], 1) @ self.tints
        return colors[..., None, None].expand(-1, -1, self.side, self.side)

    def told(self, strength: torch.Tensor) -> Told:
        """What is read of pictures of their fronts; all look alike to the encoder."""
        front = self.latents(torch.zeros(len(strength)), strength)
        return Told(self.embedding.expand(len(strength), -1), front)


def turned(azimuths: torch.Tensor) -> torch.Tensor:
    count = len(azimuths)
    cameras: Cameras = orbit(azimuths, [0.0] * count, [5.2] * count, [32.0] * count)
    return pose_numbers(cameras, orbit([0.0], [0.0], [5.2], [32.0]), (0.0, 0.0, 0.0), 1.0)


def taught(base: AbstractUnetBackbone, folder: Path, *, shuffled: bool) -> tuple[ViewModel, Things]:
    """A view model after some steps, beside true cameras or beside those of other things."""
    model = tiny_view_model(base, folder, noise=0.0)
    things = Things(model)
    for module in (model.denoiser, model.projection):
        module.requires_grad_(True)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        azimuths = torch.rand(_BATCH, generator=generator) * 360
        sign = 2 * torch.randint(2, (_BATCH,), generator=generator) - 1
        strength = sign * (0.6 + 0.8 * torch.rand(_BATCH, generator=generator))
        clean, poses = things.latents(azimuths, strength), turned(azimuths)
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(850, 1000, (_BATCH,), generator=generator)
        poses = poses[torch.randperm(_BATCH, generator=generator)] if shuffled else poses
        kept = torch.rand(_BATCH, generator=generator) >= 0.1
        return LossTerms({"v": view_errors(model, clean, noise, timesteps, things.told(strength), poses, kept).mean()})

    modules = {"unet": (model.denoiser, 3e-3), "projection": (model.projection, 3e-2)}
    groups = [
        ParameterGroup(name=name, parameters=tuple(module.parameters()), learning_rate=rate)
        for name, (module, rate) in modules.items()
    ]
    settings = FitConfig(steps=160, optimizer="adam", lr_schedule="constant", max_gradient_norm=None)
    for _ in fit(loss, groups, settings):
        pass
    return model, things


@torch.no_grad()
def drawn(model: ViewModel, things: Things, azimuths: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Mean colours `b c` of what a model sees in pure noise, over a few draws of it."""
    draws, rows = 6, len(azimuths)
    noise = torch.randn(draws * rows, 4, things.side, things.side, generator=torch.Generator().manual_seed(5))
    when = torch.full((draws * rows,), 999)
    told = things.told(strength)
    given = model.conditioning(Told(told.embedding.repeat(draws, 1), told.latents.repeat(draws, 1, 1, 1)),
                               turned(azimuths).repeat(draws, 1))  # fmt: skip
    clean = model.schedule.to_x0(model.predict(noise, when, given), noise, when)
    return clean.mean((2, 3)).unflatten(0, (draws, rows)).mean(0)


def test_it_learns_to_turn_what_one_picture_shows_and_its_base_stays(tmp_path: Path) -> None:
    base = tiny_backbone(tmp_path / "sd", prediction_type="v_prediction")
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    follows, things = taught(base, tmp_path / "follows", shuffled=False)
    control, _ = taught(base, tmp_path / "control", shuffled=True)
    assert all(torch.equal(value, before[name]) for name, value in base.denoiser.state_dict().items())
    azimuths = torch.tensor([20.0, 110.0, 200.0, 290.0] * 2)
    strength = torch.tensor([1.0] * 4 + [-1.0] * 4)
    true = things.latents(azimuths, strength).mean((2, 3))
    found, blind = (drawn(one, things, azimuths, strength) for one in (follows, control))
    error, by_chance = (float((one - true).square().mean()) for one in (found, blind))
    assert error < 0.3 < 0.8 < by_chance, (error, by_chance)
    for rows in (slice(0, 4), slice(4, 8)):
        assert torch.cdist(found[rows], true[rows]).argmin(1).tolist() == [0, 1, 2, 3]
    # The same cameras, the opposite thing in the picture: the opposite colour, the same sides.
    own = (found @ things.tints[0]).sign().tolist()
    assert own == [1.0] * 4 + [-1.0] * 4
