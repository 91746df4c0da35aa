"""Pictures that a clip is made with: every common format, upright, and looked at before a model is loaded."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import read_json
from pcs_ext.errors import InputError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import learn
from pcs_ext.image.levels import pixels_of
from pcs_ext.image.recipes import RECIPES
from pcs_ext.reporter import SilentReporter
from pcs_ext.video import make as making
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.clips import read_clip, write_clip
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.make import make_clips
from pcs_ext.video.make_request import MakeRequest
from pcs_ext.video.pictures import GivenPictures, covering
from pcs_ext.video.recipes import MOTIONS
from pcs_ext.video.reference.photos import PhotoRequest
from pcs_ext.video.sample import sample_clips
from tests.support.tiny_reference import published

FAST: dict[str, Any] = {"overwrite": False, "reporter": SilentReporter()}
FORMATS = [".jpg", ".bmp", ".tiff", ".png", ".webp", ".gif"]


def half_white(path: Path) -> Path:
    """The left half white, the right black."""
    picture = Image.new("RGB", (48, 48), "black")
    picture.paste("white", (0, 0, 24, 48))
    picture.save(path)
    return path


def motion(recipe: str, base: Path, output: Path) -> Path:
    chosen = dataclasses.replace(MOTIONS[recipe].build("sd"), frames=3, stride=1).with_steps(1)
    video = load_video_backbone(base, inflation=chosen.inflation, device="cpu", precision="fp32")
    levels = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    learn_motion([pixels_of(levels)], ["a dog"], output, backbone=video, recipe=chosen)
    return output


def test_a_mask_may_be_a_picture_of_any_format(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor] = []
    cells = making.clip_mask

    def looked(*arguments: Any) -> Tensor:
        masks.append(cells(*arguments))
        return masks[-1]

    monkeypatch.setattr(making, "clip_mask", looked)
    learned = motion("make-a-protagonist", base, tmp_path / "motion")
    request = MakeRequest(prompts=("a cat",), motion=learned, steps=1, device="cpu", precision="fp32")
    for suffix in FORMATS:
        mask = half_white(tmp_path / f"mask{suffix}")
        make_clips(dataclasses.replace(request, mask=mask), tmp_path / f"{suffix[1:]}.gif", **FAST)
    for mask in masks:
        assert mask.shape == (1, 1, 3, 8, 8)
        assert bool((mask[..., :4] == 1).all())
        assert bool((mask[..., 5:] == 0).all())
    assert len(masks) == len(FORMATS)


def test_a_clip_may_start_from_a_picture_of_any_format(base: Path, tmp_path: Path) -> None:
    learned = motion("lamp", base, tmp_path / "motion")
    request = MakeRequest(prompts=("a cat",), motion=learned, steps=1, device="cpu", precision="fp32")
    firsts = []
    for suffix in (".jpg", ".bmp"):
        picture = half_white(tmp_path / f"first{suffix}")
        (made,) = make_clips(dataclasses.replace(request, picture=picture), tmp_path / f"{suffix[1:]}.gif", **FAST)
        firsts.append(read_clip(made).frames[0].float())
    assert (firsts[0] - firsts[1]).abs().mean() < 4


def test_photos_are_turned_upright_and_what_is_transparent_in_a_mask_is_black(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (48, 64), "white").save(tmp_path / "phone.jpg", exif=exif)
    Image.new("RGBA", (48, 48), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    given = GivenPictures.read(tmp_path / "phone.jpg", tmp_path / "clear.png")
    assert given.picture is not None
    assert given.mask is not None
    assert given.picture.shape == (1, 3, 48, 64)
    assert bool((given.mask == -1).all())
    frames = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 48, 48).contiguous() * 60
    clip = write_clip(frames, tmp_path / "clip.gif", fps=8)
    given = GivenPictures.read(clip, clip)
    assert given.mask is None, "a clip is read once the size is known"
    assert given.picture is not None
    assert given.picture.shape == (1, 3, 48, 48)


def test_what_cannot_be_used_is_named_before_a_model_is_loaded(base: Path, tmp_path: Path) -> None:
    learned = motion("make-a-protagonist", base, tmp_path / "motion")
    shutil.rmtree(base)
    request = MakeRequest(prompts=("a cat",), motion=learned, device="cpu")
    broken = tmp_path / "mask.jpg"
    broken.write_bytes(b"\xff\xd8\xffnothing")
    for mask, message in ((broken, "mask.jpg is not an image"), (tmp_path / "no.png", "no.png does not exist")):
        with pytest.raises(InputError, match=message):
            make_clips(dataclasses.replace(request, mask=mask), tmp_path / "out.gif", **FAST)


def test_pictures_cover_a_size_and_are_cropped_at_the_centre() -> None:
    wide = torch.full((1, 3, 8, 24), -1.0)
    wide[..., 8:16] = 1
    assert torch.equal(covering(wide, (8, 8)), torch.ones(1, 3, 8, 8))


def test_the_picture_that_a_clip_starts_from_is_made_beside_the_photos_and_away_from_what_is_unwanted(
    base: Path, photos: Path, tmp_path: Path
) -> None:
    learned = motion("lamp", base, tmp_path / "motion")
    adapter = published(tmp_path / "adapter", load_backbone(base, device="cpu", precision="fp32"))
    request = MakeRequest(prompts=("a cat",), motion=learned, steps=2, device="cpu", precision="fp32")
    shown = PhotoRequest(photos=(photos / "0.png",), adapter=str(adapter))
    asked = {
        "plain": request,
        "photo": dataclasses.replace(request, photos=shown),
        "none": dataclasses.replace(request, photos=dataclasses.replace(shown, scale=0.0)),
        "away": dataclasses.replace(request, negative_prompt="red dog on grass"),
    }
    firsts = {}
    for name, one in asked.items():
        (made,) = make_clips(one, tmp_path / f"{name}.gif", **FAST)
        firsts[name] = read_clip(made).frames[0]
    assert torch.equal(firsts["none"], firsts["plain"])
    assert not torch.equal(firsts["photo"], firsts["plain"])
    assert not torch.equal(firsts["away"], firsts["plain"])


def test_clips_stay_away_from_the_word_that_a_subject_learned_to_stay_away_from(
    base: Path, module: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def looked(*arguments: Any, **options: Any) -> Tensor:
        seen.append(options["negative_prompts"])
        return sample_clips(*arguments, **options)

    monkeypatch.setattr(making, "sample_clips", looked)
    recipe = RECIPES["dreamartist"].build("dog", "sd").with_steps(1)
    image = load_backbone(base, device="cpu", precision="fp32")
    learn(photos, output=tmp_path / "rex", noun="dog", recipe=recipe, base=image)
    request = MakeRequest(
        prompts=("a {subject}",), subject=tmp_path / "rex", motion_module=str(module), negative_prompt="blur",
        frames=2, steps=1, device="cpu", precision="fp32",
    )  # fmt: skip
    (made,) = make_clips(request, tmp_path / "rex.gif", **FAST)
    word = recipe.concept.negative
    assert word
    assert seen == [[f"{word}, blur"]]
    assert read_json(made.with_name("rex.gif.json"))["made_by"]["negative_prompt"] == f"{word}, blur"
