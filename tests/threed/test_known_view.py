"""The photo whose camera is known: how it is read, what a render must agree with, and the still stage it holds."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_ext.errors import ConfigError, InputError, UsageError
from pcs_ext.image.types import LossTerms
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.field_stage import FieldLoss
from pcs_ext.threed.fields import Blob, VoxelField
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.known_view import KnownPhoto, KnownView, correlation, known_terms, photo_errors, read_known_photo
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.recipes import RECIPES, SeenTo3dRecipe
from pcs_ext.threed.render import RenderedRays
from tests.support.small_jobs import Learned, make, stage


def rendered(rgb: torch.Tensor, opacity: torch.Tensor, depth: torch.Tensor) -> RenderedRays:
    empty = torch.zeros(len(rgb), 1)
    return RenderedRays(
        rgb=rgb, opacity=opacity, depth=depth, normals=None, weights=empty, distances=empty, widths=empty, facing=None
    )


def test_errors_by_hand() -> None:
    photo = KnownPhoto(
        torch.full((3, 1, 4), 0.25), torch.tensor([[1.0, 1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.5, 0.2, 0.9]])
    )
    seen = rendered(torch.full((4, 3), 0.75), torch.tensor([1.0, 0.5, 1.0, 0.5]), torch.tensor([5.0, 5.2, 5.1, 9.0]))
    terms = photo_errors(seen, photo, KnownView(color=5.0, cover=0.5, depth=0.01)).terms
    assert float(terms["known/color"]) == pytest.approx(5 * 0.25 * 3 / 4)
    assert float(terms["known/cover"]) == pytest.approx(0.5 * (0.25 + 0.25) / 4)
    related = np.corrcoef([-5.0, -5.2, -5.1], [1.0, 0.5, 0.2])[0, 1]
    assert float(terms["known/depth"]) == pytest.approx(0.01 * (1 - related) / 2, rel=1e-3)
    flat = dataclasses.replace(photo, nearness=None)
    assert "known/depth" not in photo_errors(seen, flat, KnownView()).terms
    assert float(correlation(torch.ones(4), torch.rand(4))) == 0


def test_when_the_photo_is_looked_at() -> None:
    known = KnownView(first=3, every=4)
    assert [step for step in range(13) if known.due(step)] == [0, 1, 2, 4, 8, 12]
    with pytest.raises(ConfigError, match="expected every at least 1"):
        KnownView(every=0)


def test_a_cut_out_is_read_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[10:30, 20:40, 3] = 255
    pixels[10:30, 40, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    photo = read_known_photo(tmp_path / "cut.png")
    assert photo.image.shape == (3, 40, 40)
    torch.testing.assert_close(photo.image[:, 20, 15], torch.tensor([200 / 255, 0.0, 0.0]), atol=1e-3, rtol=0)
    assert (photo.image[:, 0, 0] == 1).all()
    share = 128 / 255
    half = torch.tensor([200 / 255 * share + 1 - share, 1 - share, 1 - share])
    torch.testing.assert_close(photo.image[:, 20, 30], half, atol=1e-3, rtol=0)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "whole.png")
    with pytest.raises(InputError, match=r"transparent background \(RGBA\), or whole_mask.png"):
        read_known_photo(tmp_path / "whole.png")
    Image.fromarray(pixels[..., 3]).save(tmp_path / "whole_mask.png")
    torch.testing.assert_close(read_known_photo(tmp_path / "whole.png").image, photo.image, atol=1e-3, rtol=0)
    Image.new("L", (60, 40)).save(tmp_path / "whole_mask.png")
    with pytest.raises(InputError, match="covers nothing or everything"):
        read_known_photo(tmp_path / "whole.png")


def test_a_field_takes_the_photos_looks_from_its_camera() -> None:
    cover = torch.zeros(16, 16)
    cover[5:11, 4:12] = 1
    photo = KnownPhoto(torch.stack([cover * 0 + 1, 1 - cover, 1 - cover]), cover)
    field, known = VoxelField(16, blob=Blob(height=5.0, radius=0.6)), KnownView(side=16, shake=0.0, cover=5.0)
    optimizer = torch.optim.Adam(field.parameters(), lr=0.2)
    generator, errors = torch.Generator().manual_seed(0), []
    for _ in range(40):
        terms, _ = known_terms(field, photo, known, samples=16, occupancy=None, generator=generator)
        errors.append(float(terms.total.detach()))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    assert errors[-1] < 0.1 * errors[0]


class Nothing(AbstractGuidance):
    """Counts how often it is asked."""

    asked = 0

    def terms(self, images: torch.Tensor, cameras: Any, *, progress: float, generator: Any) -> LossTerms:
        self.asked += 1
        return LossTerms({"score": images.sum() * 0})


def test_known_steps_ask_no_model_and_the_others_only_that() -> None:
    settings, judge = stage(8, known=KnownView(first=2, every=3, side=8)), Nothing()
    photo = KnownPhoto(torch.ones(3, 20, 20), torch.zeros(20, 20))
    loss = FieldLoss(settings.field.build(0), settings, judge, photo=photo)
    names = [set(loss(step, 0, torch.Generator().manual_seed(step)).terms) for step in range(5)]
    assert ["known/color" in found for found in names] == [True, True, False, True, False]
    assert ["score" in found for found in names] == [False, False, True, False, True]
    assert judge.asked == 2
    with pytest.raises(UsageError, match="a known camera needs its photo"):
        FieldLoss(settings.field.build(0), settings, judge)


def test_normals_are_all_that_is_shown_at_first() -> None:
    lighting, cameras = Lighting(normals_until=0.2, albedo_until=0.0), ring(3)
    drawn = [lighting.draw(cameras, progress, torch.Generator().manual_seed(0)).shading for progress in (0.0, 0.1, 0.3)]
    assert drawn[:2] == ["normals", "normals"]
    assert drawn[2] != "normals"


def test_the_still_stage_makes_a_mesh_with_and_without_a_view_model(learned: Learned, tmp_path: Path) -> None:
    view_model = str(learned.view_model)
    both = [tmp_path / name for name in ("with", "without")]
    for folder in both:
        folder.mkdir()
    made = make(learned, both[0], "animate124-still", view_model=view_model, colors="vertex")
    alone = make(learned, both[1], "animate124-still", colors="vertex")
    assert made.mesh.volume > 0
    fields = [one.shape.state_dict()["density_grid"] for one in (made, alone)]  # type: ignore[union-attr]
    assert not torch.equal(fields[0], fields[1])


def test_what_the_still_stage_refuses(learned: Learned, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="starts from one photo, cut out, got 2"):
        make(learned, tmp_path, "animate124-still", photos=learned.photos)
    with pytest.raises(UsageError, match="takes no view model"):
        make(learned, tmp_path, "dreamfusion", view_model="somewhere")
    recipe = RECIPES["animate124-still"].build("toybox", "fast")
    assert isinstance(recipe, SeenTo3dRecipe)
    with pytest.raises(ConfigError, match="needs the photo's camera"):
        dataclasses.replace(recipe, field=dataclasses.replace(recipe.field, known=None)).validate()
