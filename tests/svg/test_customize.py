"""Customised exemplars end to end on tiny random models: structure kept, stages resumed, plans obeyed, refusals."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcs_ext.cli import main
from pcs_ext.config_io import write_json
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import SilentReporter
from pcs_ext.svg.customize import Request, _samples, customize_svg, resolve_customization
from pcs_ext.svg.exemplar import on_canvas, write_variants
from pcs_ext.svg.features import denoiser_features
from pcs_ext.svg.make import resolve_text_to_vector, text_to_vector
from pcs_ext.svg.recipes import RECIPES, CustomizationRecipe
from pcs_ext.svg.vector.distill import PathDistillation, distill
from pcs_ext.svg.vector.read import read_svg
from pcs_ext.svg.vector.refine import Refinement
from pcs_ext.svg.vector.vectorize import Vectorization
from pcs_ext.systems import catalogue
from tests.support.tiny import tiny_folder
from tests.svg.conftest import blobs, reference

EXAMPLES = Path(__file__).parents[2] / "examples" / "svg"
SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=1.0, height=64, width=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, written once."""
    return tiny_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> AbstractUnetBackbone:
    """The same, loaded."""
    return load_backbone(str(folder), device="cpu", precision="fp32")


def _small(recipe: str = "svg-customization") -> CustomizationRecipe:
    found = resolve_customization(recipe, "dog", "toybox", steps=2)
    return dataclasses.replace(
        found,
        concept=dataclasses.replace(found.concept, sampling=SAMPLING),
        variants=3,
        feature_draws=2,
        alignment=dataclasses.replace(found.alignment, grid=16, agreement_steps=3, least_confidence=0.0),
        refinement=Refinement(side=32, color_steps=2, placement_steps=2, point_steps=3),
        added_paths=2,
    )


def _request(tmp_path: Path, recipe: str = "svg-customization", name: str = "new.svg") -> Request:
    return Request(
        exemplar=EXAMPLES / "dog.svg",
        prompt="a red {subject} in snow",
        output=tmp_path / name,
        noun="dog",
        recipe=_small(recipe),
        candidates=2,
    )


@pytest.mark.parametrize("recipe", ["svg-customization", "svg-customization-lora"])
def test_ids_classes_groups_and_order_stay(tmp_path: Path, backbone: AbstractUnetBackbone, recipe: str) -> None:
    request = _request(tmp_path, recipe)
    before = {key: value.clone() for key, value in backbone.denoiser.state_dict().items()}
    report = customize_svg(request, base=backbone)
    exemplar, made = read_svg(request.exemplar), read_svg(request.output)
    known = [path.id for path in exemplar.scene.paths]
    assert report.kept == tuple(known)
    drawn = [path.id for path in made.scene.paths]
    assert [name for name in drawn if name not in report.added] == known
    assert sorted(name for name in drawn if name in report.added) == sorted(report.added)
    for old, new in zip(exemplar.scene.paths, [p for p in made.scene.paths if p.id in known], strict=True):
        assert new.groups == old.groups
        assert new.rule == old.rule
        assert not torch.equal(old.subpaths[0].points, new.subpaths[0].points)
    by_id = {element.get("id"): element for element in made.tree.getroot().iter() if element.get("id")}
    assert by_id["ear-left"].get("class") == "dark"
    assert by_id["head"].get("transform") == "translate(0 4)"
    assert (reference(request.output.read_bytes(), 96) - reference(request.exemplar.read_bytes(), 96)).abs().max() > 0.1
    assert all(torch.equal(value, before[key]) for key, value in backbone.denoiser.state_dict().items())


def test_finished_stages_are_not_done_again_and_an_edited_plan_is_obeyed(
    tmp_path: Path, backbone: AbstractUnetBackbone
) -> None:
    request = _request(tmp_path)
    customize_svg(request, base=backbone)
    first = request.output.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (request.work / "subject").iterdir()}
    request.output.unlink()
    customize_svg(request, base=backbone)
    assert request.output.read_bytes() == first
    assert stamps == {path: path.stat().st_mtime_ns for path in (request.work / "subject").iterdir()}
    plan = json.loads((request.work / "alignment.json").read_text())
    by_id = {entry["id"]: entry for entry in plan["paths"]}
    by_id["collar"]["action"] = "drop"
    by_id["nose"]["action"] = "freeze"
    write_json(request.work / "alignment.json", plan)
    report = customize_svg(request, base=backbone)
    assert report.dropped == ("collar",)
    old, new = ({p.id: p for p in read_svg(f).scene.paths} for f in (request.exemplar, request.output))
    assert "collar" not in new
    assert torch.equal(old["nose"].subpaths[0].points, new["nose"].subpaths[0].points)
    by_id["tail"]["action"] = "burn"
    write_json(request.work / "alignment.json", plan)
    with pytest.raises(ConfigError, match="action"):
        customize_svg(request, base=backbone)


def test_another_wish_in_the_same_folder_and_bad_input_are_refused(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dog = str(EXAMPLES / "dog.svg")
    tail = ["--noun", "dog", "--base", str(folder)]
    cases = [
        ([dog, "a red dog", "-o", str(tmp_path / "a.svg"), *tail], "where the subject goes"),
        ([dog, "a {subject}", "-o", str(tmp_path / "a.png"), *tail], "ends in .svg"),
        ([dog, "a {subject}", "-o", dog, *tail], "other than the exemplar's"),
        (
            [dog, "a {subject}", "-o", str(tmp_path / "a.svg"), *tail, "--recipe", "vectorfusion"],
            "expected one of svg-",
        ),
        ([str(tmp_path / "no.svg"), "a {subject}", "-o", str(tmp_path / "a.svg"), *tail], "is not a file"),
    ]
    for arguments, words in cases:
        with pytest.raises(SystemExit):
            main(["svg", "customize", *arguments])
        assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.svg.work").mkdir()
    write_json(tmp_path / "a.svg.work" / "request.json", {"prompt": "another"})
    with pytest.raises(SystemExit):
        main(["svg", "customize", dog, "a {subject}", "-o", str(tmp_path / "a.svg"), *tail])
    assert "belongs to another wish" in capsys.readouterr().err


def test_the_commands_end_in_files(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "recipe.json", _small("svg-customization-lora"))
    output = tmp_path / "new.svg"
    tail = ["--base", str(folder), "--device", "cpu", "--precision", "fp32", "--candidates", "1", "--added", "0"]
    wish = [str(EXAMPLES / "mug.svg"), "a blue {subject}", "-o", str(output), "--noun", "toy"]
    main(["svg", "customize", *wish, "--config", str(tmp_path / "recipe.json"), *tail])
    assert "9 paths kept, 0 dropped, 0 added" in capsys.readouterr().out
    text = dataclasses.replace(
        resolve_text_to_vector("toybox", paths=4, steps=2),
        sampling=SAMPLING,
        vectorization=Vectorization(paths=4, rounds=1, steps=3, side=32),
    )
    write_json(tmp_path / "text.json", text)
    subject, drawn = str(tmp_path / "new.svg.work" / "subject"), tmp_path / "drawn.svg"
    main(["svg", "make", subject, "a {subject} on grass", "-o", str(drawn), "--config", str(tmp_path / "text.json")])
    assert 1 <= len(read_svg(drawn).scene.paths) <= 4
    assert not (tmp_path / "drawn.svg.work").exists()
    before = drawn.read_bytes()
    with pytest.raises(SystemExit):
        main(["svg", "make", subject, "a {subject} at night", "-o", str(drawn)])
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["svg", "make", subject, "a toy", "-o", str(drawn), "--overwrite"])
    assert "where the subject goes" in capsys.readouterr().err
    assert drawn.read_bytes() == before


@torch.no_grad()
def test_sampling_sets_in_at_the_noised_exemplar(backbone: AbstractUnetBackbone, tmp_path: Path) -> None:
    own = on_canvas(read_svg(EXAMPLES / "dog.svg").scene, 64)
    request = _request(tmp_path)
    artifact: Any = SimpleNamespace(
        concept=Concept(class_noun="dog", mode="plain"), sampling=dataclasses.replace(SAMPLING, num_inference_steps=10)
    )

    def imagined(strength: float) -> tuple[torch.Tensor, int]:
        recipe = dataclasses.replace(request.recipe, layout_strength=strength)
        seen: list[int] = []
        handle = backbone.denoiser.register_forward_hook(lambda *_: seen.append(1))
        images = _samples(dataclasses.replace(request, recipe=recipe), own, artifact, backbone, SilentReporter())
        handle.remove()
        return torch.stack(images), len(seen)

    whole, calls = imagined(1.0)
    assert calls == 10
    near, calls = imagined(0.2)
    assert calls == 2
    assert not torch.equal(near[0], near[1])
    own = own.flip(-1)
    assert torch.equal(imagined(1.0)[0], whole), "without a start the exemplar does not matter"
    assert not torch.equal(imagined(0.2)[0], near), "with one it does"
    with pytest.raises(ConfigError, match="layout_strength"):
        dataclasses.replace(_small(), layout_strength=0.0).validate()


@torch.no_grad()
def test_no_candidate_of_a_seed_is_one_of_the_next(backbone: AbstractUnetBackbone, tmp_path: Path) -> None:
    request = _request(tmp_path)
    artifact: Any = SimpleNamespace(concept=Concept(class_noun="dog", mode="plain"), sampling=SAMPLING)
    own = on_canvas(read_svg(EXAMPLES / "dog.svg").scene, 64)
    drawn = [
        image
        for seed in (0, 1)
        for image in _samples(dataclasses.replace(request, seed=seed), own, artifact, backbone, SilentReporter())
    ]
    assert len(drawn) == 4
    assert not any(torch.equal(a, b) for index, a in enumerate(drawn) for b in drawn[:index])


def test_another_subject_or_base_is_another_wish(backbone: AbstractUnetBackbone, tmp_path: Path) -> None:
    first = _request(tmp_path)
    customize_svg(first, base=backbone)
    subject = tmp_path / "subject"
    shutil.copytree(first.work / "subject", subject)
    request = dataclasses.replace(first, output=tmp_path / "second.svg", subject=subject)
    customize_svg(request, base=backbone)
    made = request.output.read_bytes()
    subject = subject.rename(tmp_path / "moved")
    request = dataclasses.replace(request, subject=subject)
    customize_svg(request, base=backbone)
    assert request.output.read_bytes() == made, "the same subject elsewhere"
    data = Artifact.load(subject).data
    tensors = {name: {key: value + 0.1 for key, value in part.items()} for name, part in data.tensors.items()}
    shutil.rmtree(subject)
    dataclasses.replace(data, tensors=tensors).save(subject)
    with pytest.raises(ConfigError, match=r"another wish \(other subject\)"):
        customize_svg(request, base=backbone)
    changed = load_backbone(str(tiny_folder(tmp_path / "tiny", family="sdxl")), device="cpu", precision="fp32")
    changed.name = backbone.name
    with pytest.raises(ConfigError, match=r"another wish \(other base"):
        customize_svg(first, base=changed)


def test_variants_repeat_and_differ(tmp_path: Path) -> None:
    scene = read_svg(EXAMPLES / "mug.svg").scene
    first = [p.read_bytes() for p in write_variants(scene, tmp_path / "a", 3, 32, 0.6, seed=1)]
    again = [p.read_bytes() for p in write_variants(scene, tmp_path / "b", 3, 32, 0.6, seed=1)]
    other = [p.read_bytes() for p in write_variants(scene, tmp_path / "c", 3, 32, 0.6, seed=2)]
    assert first == again
    assert first[0] == other[0]
    assert len({*first, *other}) == 5


def test_features_tell_places_apart_and_leave_no_hook(backbone: AbstractUnetBackbone) -> None:
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    settings = {"block": 1, "timestep": 0.26, "draws": 2}
    found = denoiser_features(backbone, image, "a dog", **settings)
    assert found.dim() == 3
    assert torch.equal(found, denoiser_features(backbone, image, "a dog", **settings))
    assert not torch.equal(found, denoiser_features(backbone, 1 - image, "a dog", **settings))
    assert not any(block._forward_hooks for block in backbone.denoiser.up_blocks)


def test_score_distillation_moves_paths_and_not_the_base(backbone: AbstractUnetBackbone, tmp_path: Path) -> None:
    scene = blobs(3, 96, 1)
    settings = PathDistillation(steps=3, guidance_scale=3.0)
    whole = distill(scene, backbone, "a dog", settings, folder=tmp_path)
    assert [path.id for path in whole.paths] == [path.id for path in scene.paths]
    assert not torch.equal(whole.paths[0].subpaths[0].points, scene.paths[0].subpaths[0].points)
    again = distill(scene, backbone, "a dog", settings)
    assert torch.equal(whole.paths[0].subpaths[0].points, again.paths[0].subpaths[0].points)
    other = distill(scene, backbone, "a red cat", settings)
    assert not torch.equal(whole.paths[0].subpaths[0].points, other.paths[0].subpaths[0].points)
    assert all(parameter.grad is None for parameter in backbone.denoiser.parameters())
    with pytest.raises(UsageError, match="low < high"):
        distill(scene, backbone, "a dog", PathDistillation(low=0.9, high=0.2))


def test_text_becomes_paths_and_a_second_call_goes_on(backbone: AbstractUnetBackbone, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        resolve_text_to_vector("toybox", paths=4, steps=2),
        sampling=SAMPLING,
        vectorization=Vectorization(paths=4, rounds=1, steps=3, side=32),
    )
    scene = text_to_vector(backbone, "a dog", recipe, folder=tmp_path)
    assert 1 <= len(scene.paths) <= 4
    start = (tmp_path / "start.svg").stat().st_mtime_ns
    again = text_to_vector(backbone, "a dog", recipe, folder=tmp_path)
    assert (tmp_path / "start.svg").stat().st_mtime_ns == start
    for a, b in zip(scene.paths, again.paths, strict=True):
        assert torch.equal(a.subpaths[0].points, b.subpaths[0].points)


def test_recipes_build_and_name_their_system() -> None:
    for entry in RECIPES.values():
        for preset in ("toybox", "sd", "sdxl"):
            recipe = entry.build("dog", preset)
            recipe.validate()
            assert recipe.id == entry.id
    row = next(system for system in catalogue() if system.id == "svgcustomization")
    assert row.recipes == ("svg-customization", "svg-customization-lora")
    assert row.status in ("runs", "measured")


def test_steps_of_a_subject_that_was_learned_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["svg", "customize", "a.svg", "a {subject}", "-o", str(tmp_path / "o.svg"), "--noun", "dog"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--subject", str(tmp_path), "--steps", "9"])
    assert "leave one out" in capsys.readouterr().err
