"""Both passes of a pair against passes of their own, and earlier pictures beside photos."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from pcs_ext.errors import ConfigError, PhotoError
from pcs_ext.image.adapters import PairConfig, injected
from pcs_ext.image.adapters.pair import PairAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation, SubjectDataset, find_photos, photo_paths
from pcs_ext.image.learn import learn
from pcs_ext.image.terms import PairTermConfig, build_term
from pcs_ext.image.types import Batch
from tests.image.adapters.test_adapters import disturb
from tests.image.terms.test_context_term import step_of


def test_both_passes(sd: AbstractBackbone) -> None:
    adapter = PairAdapter("pair", PairConfig(phrase="in snow", rank=2))
    generator = torch.Generator().manual_seed(2)
    after, before = (torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    batch = Batch(images=after, captions=("a dog in snow",) * 2, before=before, keys=("0/0", "1/0"))
    with injected(sd, adapter), torch.no_grad():
        disturb(adapter, size=0.3)
        step = dataclasses.replace(step_of(sd, {"pair": adapter}), batch=batch)

        def expected(pictures: torch.Tensor, prompt: str, style: float) -> torch.Tensor:
            draw = torch.Generator().manual_seed(9)
            latents = torch.cat([sd.encode_images(picture[None]) for picture in pictures])
            noise = torch.randn(latents.shape, generator=draw)
            timesteps = sd.schedule.draw_timesteps(2, draw)
            adapter.style.set_scale(style)
            noisy = sd.schedule.add_noise(latents, noise, timesteps)
            prediction = sd.predict(noisy, timesteps, sd.encode_prompt([prompt] * 2))
            adapter.style.set_scale(1.0)
            return (prediction - noise).square().mean()

        content, style = expected(before, "a dog", 0.0), expected(after, "a dog in snow", 1.0)

        def term(both: bool) -> torch.Tensor:
            seeded = dataclasses.replace(step, generator=torch.Generator().manual_seed(9))
            return build_term(PairTermConfig(style=both))(seeded)

        torch.testing.assert_close(term(False), content)
        torch.testing.assert_close(term(True), content + style)
        with pytest.raises(ConfigError, match="1 such adapters and no pictures"):
            build_term(PairTermConfig())(dataclasses.replace(step, batch=dataclasses.replace(batch, before=None)))


def test_earlier_pictures_are_read_and_asked_for(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"none was found for 0\.png, 1\.png, 2\.png\. Put 0_before\.png there"):
        learn(photos, noun="dog, snow", output=tmp_path / "x", recipe="pair-customization", base=sd)
    for photo in sorted(photos.glob("?.png")):
        with Image.open(photo) as image:
            ImageOps.invert(image).save(photo.with_name(f"{photo.stem}_before.png"))
    found = find_photos(photos)
    assert [photo.path.name for photo in found] == ["0.png", "1.png", "2.png"]
    concept = Concept(class_noun="dog", mode="plain")
    data = SubjectDataset(found, concept, resolution=32, augmentation=Augmentation(flip=True))
    batch = data.batch(12, torch.Generator().manual_seed(0))
    assert batch.before is not None
    torch.testing.assert_close(batch.before, -batch.images, atol=0.02, rtol=0)
    assert any(key.endswith("/1") for key in batch.keys or ())
    assert len(photo_paths(photos)) == 6, "who protects a folder protects them, too"
    (photos / "1.png").rename(photos / "one.png")
    assert [photo.path.name for photo in find_photos(photos)] == ["0.png", "1_before.png", "2.png", "one.png"]
    (photos / "one.png").rename(photos / "1.png")
    Image.new("RGB", (80, 40)).save(photos / "1_before.png")
    with pytest.raises(PhotoError, match=r"1_before\.png is 80 x 40 but its photo is 48 x 44"):
        find_photos(photos)
