"""Regions that do not mix: the grid, a denoiser whose regions are pictures of their own, and packed photos."""

import pytest
import torch
from torch import nn

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation, Photo, SubjectDataset
from pcs_ext.image.grid import divided, joined
from pcs_ext.image.regional import regional


def test_the_grid() -> None:
    maps = torch.arange(2 * 16.0).reshape(2, 1, 4, 4)
    regions = divided(maps, 2)
    assert regions[1].flatten().tolist() == [2, 3, 6, 7], "the right one of the first row"
    assert regions[6].flatten().tolist() == [24, 25, 28, 29], "the left one of the second row, of the second picture"
    assert torch.equal(joined(regions, 2), maps)
    with pytest.raises(ConfigError, match="4 x 4 cells cannot be divided into 3 x 3"):
        divided(maps, 3)


def test_without_shared_norms_a_region_is_a_picture_of_its_own(sd: AbstractBackbone) -> None:
    for path, module in list(sd.denoiser.named_modules()):
        if isinstance(module, nn.GroupNorm):
            owner, _, name = path.rpartition(".")
            setattr(sd.denoiser.get_submodule(owner) if owner else sd.denoiser, name, nn.Identity())
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told, timesteps = sd.encode_prompt(["a dog"]), torch.tensor([300])
    with torch.no_grad():
        mixed = sd.predict(latents, timesteps, told)
        with regional(sd.denoiser, 2):
            apart = sd.predict(latents, timesteps, told)
        again = sd.predict(latents, timesteps, told)
        alone = sd.predict(divided(latents, 2), timesteps.expand(4), told[[0, 0, 0, 0]])
    torch.testing.assert_close(apart, joined(alone, 2), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(apart, mixed, atol=1e-3)
    assert torch.equal(again, mixed), "nothing is left behind"


def test_photos_are_packed(tmp_path) -> None:
    photos = [
        Photo(
            path=tmp_path / f"{n}.png", image=torch.full((3, 16, 16), n / 4), weight=1 + n, mask=torch.ones(1, 16, 16)
        )
        for n in range(4)
    ]
    concept = Concept(class_noun="dog", mode="rare", token="sks")
    data = SubjectDataset(photos, concept, resolution=16, augmentation=Augmentation(pack=2))
    batch = data.batch(3, torch.Generator().manual_seed(0))
    assert batch.images.shape == (3, 3, 16, 16)
    assert len(batch.captions) == 3
    assert batch.masks is not None
    assert batch.masks.shape == (3, 1, 16, 16)
    shown = divided(batch.images, 2).mean((1, 2, 3)).reshape(3, 4)
    assert all(sorted(row.tolist()) == pytest.approx([0.0, 0.25, 0.5, 0.75]) for row in shown), "every photo once"
    assert batch.weights is not None
    assert batch.weights.tolist() == [2.5] * 3
    with pytest.raises(ConfigError, match="packed photos are squares"):
        Augmentation(pack=2, relocate=True)
