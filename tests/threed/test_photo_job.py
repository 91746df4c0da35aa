"""One photo, all the way to a moving scene: every stage once, in one folder, and again from where it stopped."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcs_ext.config_io import write_json
from pcs_ext.errors import CheckpointError, ConfigError, InputError, ModelError, UsageError
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.animate_job import Animated, AnimateOptions
from pcs_ext.threed.known_view import KnownView
from pcs_ext.threed.motion_stage import FirstMoment, FrameScore, MotionStage
from pcs_ext.threed.moving_fields import MotionConfig
from pcs_ext.threed.photo_job import animate_photo
from pcs_ext.threed.recipes import AnimateRecipe
from pcs_ext.threed.work import finished_shape
from pcs_ext.video.backbones.load import load_video_backbone
from tests.support.small_jobs import Learned, fit_of, small, small_recipe
from tests.support.tiny_video import tiny_motion_adapter


def run(learned: Learned, folder: Path, load: Any = load_video_backbone, **changes: Any) -> Animated:
    """The whole way in seconds."""
    motion, config = folder / "motion", folder / "motion.json"
    if not motion.exists():
        tiny_motion_adapter().save_pretrained(motion)
    stage = MotionStage(
        motion=MotionConfig(kind="grids", moments=3, free_start=True),
        first=FirstMoment(known=KnownView(first=1, every=2, side=12), share=1.0),
        pictures=FrameScore(since=0.5),
        fit=fit_of(3),
        frames=3,
        side=16,
        samples=12,
    )
    write_json(config, AnimateRecipe(id="animate124", stage=stage))
    config = changes.pop("config", config)
    photo, noun = changes.pop("photo", learned.photo), changes.pop("noun", "dog")
    still = changes.pop("still", None) or small("animate124-still", folder)
    prompt = changes.pop("prompt", "a photo of {subject} jumping")
    options = AnimateOptions(
        method="animate124",
        base=Artifact.load(learned.word).data.base_name,
        photo=photo,
        config=config,
        motion_module=motion,
        view_model=changes.pop("view_model", str(learned.view_model)),
        controlnet=changes.pop("controlnet", learned.controlnet),
        device="cpu",
        precision="fp32",
        frames=4,
        side=16,
        **changes,
    )
    return animate_photo(noun, prompt, folder / "rex.gif", options, load, still_config=still, word_steps=2)


def test_a_photo_becomes_a_moving_scene_and_nothing_is_done_twice(learned: Learned, tmp_path: Path) -> None:
    made = run(learned, tmp_path)
    with Image.open(made.file) as film:
        assert getattr(film, "n_frames", 1) == 4
    work = tmp_path / "rex.gif.work"
    assert {"subject", "photo", "still.glb", "still.glb.work", "film.gif.work"} <= {
        path.name for path in work.iterdir()
    }
    assert Artifact.load(work / "subject").data.recipe["id"] == "textual-inversion"
    assert (work / "film.gif.work" / "motion" / "moving").is_dir()
    with pytest.raises(InputError, match=r"give its still scene: .*still\.glb\.work"):
        finished_shape(work)
    times = {path: path.stat().st_mtime_ns for path in work.rglob("*.safetensors")}
    made.file.unlink()

    def no_model(*_: Any, **__: Any) -> Any:
        raise AssertionError("a finished scene is filmed without a model")

    again = run(learned, tmp_path, load=no_model)
    assert again.file.is_file()
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.safetensors")} == times
    assert all(torch.equal(value, again.field.state_dict()[key]) for key, value in made.field.state_dict().items())
    with pytest.raises(CheckpointError, match="another prompt"):
        run(learned, tmp_path, overwrite=True, prompt="{subject} dancing")
    other, recipe = tmp_path / "other.json", small_recipe("animate124-still")
    write_json(other, dataclasses.replace(recipe, negative_prompt="blurry"))
    with pytest.raises(CheckpointError, match="another still_config"):
        run(learned, tmp_path, overwrite=True, still=other)


def test_a_film_is_not_taken_for_that_of_another_controlnet(learned: Learned, tmp_path: Path) -> None:
    network = tmp_path / "controlnet"
    shutil.copytree(learned.controlnet, network)
    run(learned, tmp_path, controlnet=network)
    with open(network / "config.json", "a", encoding="utf-8") as config:
        config.write("\n")
    with pytest.raises(CheckpointError, match="another controlnet"):
        run(learned, tmp_path, controlnet=network, overwrite=True)


def test_wrong_requests_are_refused_before_anything_is_learned(learned: Learned, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a prompt with {subject}"):
        run(learned, tmp_path, prompt="a dog jumping")
    with pytest.raises(UsageError, match="are about a photo; give it, too"):
        run(learned, tmp_path, photo=None)
    bare = AnimateOptions(method="animate124")
    with pytest.raises(UsageError, match="needs the photo"):
        animate_photo("dog", "{subject}", tmp_path / "rex.gif", bare, load_video_backbone)
    assert not (tmp_path / "rex.gif.work").exists()


def test_a_mistake_is_told_at_once_and_can_be_put_right(learned: Learned, tmp_path: Path) -> None:
    other, no_motion = small("dreamfusion", tmp_path), tmp_path / "nothing.json"
    with pytest.raises(UsageError, match="--noun is empty"):
        run(learned, tmp_path, noun="")
    with pytest.raises(ModelError, match="is no view model"):
        run(learned, tmp_path, view_model=str(tmp_path))
    with pytest.raises(ModelError, match="is no ControlNet"):
        run(learned, tmp_path, controlnet=tmp_path)
    with pytest.raises(UsageError, match=r"dreamfusion\.json: the still scene's recipe is of kind seen, got text"):
        run(learned, tmp_path, still=other)
    with pytest.raises(ConfigError, match=r"nothing\.json does not exist"):
        run(learned, tmp_path, config=no_motion)
    assert not (tmp_path / "rex.gif.work").exists()
