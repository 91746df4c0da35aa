"""Balanced subjects: the worst one by hand, what the others are held to, and photos that show one of two."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ConfigError, PhotoError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.balance import BalanceConfig, balanced, shown_parts
from pcs_ext.image.data import SubjectDataset, find_photos
from pcs_ext.image.learn import learn
from pcs_ext.image.objectives import DenoisingObjective, MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.types import Batch


def test_the_worst_subject_counts_and_the_others_are_kept() -> None:
    losses, drifts = torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0.5, 0.7, 0.2])
    shown = torch.tensor([[True, False], [True, False], [False, True]])
    worst, kept = balanced(losses, drifts, shown)
    assert (float(worst), float(kept)) == (4.0, pytest.approx(0.6))
    worst, kept = balanced(losses, drifts, torch.tensor([[True, True], [True, False], [False, True]]))
    assert (float(worst), float(kept)) == (2.5, pytest.approx(0.6)), "a photo of both counts for both"
    worst, kept = balanced(losses[:2], drifts[:2], shown[:2])
    assert (float(worst), float(kept)) == (2.0, 0.0), "nobody else is in the batch"
    masks = torch.zeros(2, 2, 4, 4)
    masks[0, 1, 0, 0], masks[1, 0] = 1, 0.4
    assert shown_parts(masks, 2).tolist() == [[False, True], [False, False]]
    assert shown_parts(None, 2).tolist() == [[True], [True]]


def test_the_objective_asks_the_averaged_weights(sd: AbstractBackbone) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = torch.zeros(2, 2, 32, 32)
    parts[0, 0, :16], parts[1, 1, 16:] = 1, 1
    batch = Batch(images=torch.zeros(2, 3, 32, 32), captions=("a dog", "a cat"), masks=parts.amax(1, keepdim=True),
                  part_masks=parts)  # fmt: skip
    told = sd.encode_prompt(batch.captions)
    config = ObjectiveConfig(
        mask_normalisation=MaskNormalisation.MULTIPLY_BOTH, balance=BalanceConfig(preservation=0.5)
    )
    weight = sd.denoiser.conv_out.bias

    @contextlib.contextmanager
    def averaged() -> Iterator[None]:
        with torch.no_grad():
            weight.add_(0.25)
        yield
        with torch.no_grad():
            weight.sub_(0.25)

    def terms(config: ObjectiveConfig) -> dict[str, torch.Tensor]:
        objective = DenoisingObjective(config, averaged=averaged)
        return dict(objective(sd, batch, latents, told, torch.Generator().manual_seed(1)).terms)

    with torch.no_grad():
        found = terms(config)
        each = [
            DenoisingObjective(dataclasses.replace(config, balance=None))(
                sd, dataclasses.replace(batch, masks=batch.masks * keep), latents, told,  # type: ignore[operator]
                torch.Generator().manual_seed(1),
            ).terms["denoising"] * 2
            for keep in (torch.tensor([1.0, 0.0]).view(2, 1, 1, 1), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
        ]  # fmt: skip
    assert float(found["denoising"]) == pytest.approx(float(max(each)), rel=1e-5)
    # The averaged network differs by 0.25 everywhere; half of the picture is masked.
    assert float(found["preservation"]) == pytest.approx(0.5 * 0.25**2 / 2, rel=1e-3)
    with pytest.raises(ConfigError, match="a balance is about photos"):
        dataclasses.replace(config, prior_loss_weight=1.0)
    recipe = RECIPES["magictailor"].build("dog, hat", "toybox")
    phase = recipe.phases[1]
    bare = dataclasses.replace(phase, fit=dataclasses.replace(phase.fit, ema_decay=None))
    with pytest.raises(ConfigError, match="set ema_decay of its fit"):
        dataclasses.replace(recipe, phases=(bare,)).validate()


@pytest.fixture
def pair(photos: Path) -> Path:
    """Two photos of one subject, one of the other: each with a black mask for what it does not show."""
    for index, photo in enumerate(sorted(photos.glob("*.png"))):
        with Image.open(photo) as image:
            black = Image.new("L", image.size)
        white = black.copy()
        white.paste(255, (8, 8, 36, 36))
        own = 1 if index < 2 else 2
        white.save(photo.with_name(f"{photo.stem}_mask{own}.png"))
        black.save(photo.with_name(f"{photo.stem}_mask{3 - own}.png"))
    return photos


def test_captions_name_what_a_photo_shows(pair: Path) -> None:
    concept = RECIPES["magictailor"].build("dog, hat", "toybox").concept
    augmentation = RECIPES["magictailor"].build("dog, hat", "toybox").augmentation
    data = SubjectDataset(find_photos(pair), concept, resolution=32, augmentation=augmentation)
    batch = data.batch(30, torch.Generator().manual_seed(0))
    assert batch.part_masks is not None
    shown = shown_parts(batch.part_masks, 30)
    assert set(batch.captions) == {"a photo of a <dog>", "a photo of a <hat>"}
    assert [bool(row[0]) for row in shown] == ["<dog>" in caption for caption in batch.captions]
    first = find_photos(pair)[0]
    assert first.parts is not None
    dark = dataclasses.replace(first, parts=torch.zeros_like(first.parts))
    with pytest.raises(PhotoError, match="are black; it shows none of the subjects"):
        SubjectDataset([dark], concept, resolution=32, augmentation=augmentation)


def test_two_subjects_are_learned_and_a_killed_run_goes_on(sd: AbstractBackbone, pair: Path, tmp_path: Path) -> None:
    recipe = RECIPES["magictailor"].build("dog, hat", "toybox")
    quick = dataclasses.replace(recipe, sampling=SampleConfig(num_inference_steps=2, guidance_scale=2.0)).with_steps(5)
    straight = learn(pair, noun="dog, hat", output=tmp_path / "a", recipe=quick, base=sd, seed=1)
    assert len(straight.generate(["<dog> with <hat>"], seeds=[0], base=sd)) == 1

    class Stopper:
        def event(self, name: str, message: str = "", **fields: object) -> None:
            pass

        def progress(self, task: str, step: int, total: int, **fields: object) -> None:
            if task == "learn balanced" and step == 1:
                raise KeyboardInterrupt

    with pytest.raises(Exception, match="same command goes on"):
        learn(pair, noun="dog, hat", output=tmp_path / "b", recipe=quick, base=sd, seed=1, reporter=Stopper())
    resumed = learn(pair, noun="dog, hat", output=tmp_path / "b", recipe=quick, base=sd, seed=1)
    for name, tensors in straight.data.tensors.items():
        assert all(torch.equal(value, resumed.data.tensors[name][key]) for key, value in tensors.items())
