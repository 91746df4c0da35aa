"""The contract of every recipe: it builds, trains what it says and nothing else, saves exactly, and leaves no trace."""

import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops, ImageOps, ImageStat

from pcs_ext.config_io import from_jsonable, to_jsonable
from pcs_ext.errors import ArtifactError, CheckpointError, ConfigError, Interrupted, PhotoError, UsageError
from pcs_ext.image.adapters import build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.cameras import ring
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.data import Augmentation, Photo, SubjectDataset, find_photos
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.learn import learn, plan, resolve_recipe
from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.subject import Artifact
from pcs_ext.image.terms import SteeringConfig
from pcs_ext.image.training import LatentCache, PhaseLoss, only_trainable, parameter_groups
from pcs_ext.image.transforms_json import write_transforms
from pcs_ext.image.types import Batch
from pcs_ext.systems import catalogue
from tests.support.encoders import tiny_clip

PROMPT = "a photo of {subject} on the beach"


def weights(backbone: AbstractBackbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in backbone.components().items()
        for key, value in module.state_dict().items()
    }


@functools.cache
def small_clip() -> str:
    """A CLIP whose text tower is as wide as the tiny base's."""
    return str(tiny_clip(Path(tempfile.mkdtemp(prefix="tiny-clip-")), width=16))


def with_encoder(recipe: Recipe) -> Recipe:
    """The recipe with that CLIP where one reads prompts."""
    phases = tuple(
        dataclasses.replace(phase, objective=dataclasses.replace(phase.objective, prototype_encoder=small_clip()))
        if phase.objective.prototype_weight
        else phase
        for phase in recipe.phases
    )
    return dataclasses.replace(recipe, phases=phases)


def quick(recipe: str, steps: int = 6) -> Recipe:
    """The toybox preset, at the size of the tiny base."""
    full = with_encoder(RECIPES[recipe].build("dog", "toybox"))
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    return dataclasses.replace(full, class_images=min(full.class_images, 3), sampling=sampling).with_steps(steps)


def with_things(photos: Path, recipe: Recipe) -> Path:
    """What a recipe wants beside photos: masks and captions of every thing, one caption with its word, or cameras."""
    if recipe.needs_cameras:
        shown = sorted(path for path in photos.glob("*.png") if "_" not in path.stem)
        for path in photos.glob("*.png"):  # of the shape of one lens
            with Image.open(path) as picture:
                picture.resize((48, 40)).save(path)
        cameras = ring(len(shown))
        write_transforms(photos / "transforms.json", cameras, [path.name for path in shown], 40, 48)
    if recipe.needs_caption:
        (photos / "0.txt").write_text(f"a photo of a dog in {recipe.needs_caption} style", "utf-8")
    for mask in photos.glob("*_mask.png") if recipe.concept_crops else ():
        shutil.copy(mask, mask.with_name(mask.name.replace("_mask", "_mask1")))
        mask.with_name(mask.name.replace("_mask.png", ".txt")).write_text("{subject}\na thing {subject}", "utf-8")
    return photos


def one_per_kind() -> list[str]:
    """A recipe for every combination of adapters, the first of each."""
    kinds: dict[tuple[str, ...], str] = {}
    for name in RECIPES:
        adapters = RECIPES[name].build("dog", "toybox").adapters.values()
        kinds.setdefault(tuple(sorted(getattr(config, "method", config.kind) for config in adapters)), name)
    return list(kinds.values())


@pytest.fixture(scope="module")
def shared(tiny_sd_path: Path) -> AbstractBackbone:
    """One tiny base for all contracts: each must leave it as it was, or the next one fails."""
    return load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")


@pytest.fixture
def photos(photos: Path) -> Path:
    """With a mask and an earlier picture beside each."""
    for photo in sorted(photos.glob("*.png")):
        with Image.open(photo) as image:
            mask = Image.new("L", image.size)
            ImageOps.invert(image).save(photo.with_name(f"{photo.stem}_before.png"))
        mask.paste(255, (8, 8, 32, 32))
        mask.save(photo.with_name(f"{photo.stem}_mask.png"))
    return photos


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("preset", ["toybox", "sd", "sdxl"])
def test_recipes_are_values(name: str, preset: str) -> None:
    recipe = RECIPES[name].build("toy robot", preset)  # type: ignore[arg-type]
    recipe.validate()
    assert recipe.id == name
    assert from_jsonable(Recipe, to_jsonable(recipe)) == recipe
    assert RECIPES[name].system in {system.id for system in catalogue()}


@pytest.mark.parametrize("name", RECIPES)
def test_contract(name: str, shared: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    sd = shared
    before = weights(sd)
    with torch.no_grad():
        plain = sd.predict(torch.ones(1, 4, 8, 8), torch.tensor([300]), sd.encode_prompt(["a photo of a dog"]))
    recipe = quick(name)
    photos = with_things(photos, recipe)
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=recipe, base=sd, seed=3)
    after = weights(sd)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before), "the base was changed"
    assert len(artifact.data.training["losses"]) == artifact.data.training["steps"] >= 6
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


@pytest.mark.parametrize("name", one_per_kind())
def test_half_precision_learns_and_belongs_to_the_same_base(
    name: str, shared: AbstractBackbone, photos: Path, tmp_path: Path
) -> None:
    sd = shared
    half = load_backbone(sd.name, device="cpu", precision="bf16")
    assert half.fingerprint == sd.fingerprint
    recipe = quick(name, steps=3)
    photos = with_things(photos, recipe)
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=recipe, base=half, seed=3)
    assert all(loss == loss and loss < 100 for loss in artifact.data.training["losses"])
    moved = [tensor for tensors in artifact.data.tensors.values() for tensor in tensors.values()]
    assert any(tensor.dtype in (torch.float32, torch.int32) and tensor.any() for tensor in moved)
    pictures = [artifact.generate(PROMPT, seeds=[1], base=base)[0].image for base in (half, sd)]
    difference = ImageStat.Stat(ImageChops.difference(*pictures)).mean
    assert max(difference) < 12, "levels between the same picture in bf16 and in fp32"


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_on_one_photo(name: str, shared: AbstractBackbone, photos: Path) -> None:
    """With the noise of one step repeated, the recipe's own parameters can lower the loss."""
    recipe, sd = quick(name), shared
    concept = dataclasses.replace(recipe.concept, token=recipe.concept.token or "sks")
    shown = find_photos(with_things(photos, recipe) if recipe.needs_caption else photos)[:1]
    data = SubjectDataset(shown, concept, resolution=32, augmentation=recipe.augmentation)
    prior = ClassImages(torch.zeros(2, 3, 32, 32), "a photo of a dog") if recipe.class_images else None
    adapters = {key: build_adapter(key, value) for key, value in recipe.adapters.items()}
    phase = recipe.phases[0]
    with injected(sd, *adapters.values()):
        groups = [dataclasses.replace(g, learning_rate=5e-3) for g in parameter_groups(phase, adapters)]
        declared = {id(parameter) for group in groups for parameter in group.parameters}
        with only_trainable(groups, adapters.values()):
            loss = PhaseLoss(phase, sd, data, prior, groups, LatentCache(sd), adapters=adapters)

            def fixed(step: int, micro_step: int, generator: torch.Generator):
                return loss(0, 0, torch.Generator().manual_seed(0))

            # These two rise first.
            states = list(fit(fixed, groups, FitConfig(steps=15 if name in ("personamagic", "cones-2") else 8)))
            touched = {
                id(p) for m in sd.components().values() for p in m.parameters() if p.grad is not None and p.grad.any()
            }
    assert states[-1].losses["total"] < states[0].losses["total"]
    assert touched <= declared, "a parameter outside the recipe's groups got a gradient"


def test_latents_do_not_depend_on_what_is_encoded_beside_them(sd: AbstractBackbone) -> None:

    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keys = tuple("abcde")

    def batch(rows: list[int]) -> Batch:
        return Batch(images=images[rows], captions=("",) * len(rows), keys=tuple(keys[row] for row in rows))

    one, other = LatentCache(sd), LatentCache(sd)
    other(batch([4, 2]))
    other(batch([1, 2]))
    assert torch.equal(one(batch([0, 1, 2, 3, 4])), other(batch([0, 1, 2, 3, 4])))
    assert torch.equal(one(batch([3, 3])), other(batch([0, 3]))[[1, 1]])


@pytest.mark.parametrize("name", ["dreambooth-lora", "core"])
def test_the_same_seed_gives_the_same_artifact_also_after_an_interruption(
    name: str, sd: AbstractBackbone, photos: Path, tmp_path: Path
) -> None:
    recipe = quick(name, steps=8)
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
    # What it goes on with must be what it began with.
    caption = photos / "0.txt"
    for others, text in ((sorted(photos.glob("?.png"))[1:], ""), (photos, "{subject} in the snow")):
        caption.write_text(text, "utf-8")
        with pytest.raises(CheckpointError, match="made by other settings"):
            learn(others, noun="dog", output=tmp_path / "b", recipe=recipe, base=sd, seed=5)
    caption.unlink()
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


@pytest.mark.parametrize("name", ["dreambooth-lora", "textual-inversion", "custom-diffusion", "neti"])
def test_sdxl_learns_too(name: str, sdxl: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=quick(name, 2), base=sdxl)
    assert len(artifact.generate(PROMPT, seeds=[0, 1], base=sdxl)) == 2


def test_break_a_scene_learns_two_subjects_of_one_photo(shared: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    shutil.copy(photos / "0.png", scene / "0.png")
    build = RECIPES["break-a-scene"].build
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    recipe = dataclasses.replace(build("toy dog, cat", "toybox"), class_images=2, sampling=sampling).with_steps(4)
    assert recipe.concept.prompt("{subject} in snow") == "a <toy-dog> and a <cat> in snow"
    assert recipe.concept.prompt("a photo of <cat>") == "a photo of <cat>"
    with pytest.raises(UsageError, match="one different noun per subject"):
        build("dog, dog", "toybox")
    request = {"noun": "toy dog, cat", "recipe": recipe, "base": shared, "output": tmp_path / "two"}
    with pytest.raises(PhotoError, match=r"needs a mask beside every photo; none was found for 0\.png"):
        learn(scene, **request)  # type: ignore[arg-type]
    for number, box in enumerate(((0, 0, 20, 40), (24, 0, 48, 40)), start=1):
        with Image.open(scene / "0.png") as image:
            mask = Image.new("L", image.size)
        mask.paste(255, box)
        mask.save(scene / f"0_mask{number}.png")
    artifact = learn(scene, **request)  # type: ignore[arg-type]
    assert len(artifact.generate(["a photo of <cat>", PROMPT], base=shared)) == 2
    (scene / "0_mask2.png").unlink()
    with pytest.raises(PhotoError, match="has 1 numbered masks, but there are 2 subjects"):
        learn(scene, **request, overwrite=True)  # type: ignore[arg-type]


def test_nouns_of_two_parts(photos: Path) -> None:
    lego = RECIPES["lego"].build("melted/liquid, toy robot", "sd")
    (term,) = lego.phases[0].objective.terms
    assert isinstance(term, SteeringConfig)
    assert (term.words, term.away) == (("melted", "liquid"), ("toy robot",))
    assert lego.concept.prompt("a {subject} cat") == "a <concept> cat"
    assert lego.concept.prompt("a photo of <thing>") == "a photo of <thing>"
    pair = RECIPES["pair-customization"].build("dog, digital art style", "sdxl")
    assert pair.concept.prompt(pair.concept.templates[0]) == "A photo of a sbu dog in digital art style"
    for name in ("lego", "pair-customization"):
        with pytest.raises(UsageError, match="expected --noun like"):
            plan(photos, noun=", robot", recipe=name)


def test_union_sampling_names_what_its_masks_show(photos: Path) -> None:

    parts = torch.zeros(2, 32, 32)
    parts[0, :16], parts[1, 16:] = 1, 1
    photo = Photo(path=photos / "0.png", image=torch.zeros(3, 32, 32), mask=torch.ones(1, 32, 32), parts=parts)
    concept = RECIPES["break-a-scene"].build("dog, cat", "toybox").concept
    data = SubjectDataset([photo], concept, resolution=32, augmentation=Augmentation())
    batch = data.batch(60, torch.Generator().manual_seed(0))
    assert set(batch.captions) == {"a photo of a <dog>", "a photo of a <cat>", "a photo of a <dog> and a <cat>"}
    assert batch.masks is not None
    assert batch.part_masks is not None
    for caption, mask in zip(batch.captions, batch.masks, strict=True):
        assert bool(mask[0, 4, 4] > 0.5) == ("<dog>" in caption)
        assert bool(mask[0, 28, 4] > 0.5) == ("<cat>" in caption)


def test_the_word_of_a_request_reaches_the_adapter_that_learns_it(photos: Path) -> None:
    resolved = plan(photos, noun="dog", recipe="textual-inversion", token="<rex>")["recipe"]
    assert resolved["concept"]["token"] == resolved["adapters"]["word"]["placeholder"] == "<rex>"
    assert plan(photos, noun="dog", token="bqx")["recipe"]["concept"]["token"] == "bqx"


def test_training_through_guidance_is_the_guided_prediction(shared: AbstractBackbone, photos: Path) -> None:

    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(images=torch.zeros(2, 3, 32, 32), captions=("a dog", "a cat"))
    positive, negative = shared.encode_prompt(batch.captions), shared.encode_prompt(["snow", "grass"])

    def loss(scale: float, this=negative) -> torch.Tensor:
        objective = DenoisingObjective(ObjectiveConfig(train_guidance=scale))
        return objective(shared, batch, latents, positive, torch.Generator().manual_seed(1), this).total

    with torch.no_grad():
        torch.testing.assert_close(loss(3.0, positive), loss(1.0), atol=1e-5, rtol=1e-5)
        seen: list[torch.Tensor] = []
        predict = shared.predict
        vars(shared)["predict"] = lambda *inputs: seen.append(predict(*inputs)) or seen[-1]
        guided = loss(3.0)
        del vars(shared)["predict"]
        (both,) = seen
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(latents.shape, generator=generator)
        prediction = both[:2] + 3.0 * (both[2:] - both[:2])
        torch.testing.assert_close(guided, (prediction - noise).square().mean())
    recipe = quick("dreamartist")
    without = dataclasses.replace(recipe, concept=dataclasses.replace(recipe.concept, negative=""))
    with pytest.raises(ConfigError, match="needs a negative word"):
        without.validate()
    assert recipe.concept.negative_prompt("blurry") == "<not-subject>, blurry"
