"""The contract of every recipe: it builds, trains what it says and nothing else, saves exactly, and leaves no trace."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from pcs_ext.config_io import from_jsonable, to_jsonable
from pcs_ext.errors import ArtifactError, ConfigError, Interrupted, UsageError
from pcs_ext.image.adapters import build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import learn, plan, resolve_recipe
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.subject import Artifact
from pcs_ext.image.training import parameter_groups
from pcs_ext.systems import catalogue

PROMPT = "a photo of {subject} on the beach"


def weights(backbone: AbstractBackbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in backbone.components().items()
        for key, value in module.state_dict().items()
    }


def quick(recipe: str, steps: int = 6) -> Recipe:
    """The toybox preset, at the size of the tiny base."""
    full = RECIPES[recipe].build("dog", "toybox")
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    return dataclasses.replace(full, class_images=min(full.class_images, 3), sampling=sampling).with_steps(steps)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("preset", ["toybox", "sd", "sdxl"])
def test_recipes_are_values(name: str, preset: str) -> None:
    recipe = RECIPES[name].build("toy robot", preset)  # type: ignore[arg-type]
    recipe.validate()
    assert recipe.id == name
    assert from_jsonable(Recipe, to_jsonable(recipe)) == recipe
    assert RECIPES[name].system in {system.id for system in catalogue()}


@pytest.mark.parametrize("name", RECIPES)
def test_contract(name: str, sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    before = weights(sd)
    with torch.no_grad():
        plain = sd.predict(torch.ones(1, 4, 8, 8), torch.tensor([300]), sd.encode_prompt(["a photo of a dog"]))
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=quick(name), base=sd, seed=3)
    after = weights(sd)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before), "the base was changed"
    assert len(artifact.data.training["losses"]) == 6
    assert all(loss == loss and loss < 100 for loss in artifact.data.training["losses"])

    loaded = Artifact.load(tmp_path / "rex")
    assert loaded.concept == artifact.concept
    first, second = (a.generate(PROMPT, seeds=[1], base=sd) for a in (artifact, loaded))
    assert first[0].image.tobytes() == second[0].image.tobytes()
    untouched = loaded.generate(PROMPT, seeds=[1], base=sd, scale=0.0)
    assert untouched[0].image.size == (32, 32)
    with torch.no_grad():
        again = sd.predict(torch.ones(1, 4, 8, 8), torch.tensor([300]), sd.encode_prompt(["a photo of a dog"]))
    assert torch.equal(plain, again)


@pytest.mark.parametrize("name", RECIPES)
def test_half_precision_learns_and_belongs_to_the_same_base(
    name: str, sd: AbstractBackbone, photos: Path, tmp_path: Path
) -> None:
    half = load_backbone(sd.name, device="cpu", precision="bf16")
    assert half.fingerprint == sd.fingerprint
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=quick(name, steps=3), base=half, seed=3)
    assert all(loss == loss and loss < 100 for loss in artifact.data.training["losses"])
    moved = [tensor for tensors in artifact.data.tensors.values() for tensor in tensors.values()]
    assert any(tensor.dtype == torch.float32 and tensor.any() for tensor in moved)
    pictures = [artifact.generate(PROMPT, seeds=[1], base=base)[0].image for base in (half, sd)]
    difference = ImageStat.Stat(ImageChops.difference(*pictures)).mean
    assert max(difference) < 12, "levels between the same picture in bf16 and in fp32"


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_on_one_photo(name: str, sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    """With the noise of one step repeated, the recipe's own parameters can lower the loss."""
    from pcs_ext.image.class_images import ClassImages
    from pcs_ext.image.data import SubjectDataset, find_photos
    from pcs_ext.image.fit import FitConfig, fit
    from pcs_ext.image.training import LatentCache, PhaseLoss, only_trainable

    recipe = quick(name)
    concept = dataclasses.replace(recipe.concept, token=recipe.concept.token or "sks")
    data = SubjectDataset(find_photos(photos)[:1], concept, resolution=32, augmentation=recipe.augmentation)
    prior = ClassImages(torch.zeros(2, 3, 32, 32), "a photo of a dog") if recipe.class_images else None
    adapters = {key: build_adapter(key, value) for key, value in recipe.adapters.items()}
    phase = recipe.phases[0]
    with injected(sd, *adapters.values()):
        groups = [dataclasses.replace(g, learning_rate=5e-3) for g in parameter_groups(phase, adapters)]
        declared = {id(parameter) for group in groups for parameter in group.parameters}
        with only_trainable(groups):
            loss = PhaseLoss(phase, sd, data, prior, groups, LatentCache(sd))

            def fixed(step: int, micro_step: int, generator: torch.Generator):
                return loss(0, 0, torch.Generator().manual_seed(0))

            states = list(fit(fixed, groups, FitConfig(steps=25)))
            touched = {
                id(p) for m in sd.components().values() for p in m.parameters() if p.grad is not None and p.grad.any()
            }
    assert states[-1].losses["total"] < states[0].losses["total"]
    assert touched <= declared, "a parameter outside the recipe's groups got a gradient"


def test_latents_do_not_depend_on_what_is_encoded_beside_them(sd: AbstractBackbone) -> None:
    from pcs_ext.image.training import LatentCache
    from pcs_ext.image.types import Batch

    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keys = tuple("abcde")

    def batch(rows: list[int]) -> Batch:
        return Batch(images=images[rows], captions=("",) * len(rows), keys=tuple(keys[row] for row in rows))

    one, other = LatentCache(sd), LatentCache(sd)
    other(batch([4, 2]))
    other(batch([1, 2]))
    assert torch.equal(one(batch([0, 1, 2, 3, 4])), other(batch([0, 1, 2, 3, 4])))
    assert torch.equal(one(batch([3, 3])), other(batch([0, 3]))[[1, 1]])


def test_the_same_seed_gives_the_same_artifact_also_after_an_interruption(
    sd: AbstractBackbone, photos: Path, tmp_path: Path
) -> None:
    recipe = quick("dreambooth-lora", steps=8)
    straight = learn(photos, noun="dog", output=tmp_path / "a", recipe=recipe, base=sd, seed=5)

    class Stopper:
        def event(self, name: str, message: str = "", **fields: object) -> None:
            pass

        def progress(self, task: str, step: int, total: int, **fields: object) -> None:
            if task.startswith("learn") and step == 3:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="same command goes on"):
        learn(photos, noun="dog", output=tmp_path / "b", recipe=recipe, base=sd, seed=5, reporter=Stopper())
    assert (tmp_path / "b.training").is_dir()
    resumed = learn(photos, noun="dog", output=tmp_path / "b", recipe=recipe, base=sd, seed=5)
    assert not (tmp_path / "b.training").exists()
    for name, tensors in straight.data.tensors.items():
        for key, value in tensors.items():
            assert torch.equal(value, resumed.data.tensors[name][key]), key
    assert resumed.data.training["losses"] == straight.data.training["losses"]


def test_previews_show_the_subject_and_change_nothing(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    recipe = quick("dreambooth-lora", steps=4)
    plain = learn(photos, noun="dog", output=tmp_path / "a", recipe=recipe, base=sd, seed=5)
    shown = learn(photos, noun="dog", output=tmp_path / "b", recipe=recipe, base=sd, seed=5, previews=2)
    phase = recipe.phases[0].name
    sheets = sorted((tmp_path / "b.previews").iterdir())
    assert [path.name for path in sheets] == [f"{phase}-000002.png", f"{phase}-000004.png"]
    with Image.open(sheets[0]) as first, Image.open(sheets[1]) as second:
        assert first.size == second.size == (64, 64)
        assert first.tobytes() != second.tobytes()
    for name, tensors in plain.data.tensors.items():
        assert all(torch.equal(value, shown.data.tensors[name][key]) for key, value in tensors.items())
    with pytest.raises(UsageError, match="--previews must be 0 or a number of steps, got -1"):
        learn(photos, noun="dog", output=tmp_path / "c", recipe=recipe, base=sd, previews=-1)


def test_requests_are_checked_before_anything_is_loaded(photos: Path, tmp_path: Path) -> None:
    request = {"noun": "dog", "output": tmp_path / "rex", "base": "no such model/at all/anywhere"}
    with pytest.raises(UsageError, match="recipe 'nonsense' is unknown; expected one of dreambooth-lora"):
        learn(photos, **request, recipe="nonsense")
    with pytest.raises(UsageError, match="--noun is empty"):
        learn(photos, **{**request, "noun": " "})
    (tmp_path / "taken").mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        learn(photos, **{**request, "output": tmp_path / "taken"})
    with pytest.raises(UsageError, match="--steps must be at least 1"):
        plan(photos, noun="dog", steps=-1)
    contradiction = dataclasses.replace(quick("dreambooth"), class_images=0)
    with pytest.raises(ConfigError, match="makes no class images"):
        resolve_recipe(contradiction, "dog", "toybox")


def test_an_artifact_of_another_family_is_refused(
    sd: AbstractBackbone, sdxl: AbstractBackbone, photos: Path, tmp_path: Path
) -> None:
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=quick("textual-inversion", 1), base=sd)
    with pytest.raises(ArtifactError, match="is of family sdxl"):
        artifact.generate(PROMPT, base=sdxl)
    with pytest.raises(UsageError, match="where the subject goes"):
        artifact.generate("a dog", base=sd)


@pytest.mark.parametrize("name", ["dreambooth-lora", "textual-inversion", "custom-diffusion"])
def test_sdxl_learns_too(name: str, sdxl: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=quick(name, 2), base=sdxl)
    assert len(artifact.generate(PROMPT, seeds=[0, 1], base=sdxl)) == 2
