"""Contract of every motion recipe, and the activation sets of passes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.errors import ArtifactError, CheckpointError, ConfigError, InputError, UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import SilentReporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.motion import Motion
from pcs_ext.video.recipes import MOTIONS, LayersConfig, MotionPass, MotionPhase, MotionRecipe
from pcs_ext.video.training import EncodedClips, PassesLoss
from tests.support.encoders import tiny_clip
from tests.support.tiny_video import tiny_motion_adapter, tiny_text_to_video

FRAMES = 4
BESIDE = {"appearance_statistics", "motion_attention"}
"""Losses that compare with something else than the clip."""
PROMPT = "a red dog"


# An inflating recipe runs on an image model alone, every other one on both families of video models.
RUNS = [
    (id, family)
    for id, entry in MOTIONS.items()
    for family in (["inflated"] if entry.build("sd").inflation else ["animatediff", "modelscope"])
]


@pytest.fixture(params=["animatediff", "modelscope"])
def video(
    request: pytest.FixtureRequest, sd: AbstractUnetBackbone, tiny_sd_path: Path, tmp_path: Path
) -> AbstractVideoBackbone:
    if request.param == "animatediff":
        return AnimateDiffBackbone(sd, tiny_motion_adapter())
    if request.param != "modelscope":
        recipe = MOTIONS[request.param].build("sd")
        assert recipe.inflation is not None
        return InflatedBackbone(sd, attention=recipe.inflation)
    return load_video_backbone(tiny_text_to_video(tiny_sd_path, tmp_path / "t2v"), device="cpu", precision="fp32")


def clip(frames: int = 6) -> torch.Tensor:
    """A bright square that moves to the right."""
    picture = torch.full((3, frames, 32, 32), -0.5)
    for index in range(frames):
        picture[:, index, 8:20, 4 * index : 4 * index + 8] = 0.8
    return picture


def short(id: str) -> MotionRecipe:
    recipe = MOTIONS[id].build("sd")
    return MotionRecipe(**{**vars(recipe), "frames": FRAMES, "stride": 1})


def asked(recipe: MotionRecipe) -> tuple[list[torch.Tensor], list[str]]:
    """The clip with a prompt as the recipe wants it."""
    return [clip()], [" ".join((PROMPT, *recipe.words))]


def beside(id: str, tmp_path: Path) -> dict[str, Any]:
    """What a recipe wants beside the clips: the clip backwards as one of something else, an image encoder."""
    recipe = short(id)
    return {
        "prior": ([clip().flip(1)], ["a blue dog"]) if recipe.needs_prior else None,
        "image_encoder": tiny_clip(tmp_path / "clip") if recipe.told else None,
    }


def prediction(video: AbstractVideoBackbone) -> torch.Tensor:
    noisy = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return video.predict(noisy, torch.tensor([400]), video.encode_prompt([PROMPT]))


@pytest.mark.parametrize(
    ("id", "video"), [(id, id if family == "inflated" else family) for id, family in RUNS], indirect=["video"]
)
def test_a_recipe_learns_saves_loads_and_leaves(id: str, video: AbstractVideoBackbone, tmp_path: Path) -> None:
    before = prediction(video)
    motion = learn_motion(
        *asked(short(id)), tmp_path / "motion", backbone=video, recipe=short(id), steps=4, **beside(id, tmp_path)
    )
    assert torch.equal(prediction(video), before)
    assert len(motion.data.training["losses"]) == 4
    assert all(torch.isfinite(torch.tensor(motion.data.training["losses"])))
    with motion.applied(video):
        after = prediction(video)
    assert not torch.equal(after, before)
    with Motion.load(tmp_path / "motion").applied(video):
        assert torch.equal(prediction(video), after)
    with motion.applied(video, scale=0.0):
        torch.testing.assert_close(prediction(video), before, atol=1e-6, rtol=1e-5)
    assert torch.equal(prediction(video), before)
    assert not (tmp_path / "motion.training").exists()


def error_of(video: AbstractVideoBackbone, recipe: MotionRecipe) -> float:
    """The recipe's own motion losses on the clip, over the same noises and timesteps every time."""
    phase = recipe.phases[-1]
    own = [step.losses for step in phase.passes if not step.losses.keys() <= BESIDE][-1]
    bare = MotionPass(trains=("none",), losses={name: own[name] for name in own if name not in BESIDE})
    with torch.no_grad():
        latents = [video.encode_clips(clip()[None])[0]]
        loss = PassesLoss(
            MotionPhase(name="all", passes=(bare,), learning_rates={}, fit=FitConfig(steps=1)),
            video,
            {},
            EncodedClips(latents, [PROMPT], video.encode_prompt([PROMPT])),
            frames=FRAMES,
        )
        return sum(float(loss(0, 0, torch.Generator().manual_seed(seed)).total) for seed in range(40))


@pytest.mark.parametrize("id", list(MOTIONS))
def test_the_motion_loss_of_the_clip_falls(id: str, sd: AbstractUnetBackbone, tmp_path: Path) -> None:
    recipe = short(id)
    phases = []
    for phase in recipe.phases:
        rates = dict.fromkeys(phase.learning_rates, 1e-2)
        phases.append(MotionPhase(**{**vars(phase), "learning_rates": rates}))
    recipe = MotionRecipe(**{**vars(recipe), "phases": tuple(phases)})
    video = (
        AnimateDiffBackbone(sd, tiny_motion_adapter())
        if recipe.inflation is None
        else InflatedBackbone(sd, attention=recipe.inflation)
    )
    before = error_of(video, recipe)
    motion = learn_motion(
        *asked(recipe), tmp_path / "motion", backbone=video, recipe=recipe, steps=24, **beside(id, tmp_path)
    )
    with motion.applied(video):
        assert error_of(video, recipe) < 0.97 * before


def passes_recipe(*passes: MotionPass) -> MotionRecipe:
    return MotionRecipe(
        id="test",
        adapters={name: LayersConfig(layers=name, rank=2) for name in ("spatial", "temporal")},  # pyright: ignore[reportArgumentType]
        phases=(
            MotionPhase(
                name="only",
                passes=passes,
                learning_rates={"spatial": 1e-2, "temporal": 1e-2},
                fit=FitConfig(steps=3),
            ),
        ),
        plays=("temporal",),
        frames=FRAMES,
    )


def moved(motion: Motion, name: str) -> bool:
    """LoRA's second halves start at zero: they move exactly when they got a gradient."""
    return any(bool(tensor.any()) for key, tensor in motion.data.tensors_of(name).items() if "lora_B" in key)


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ([MotionPass(trains=("spatial",), frames="one", losses={"denoising": 1.0})], (True, False)),
        ([MotionPass(trains=("temporal",), beside=("spatial",), losses={"debiased": 1.0})], (False, True)),
        # The one-frame pass gives the temporal adapter exactly nothing.
        ([MotionPass(trains=("spatial", "temporal"), frames="one", losses={"denoising": 1.0})], (True, False)),
        ([MotionPass(trains=("spatial", "temporal"), losses={"denoising": 1.0})], (True, True)),
        ([MotionPass(trains=("spatial",), losses={"denoising": 1.0}, skipped=1.0)], (False, False)),
    ],
)
def test_a_pass_moves_what_it_trains_and_nothing_else(
    passes: list[MotionPass], expected: tuple[bool, bool], video: AbstractVideoBackbone, tmp_path: Path
) -> None:
    recipe = passes_recipe(*passes)
    motion = learn_motion([clip()], [PROMPT], tmp_path / "motion", backbone=video, recipe=recipe)
    assert (moved(motion, "spatial"), moved(motion, "temporal")) == expected


def test_two_passes_move_both_and_the_sum_is_of_both(video: AbstractVideoBackbone, tmp_path: Path) -> None:
    one = MotionPass(trains=("spatial",), frames="one", losses={"denoising": 1.0})
    two = MotionPass(trains=("temporal",), beside=("spatial",), losses={"denoising": 1.0, "debiased": 1.0})
    motion = learn_motion([clip()], [PROMPT], tmp_path / "m", backbone=video, recipe=passes_recipe(one, two))
    assert moved(motion, "spatial")
    assert moved(motion, "temporal")


def test_an_interrupted_run_ends_as_an_uninterrupted_one(sd: AbstractUnetBackbone, tmp_path: Path) -> None:
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    recipe = short("motion-director")
    whole = learn_motion([clip()], [PROMPT], tmp_path / "whole", backbone=video, recipe=recipe, steps=6)

    class Stop(SilentReporter):
        def progress(self, task: str, step: int, total: int, **fields: float) -> None:
            if step == 3:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        learn_motion([clip()], [PROMPT], tmp_path / "cut", backbone=video, recipe=recipe, steps=6, reporter=Stop())
    other = tiny_motion_adapter()
    with torch.no_grad():
        next(iter(other.parameters())).add_(1e-3)
    moved = AnimateDiffBackbone(sd, other)
    with pytest.raises(CheckpointError, match="was made by other settings"):
        learn_motion([clip()], [PROMPT], tmp_path / "cut", backbone=moved, recipe=recipe, steps=6)
    moved.remove()
    brighter = clip()
    brighter[0, 0, 0, 0] += 1 / 255
    brighter[0, 0, 0, 1] -= 1 / 255
    with pytest.raises(CheckpointError, match="was made by other settings"):
        learn_motion([brighter], [PROMPT], tmp_path / "cut", backbone=video, recipe=recipe, steps=6)
    resumed = learn_motion([clip()], [PROMPT], tmp_path / "cut", backbone=video, recipe=recipe, steps=6)
    for name in whole.data.adapters:
        for key, tensor in whole.data.tensors_of(name).items():
            assert torch.equal(resumed.data.tensors_of(name)[key], tensor), key
    assert resumed.data.training["losses"] == whole.data.training["losses"]


@pytest.mark.parametrize(("id", "video"), [("motion-director", "animatediff"), ("lamp", "lamp")], indirect=["video"])
def test_activations_computed_again_teach_the_same(
    id: str, video: AnimateDiffBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, passes of one frame and of all, and layers over frames; nearly all of these run once more."""
    calls, moved = [0], type(video)._moved

    def counted(backbone: AnimateDiffBackbone, *arguments: Any) -> torch.Tensor:
        calls[0] += torch.is_grad_enabled()
        return moved(backbone, *arguments)

    monkeypatch.setattr(AnimateDiffBackbone, "_moved", counted)
    made, counts = [], []
    for again in (False, True):
        calls[0] = 0
        options: Any = {"backbone": video, "recipe": short(id), "steps": 3, "checkpoint_activations": again}
        made.append(learn_motion(*asked(short(id)), tmp_path / f"{again}", **options).data)
        counts.append(calls[0])
    plain, same = made
    assert counts[1] > 1.5 * counts[0] > 0
    assert same.training["losses"] == pytest.approx(plain.training["losses"], rel=1e-5)
    for name in short(id).plays:
        for key, tensor in plain.tensors_of(name).items():
            torch.testing.assert_close(same.tensors_of(name)[key], tensor, atol=1e-5, rtol=1e-3)
    assert not video.denoiser.is_gradient_checkpointing


def test_what_cannot_be_computed_again_is_named(sd: AbstractUnetBackbone, tiny_sd_path: Path, tmp_path: Path) -> None:
    options: Any = {"output": tmp_path / "m", "checkpoint_activations": True}
    with pytest.raises(UsageError, match="save looks at attention maps while it learns"):
        learn_motion([clip()], ["a {protagonist} {motion}"], recipe="save", backbone=InflatedBackbone(sd), **options)
    whole = load_video_backbone(tiny_text_to_video(tiny_sd_path, tmp_path / "t2v"), device="cpu", precision="fp32")
    with pytest.raises(UsageError, match="UNet3DConditionModel cannot recompute activations"):
        learn_motion([clip()], [PROMPT], recipe=short("temporal-lora"), backbone=whole, **options)
    assert not any(tmp_path.glob("m*"))


def test_what_does_not_fit_is_named(sd: AbstractUnetBackbone, tmp_path: Path, tiny_sd_path: Path) -> None:
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    options: Any = {"backbone": video, "output": tmp_path / "m"}
    with pytest.raises(UsageError, match="motion recipe 'vcm' is unknown; expected one of motion-director"):
        learn_motion([clip()], [PROMPT], recipe="vcm", **options)
    with pytest.raises(UsageError, match="one prompt per clip and at least one, got 1 and 2"):
        learn_motion([clip()], [PROMPT] * 2, **options)
    with pytest.raises(InputError, match="clip 0 has 6 frames; motion-director takes 16 frames"):
        learn_motion([clip()], [PROMPT], **options)
    with pytest.raises(InputError, match="multiples of 4"):
        learn_motion([clip()[..., :30]], [PROMPT], recipe=short("vmc"), **options)
    unknown = passes_recipe(MotionPass(trains=("camera",), losses={"denoising": 1.0}))
    with pytest.raises(ConfigError, match=r"names \['camera'\]"):
        learn_motion([clip()], [PROMPT], recipe=unknown, **options)
    motion = learn_motion([clip()], [PROMPT], recipe=short("temporal-lora"), steps=1, **options)
    with pytest.raises(ArtifactError, match="exists already"):
        learn_motion([clip()], [PROMPT], recipe=short("temporal-lora"), steps=1, **options)
    with pytest.raises(ArtifactError, match="kind 'motion', expected 'image-subject'; it is a learned motion"):
        Artifact.load(tmp_path / "m")
    other = load_video_backbone(tiny_text_to_video(tiny_sd_path, tmp_path / "t2v"), device="cpu", precision="fp32")
    with pytest.raises(ArtifactError, match="was learned on AnimateDiffBackbone"), motion.applied(other):
        pass
