"""The page's parts on tiny models: made once, kept, and made anew when what they are made from differs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcs_ext.defense import evaluation
from pcs_ext.defense.attack import Attacker
from pcs_ext.defense.evaluation import Plan
from pcs_ext.demo.drawing import drawing_recipe, make_drawing
from pcs_ext.demo.job import run_demo
from pcs_ext.demo.object import make_object, object_section
from pcs_ext.demo.part import part, part_seconds
from pcs_ext.demo.protection import make_protection
from pcs_ext.demo.video import ClipJudge, make_video, video_recipe
from pcs_ext.errors import UsageError
from pcs_ext.image.evaluate import load_image_encoder
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.reporter import SilentReporter
from pcs_ext.svg.vector.read import read_svg
from pcs_ext.svg.vector.refine import Refinement
from pcs_ext.threed.request import MakeOptions
from pcs_ext.toybox.motion_reader import MotionReader
from pcs_ext.toybox.world.subjects import subject
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.clips import read_clip
from tests.support.encoders import tiny_dino
from tests.support.small_jobs import Learned, small


def test_a_part_keeps_what_is_its_own_and_drops_what_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "part"
    for facts, kept in (({"seed": 1}, False), ({"seed": 1}, True), ({"seed": 2}, False)):
        with part(folder, facts, SilentReporter()) as watch:
            assert (folder / "made.txt").exists() == kept
            watch.progress("making", 1, 1)
            (folder / "made.txt").write_text("made")
    assert part_seconds(folder) > 0


def test_an_exemplar_is_redrawn_with_its_layers(tmp_path: Path, sd) -> None:
    whole = drawing_recipe(sd, 2)
    recipe = dataclasses.replace(
        whole,
        variants=2,
        feature_draws=1,
        alignment=dataclasses.replace(whole.alignment, grid=16, agreement_steps=2, least_confidence=0.0),
        added_paths=1,
        refinement=Refinement(side=32, color_steps=1, placement_steps=1, point_steps=1),
        concept=dataclasses.replace(
            whole.concept, sampling=dataclasses.replace(whole.concept.sampling, num_inference_steps=2)
        ),
    )
    shown = make_drawing(tmp_path, sd, recipe=recipe, seed=0, reporter=SilentReporter())
    ids = {path.id for path in read_svg(tmp_path / shown.redrawn).scene.paths}
    assert ids == {*shown.kept, *shown.added}
    lines = read_svg(tmp_path / shown.outlines).scene.paths
    assert {path.id for path in lines} == ids
    assert all(path.fill is None and path.stroke is not None for path in lines)
    before = (tmp_path / shown.redrawn).stat().st_mtime_ns
    again = make_drawing(tmp_path, sd, recipe=recipe, seed=0, reporter=SilentReporter())
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(shown, seconds=0)
    assert (tmp_path / shown.redrawn).stat().st_mtime_ns == before


def test_photos_are_protected_and_attacked(tmp_path: Path, photos: Path, sd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_NATURAL_PICTURES", 2)
    for preset, settings in SAMPLING.items():
        monkeypatch.setitem(SAMPLING, preset, dataclasses.replace(settings, num_inference_steps=2))
    before = {path: path.read_bytes() for path in photos.iterdir()}
    found = sorted(photos.iterdir())
    plan = Plan(attackers=(Attacker(recipe="textual-inversion", share=1 / 3000),), pictures=1)
    dino = tiny_dino(tmp_path / "dino")
    shown = make_protection(
        tmp_path, found, sd, noun="dog", steps=1, seed=0, reporter=SilentReporter(), plan=plan, encoder=dino
    )
    assert [arm.id for arm in shown.arms] == ["clean", "protected", "noise"]
    for one, photo in zip(shown.photos, found, strict=True):
        assert tmp_path / one.original == photo
        with Image.open(photo) as original, Image.open(tmp_path / one.protected) as protected:
            assert original.size == protected.size
        assert 0 < one.levels <= shown.levels
    assert all((tmp_path / path).is_file() for arm in shown.arms for path in arm.pictures)
    assert (tmp_path / shown.report).is_file()
    assert {path: path.read_bytes() for path in before} == before


def test_a_motion_is_learned_and_the_subject_takes_it_on(tmp_path: Path, photos: Path, sd) -> None:
    subject, found = tmp_path / "subjects" / "words", sorted(photos.iterdir())
    learn(found, noun="dog", output=subject, recipe="textual-inversion", base=sd, steps=2)
    whole = video_recipe(2)
    backbone = InflatedBackbone(sd, attention="sparse-causal")
    recipe = dataclasses.replace(whole, sampling=dataclasses.replace(whole.sampling, num_inference_steps=2))
    judge = ClipJudge(load_image_encoder(tiny_dino(tmp_path / "dino")), MotionReader())
    settings = {"judge": judge, "recipe": recipe, "name": "Rex", "seed": 0, "reporter": SilentReporter()}
    shown = make_video(tmp_path, subject, found, lambda _: backbone, **settings)
    assert [clip.label for clip in shown.clips] == ["The clip", "Rex, with its motion", "Rex, without"]
    assert shown.steps == 2
    # The rendered clip moves as it does, whatever the size.
    assert shown.clips[0].fidelity > 0.8
    for clip in shown.clips:
        read = read_clip(tmp_path / clip.clip)
        assert (len(read), read.size) == (8, (256, 256))
    made = [read_clip(tmp_path / clip.clip).frames for clip in shown.clips[1:]]
    assert not torch.equal(*made)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "video").rglob("*") if path.is_file()}
    again = make_video(tmp_path, subject, found, lambda _: backbone, **settings)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if after[path] != before[path]} <= {"time.json"}
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(shown, seconds=0)
    backbone.remove()


def test_the_subject_becomes_an_object_beside_the_true_toy(learned: Learned, tmp_path: Path) -> None:
    encoder = load_image_encoder(tiny_dino(tmp_path / "dino"))
    options = MakeOptions(config=small("dreambooth3d", tmp_path), device="cpu", precision="fp32", colors="vertex",
                          viewer=True)  # fmt: skip
    settings: dict[str, Any] = {
        "toy": subject("rex"),
        "encoder": encoder,
        "resolution": 32,
        "options": options,
        "reporter": SilentReporter(),
    }
    photos = sorted(path for path in learned.photos.iterdir() if not path.stem.endswith("_mask"))
    shown = make_object(tmp_path, learned.subject, photos, **settings)
    for path in (shown.made, shown.true):
        with Image.open(tmp_path / path) as turning:
            assert (turning.size, getattr(turning, "n_frames", 1)) == ((192, 192), 24)
    assert shown.faces > 0
    assert -1 <= shown.likeness < 0.999
    section = object_section(shown, tmp_path, "Rex")
    assert "srcdoc=" in section
    assert section.count("data:image/webp;base64,") == 2
    before = (tmp_path / shown.model).stat().st_mtime_ns
    assert make_object(tmp_path, learned.subject, photos, **settings).faces == shown.faces
    assert (tmp_path / shown.model).stat().st_mtime_ns == before


def test_an_unknown_part_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no part opera; expected panorama, object, video, drawing, protection"):
        run_demo(tmp_path, parts=["opera"])  # type: ignore[list-item]
    assert not list(tmp_path.iterdir())
