"""Several subjects: collages with true masks, Disen-Mix's terms, starts that move."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import PhotoError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.data import Photo, SubjectDataset
from pcs_ext.image.sample import SampleConfig, initial_noise
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.collages import collages
from pcs_ext.video.latent_motion import moved_along, moving_start, noised_up
from pcs_ext.video.mixture import MixtureConfig, VisualBranch, mixture_terms
from pcs_ext.video.recipes.customvideo import customvideo
from pcs_ext.video.recipes.videodreamer import videodreamer
from pcs_ext.video.sample import ClipConfig, sample_clips
from pcs_ext.video.subject_request import mixed


def photo(value: float, name: str, *, box: tuple[int, int, int, int] = (4, 10, 20, 30)) -> Photo:
    """A rectangle of one colour before another; the mask is where it is."""
    left, top, right, bottom = box
    image, mask = torch.full((3, 40, 48), -0.5), torch.zeros(1, 40, 48)
    image[:, top:bottom, left:right] = value
    mask[:, top:bottom, left:right] = 1
    return Photo(path=Path(name), image=image, mask=mask)


def test_subjects_meet_in_a_picture_where_their_masks_say() -> None:
    groups = [[photo(0.9, "red/0.png")], [photo(-0.9, "blue/0.png", box=(10, 5, 40, 15))]]
    made = collages(groups, count=8, side=64, seed=0)
    assert len({tuple(picture.image.flatten().tolist()) for picture in made}) > 1
    for picture in made:
        assert picture.parts is not None
        red, blue = (part > 0.999 for part in picture.parts)
        assert not bool((red & blue).any())
        # Deep inside each mask is that subject's colour, outside both is gray.
        assert float(picture.image[:, red].mean()) == pytest.approx(0.9, abs=0.02)
        assert float(picture.image[:, blue].mean()) == pytest.approx(-0.9, abs=0.02)
        assert not picture.image[:, picture.parts.amax(0) == 0].any()
        # The one fills its column's height or width, whatever its shape.
        rows, columns = blue.any(1).sum(), blue.any(0).sum()
        assert int(columns) in range(26, 31)
        assert int(rows) < int(columns)
    again = collages(groups, count=8, side=64, seed=0)
    assert all(torch.equal(one.image, other.image) for one, other in zip(made, again, strict=True))
    bare = Photo(path=Path("bare.png"), image=groups[0][0].image)
    with pytest.raises(PhotoError, match=r"bare.png has no mask"):
        collages([[bare], groups[1]], count=1, side=64, seed=0)


def test_photos_of_one_subject_name_it_alone() -> None:
    groups = [[photo(0.9, "red/0.png")], [photo(-0.9, "blue/0.png")]]
    recipe = videodreamer("dog, toy cat", "sd")
    photos = mixed(groups, recipe.concept.parts, MixtureConfig(collages=2, collage_side=64), seed=0)
    data = SubjectDataset(photos, recipe.concept, resolution=32, augmentation=recipe.augmentation)
    batch = data.batch(4, torch.Generator().manual_seed(0))
    seen = dict(zip(batch.captions, batch.part_masks if batch.part_masks is not None else [], strict=True))
    assert set(seen) == {"a photo of a <dog>", "a photo of a <toy-cat>", "a photo of a <dog> and a <toy-cat>"}
    assert [bool(part.any()) for part in seen["a photo of a <dog>"]] == [True, False]
    assert [bool(part.any()) for part in seen["a photo of a <dog> and a <toy-cat>"]] == [True, True]
    assert mixed(groups[:1], (), MixtureConfig(), 0) == groups[0]


def test_one_noun_is_one_subject() -> None:
    recipe = customvideo("dog", "sd")
    assert (recipe.concept.parts, recipe.concept.token) == ((), "<subject>")
    assert customvideo("dog, mug", "sd").concept.prompt("a photo of {subject}") == "a photo of a <dog> and a <mug>"


def test_mixture_terms_are_the_weighted_formula() -> None:
    words = torch.zeros(2, 3, 2)
    words[0, :, 0], words[1, :, 1] = 1.0, 2.0
    visual = torch.tensor([[[5.0, 0.0]], [[-1.0, 0.0]]])
    terms = mixture_terms(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 6.0]), words, visual, MixtureConfig())
    # Cosines are 1 and 0.
    assert {name: round(float(term), 6) for name, term in terms.items()} == {
        "denoising": 2.0,
        "words_alone": 0.05,
        "apart": 0.0005,
    }


def test_the_visual_branch_gates_features_and_adds_a_network() -> None:
    branch = VisualBranch(4, 4, seed=0)
    features = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    gated = 0.5 * features  # a sigmoid at 0
    torch.testing.assert_close(branch(features)[:, 0], gated + branch.network(gated))
    with torch.no_grad():
        branch.gate.fill_(-50.0)
    torch.testing.assert_close(branch(features), branch(2 * features))
    assert VisualBranch(4, 6, seed=0)(features).shape == (2, 1, 6)


def test_a_start_moves_by_its_share_in_every_frame() -> None:
    picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = moved_along(picture, 3, 1 / 8)  # a cell
    torch.testing.assert_close(moved[:, :, 0], picture)
    for frame in (1, 2):
        torch.testing.assert_close(
            moved[:, :, frame, frame:, frame:], picture[..., :-frame, :-frame], atol=1e-5, rtol=0
        )


def test_noising_up_keeps_the_level() -> None:
    """Unit variance stays, and the signal is what the forward process leaves of it."""
    latents, noise = (torch.randn(1, 4, 5, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    up = noised_up(latents, 0.6, 0.15, noise)
    assert float(up.var()) == pytest.approx(1, abs=0.02)
    assert float((up * latents).mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(noised_up(latents, 0.5, 0.5, noise), latents)


@torch.no_grad()
def test_an_image_model_makes_clips_from_starts_that_share_a_picture(sd: AbstractUnetBackbone) -> None:
    video = InflatedBackbone(sd, attention="first")
    config = SampleConfig(scheduler="ddim", num_inference_steps=20, guidance_scale=2.0, height=32, width=48)

    def start(seed: int) -> Tensor:
        return moving_start(video, "a dog", seed=seed, config=config, frames=4, shift=0.0)

    one = start(0)
    assert one.shape == (1, 4, 4, 8, 12)
    assert torch.equal(one, start(0))
    assert not torch.equal(one, start(1))
    frames = one[0].transpose(0, 1).flatten(1)
    alike = torch.corrcoef(frames)[0, 1:]
    assert bool((alike > 0.3).all())  # independent starts have none
    assert bool((alike < 0.999).all())
    clip = sample_clips(video, ["a dog"], seeds=[0], config=config, clip=ClipConfig(noise="moving", frames=3))
    assert clip.shape == (1, 3, 3, 32, 48)


@torch.no_grad()
def test_a_start_has_nothing_of_the_next_seeds(sd: AbstractUnetBackbone) -> None:
    video = InflatedBackbone(sd, attention="first")
    config = SampleConfig(scheduler="ddim", num_inference_steps=20, guidance_scale=1.0, height=64, width=64)
    start = moving_start(video, "a dog", seed=0, config=config, frames=1, shift=0.0)[0, :, 0]
    own, following = (initial_noise(video, [seed], config)[0] for seed in (0, 1))
    alike = torch.corrcoef(torch.stack([start.flatten(), own.flatten(), following.flatten()]))[0]
    assert float(alike[1]) > 0.3
    assert abs(float(alike[2])) < 0.12  # of 1,024 independent numbers: 0.03
