"""The view model: reads and is stored as Zero-1-to-3 is, and learns to follow cameras from one picture."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.types import Conditioning
from pcs_ext.threed.cameras import orbit
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.known_view import KnownPhoto, KnownView
from pcs_ext.threed.view_guidance import SummedGuidance, ViewGuidance, ViewScore, angles
from pcs_ext.threed.view_model import Told, ViewModel, load_view_model, pose_numbers
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
