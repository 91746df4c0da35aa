"""Batches: deterministic, aligned, keyed."""

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation, SubjectDataset
from pcs_ext.image.data.dataset import relocate
from pcs_ext.image.data.photos import Photo

CONCEPT = Concept(class_noun="dog", mode="rare", token="sks", templates=("a photo of {subject}", "my {subject}"))


def photo(name: str, *, caption: str | None = None) -> Photo:
    """A photo whose mask is its own red channel, so that misalignment shows."""
    image = torch.rand(3, 40, 56) * 2 - 1
    image[0] = torch.where(torch.rand(40, 56) > 0.5, 1.0, -1.0)
    return Photo(path=Path(name), image=image, mask=(image[:1] + 1) / 2, caption=caption)


def make(augmentation: Augmentation, count: int = 3) -> SubjectDataset:
    return SubjectDataset([photo(str(i)) for i in range(count)], CONCEPT, resolution=32, augmentation=augmentation)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), flip=st.booleans(), crop=st.sampled_from(["center", "random"]))
def test_mask_follows_the_image(seed: int, flip: bool, crop: str) -> None:
    data = make(Augmentation(flip=flip, crop=crop))  # type: ignore[arg-type]
    batch = data.batch(2, torch.Generator().manual_seed(seed))
    assert batch.masks is not None
    assert batch.images.shape == (2, 3, 32, 32)
    assert ((batch.images[:, :1] + 1) / 2 - batch.masks).abs().max() < 0.35  # bicubic overshoot is clamped apart
    assert ((batch.images[:, :1] + 1) / 2 - batch.masks).abs().mean() < 0.02


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_relocated_photos_are_valid_where_they_are(seed: int) -> None:
    image = torch.ones(3, 32, 32)
    moved, mask, valid, prefix = relocate(image, image[:1], torch.Generator().manual_seed(seed))
    assert mask is not None
    assert moved.shape == image.shape
    assert valid.max() == 1
    assert (moved[0][valid[0] > 0] - 1).abs().max() < 0.05
    assert prefix in ("", "far away, ", "close up, ")
    assert (prefix == "close up, ") == bool((valid == 1).all() and (moved > 0.9).all())


def test_the_same_generator_gives_the_same_batch() -> None:
    data = make(Augmentation(flip=True, crop="random", relocate=True))
    a, b = (data.batch(3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert a.captions == b.captions
    assert a.keys is None


def test_equal_keys_mean_equal_pixels_and_every_photo_comes() -> None:
    data = make(Augmentation(flip=True))
    seen: dict[str, torch.Tensor] = {}
    for step in range(12):
        batch = data.batch(2, torch.Generator().manual_seed(step))
        assert batch.keys is not None
        for key, image in zip(batch.keys, batch.images, strict=True):
            assert torch.equal(seen.setdefault(key, image), image)
    assert len(seen) == 6


def test_captions_come_from_templates_or_files() -> None:
    own = [photo("a", caption="{subject} asleep"), photo("b", caption="on a chair")]
    data = SubjectDataset(own, CONCEPT, resolution=32, augmentation=Augmentation())
    captions = {c for s in range(8) for c in data.batch(2, torch.Generator().manual_seed(s)).captions}
    assert captions == {"a sks dog asleep", "a sks dog, on a chair"}
    captions = {c for s in range(20) for c in make(Augmentation()).batch(1, torch.Generator().manual_seed(s)).captions}
    assert captions == {"a photo of a sks dog", "my sks dog"}
