"""Scenes in motion: at rest exactly still, a known motion found again, jobs on a tiny video model."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from pcs_ext.config_io import write_json
from pcs_ext.errors import CheckpointError, ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.animate_job import AnimateOptions, animate_3d
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.clip_guidance import ClipGuidance, shared
from pcs_ext.threed.distillation import DistillationConfig, distilled_score
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.fields import Blob, VoxelField
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.known_view import KnownPhoto, KnownView
from pcs_ext.threed.motion_stage import (
    FirstMoment,
    FrameScore,
    HeldFirst,
    MotionLoss,
    MotionStage,
    clip_cameras,
    clip_of,
)
from pcs_ext.threed.moving_fields import AbstractMovingField, EverField, MotionConfig, MovingConfig
from pcs_ext.threed.recipes import AnimateRecipe
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.load import load_video_backbone
from tests.support.gaussian import GaussianBackbone
from tests.support.killed import killed
from tests.support.small_jobs import Learned, fit_of
from tests.support.tiny_video import tiny_motion_adapter

STILL = FieldConfig(resolution=16, blob=Blob(height=40.0, radius=0.4))
KINDS = ("grids", "displaced")


def moving(kind: Any, **changes: Any) -> AbstractMovingField:
    """A ball, red above and blue below, at rest."""
    field = MovingConfig(still=STILL, motion=MotionConfig(kind=kind, moments=4, resolution=6, **changes)).build()
    assert isinstance(field.still, VoxelField)
    with torch.no_grad():
        field.still.albedo_grid[0, 0, 8:] = 6.0
        field.still.albedo_grid[0, 2, :8] = 6.0
    return field


def points() -> torch.Tensor:
    return torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 3 - torch.tensor([1.5, 1.5, 0.75])


@pytest.mark.parametrize("kind", KINDS)
def test_at_rest_it_is_the_still_field_at_every_moment(kind: str) -> None:
    field = moving(kind)
    expected = field.still.query(points())
    for time in (0.0, 0.4, 1.0):
        found = field.at(time).query(points())
        torch.testing.assert_close(found.density, expected.density, rtol=0, atol=0)
        torch.testing.assert_close(found.albedo, expected.albedo, rtol=0, atol=0)
    assert field.unrest() == 0
    assert not any(parameter.requires_grad for parameter in field.still.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_blended_and_the_first_stays_at_rest(kind: str) -> None:
    field = moving(kind)
    (trained,) = (group.parameters[0] for group in field.groups())
    with torch.no_grad():
        trained[1].fill_(0.1)
        trained[2].fill_(0.3)
    expected = field.still.query(points())
    for time in (0.0, 1 / 3):
        torch.testing.assert_close(field.at(time).query(points()).density, expected.density, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(field.at(0.8).query(points()).density, expected.density, rtol=1e-2)
    if kind == "displaced":
        # Between the moments 2/3 and 1, the raw displacement is the mean: 0.2 everywhere.
        shift = 1.5 * 0.5 * torch.tanh(torch.tensor(0.2))
        inside = points()[(points() + shift - torch.tensor([0, 0, 0.75])).abs().amax(1) < 1.5]
        found = field.at(5 / 6).query(inside).density
        torch.testing.assert_close(found, field.still.query(inside + shift).density, rtol=1e-3, atol=1e-3)
    densest = EverField(field, 4).query(points()).density
    assert (densest >= field.at(1.0).query(points()).density).all()
    assert (densest >= expected.density).all()


def test_what_passes_between_two_moments_is_not_skipped() -> None:
    still = FieldConfig(resolution=32, blob=Blob(height=60.0, radius=0.12))
    motion = MotionConfig(kind="displaced", moments=2, resolution=4)
    field = MovingConfig(still=still, motion=motion).build()
    (trained,) = field.groups()[0].parameters
    with torch.no_grad():
        trained[:, 0].fill_(2.0)  # to the side by almost half the cube's half side, and more than the ball is wide
    stage = MotionStage(motion=motion, fit=fit_of(2), frames=5, side=24, samples=48)
    loss = MotionLoss(field, stage, ClipGuidance(GaussianBackbone(), "a", DistillationConfig()))
    camera = ring(1, target=field.bounds.center)
    with torch.no_grad():
        whole, skipped = (clip_of(field, camera, stage, cells, None) for cells in (None, loss.occupancy))
    assert loss.occupancy is not None
    assert loss.occupancy.cells.float().mean() < 0.1
    assert whole.amin((1, 2, 3)).max() < 0.6  # seen in all frames
    torch.testing.assert_close(skipped, whole, atol=0.01, rtol=0)


def test_smoothness_by_hand() -> None:
    field = moving("displaced")
    (trained,) = field.groups()[0].parameters
    with torch.no_grad():
        trained[1].fill_(1.0)  # moments 0, 1, 3 at rest: two jumps of 1 among three steps
    torch.testing.assert_close(field.unrest(), torch.tensor(2 / 3))


def test_a_known_motion_is_found_again_and_the_still_field_is_not_touched() -> None:
    field, target = moving("displaced"), moving("displaced")
    with torch.no_grad():  # up by 0.3 in the end: what is seen at z was at z - 0.3
        wanted = -torch.atanh(torch.tensor(0.3 / (1.5 * 0.5)))
        for index in range(3):
            target.displacements[index, 2] = wanted * (index + 1) / 3  # type: ignore[index]
    before = {key: value.clone() for key, value in field.still.state_dict().items()}
    stage = MotionStage(fit=fit_of(1), frames=4, side=16, samples=24)
    cameras, generator = ring(4), torch.Generator().manual_seed(0)
    with torch.no_grad():
        clips = [clip_of(target, cameras[[index]], stage, None, None) for index in range(4)]
    optimizer = torch.optim.Adam([p for group in field.groups() for p in group.parameters], lr=0.05)
    for _ in range(40):
        index = int(torch.randint(4, (), generator=generator))
        loss = functional.mse_loss(clip_of(field, cameras[[index]], stage, None, generator), clips[index])
        optimizer.zero_grad()
        (loss + 1e-3 * field.unrest()).backward()
        optimizer.step()
    # In the middle of the ball's surface, where pictures say something: at its top.
    top = torch.tensor([[0.0, 0.0, 0.75 + 0.6]])
    lifted = field.at(1.0).query(top + torch.tensor([0.0, 0.0, 0.25])).density
    assert lifted > 0.5 * field.still.query(top).density
    assert field.still.query(top + torch.tensor([0.0, 0.0, 0.25])).density < 0.2 * lifted
    assert all(torch.equal(value, before[key]) for key, value in field.still.state_dict().items())


@pytest.fixture
def video(sd: AbstractBackbone) -> AnimateDiffBackbone:
    return AnimateDiffBackbone(sd, tiny_motion_adapter())  # type: ignore[arg-type]


def test_the_clips_score_is_that_of_all_frames_together(video: AnimateDiffBackbone) -> None:
    config = DistillationConfig(guidance_scale=3.0)
    guidance = ClipGuidance(video, "a photo of the dog", config, noise_share=0.5)
    frames = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    terms = guidance.terms(frames, progress=0.0, generator=torch.Generator().manual_seed(1))
    terms.total.backward()
    assert frames.grad is not None
    generator = torch.Generator().manual_seed(1)
    timestep = torch.randint(20, 981, (1,), generator=generator)
    again = frames.detach().clone().requires_grad_()
    clip = video.encode_clips(again.transpose(0, 1)[None])
    noise = shared(clip.shape, 0.5, generator).to(clip)
    negative, positive = (video.encode_prompt([text]) for text in ("", "a photo of the dog"))
    score = distilled_score(video, clip.detach(), timestep, noise, negative, positive, config)
    clip.backward(score)
    torch.testing.assert_close(frames.grad, again.grad, rtol=1e-4, atol=1e-6)


def test_common_noise_keeps_its_variance() -> None:
    noise = shared((1, 4, 8, 32, 32), 0.7, torch.Generator().manual_seed(0))
    assert float(noise.std()) == pytest.approx(1.0, abs=0.03)
    together = float((noise[:, :, 0] * noise[:, :, 5]).mean())
    assert together == pytest.approx(0.49 / 0.58, abs=0.05)


class Red(AbstractGuidance):
    """Wants pictures redder; remembers how many it saw, and from where."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def terms(self, images: torch.Tensor, cameras: Any, *, progress: float, generator: Any) -> LossTerms:
        self.seen.append((len(images), float(cameras.azimuth[0])))
        return LossTerms({"red": -images[:, 0].mean()})


class RedClips(Red):
    """The same of clips, which have no cameras."""

    def terms(self, images: torch.Tensor, cameras: Any = None, *, progress: float, generator: Any) -> LossTerms:
        return LossTerms({"clip": -images[:, 0].mean()})


PHOTO = KnownPhoto(torch.ones(3, 8, 8), torch.zeros(8, 8))


def free(**changes: Any) -> MotionStage:
    """A stage whose first moment may change."""
    known = KnownView(first=0, every=4, side=8, shake=0.0)
    settings: dict[str, Any] = {
        "motion": MotionConfig(kind="grids", moments=3, free_start=True),
        "fit": fit_of(8),
        "frames": 3,
        "side": 8,
        "samples": 8,
        "first": FirstMoment(known=known, share=1.0),
    }
    return MotionStage(**{**settings, **changes})


def free_field() -> AbstractMovingField:
    return MovingConfig(still=STILL, motion=free().motion).build()


def test_a_free_first_moment_changes_like_all_others_and_smoothness_is_between_neighbours() -> None:
    field = free_field()
    still = field.still.query(points()).density
    torch.testing.assert_close(field.at(0.5).query(points()).density, still, rtol=0, atol=0)
    (changes,) = field.groups()[0].parameters
    assert len(changes) == 3
    with torch.no_grad():
        changes[0].fill_(0.3)
    assert not torch.allclose(field.at(0.0).query(points()).density, still)
    torch.testing.assert_close(field.unrest(), torch.tensor(0.3**2 / 2))
    halfway = field.at(0.25).query(points()).density
    assert ((halfway >= still - 1e-4) & (halfway <= field.at(0.0).query(points()).density + 1e-4)).all()


def test_the_photo_holds_the_first_moment_alone_and_the_view_model_sees_first_frames() -> None:
    field, stage, view = free_field(), free(), Red()
    loss = MotionLoss(field, stage, RedClips(), held=HeldFirst(PHOTO, view))  # type: ignore[arg-type]
    (changes,) = field.groups()[0].parameters
    terms = loss(4, 0, torch.Generator().manual_seed(0))
    assert set(terms.terms) == {"unrest", "known/color", "known/cover"}
    terms.total.backward()
    assert changes.grad is not None
    assert changes.grad[0].abs().max() > 0
    assert not changes.grad[1:].any()
    assert view.seen == []
    assert set(loss(5, 0, torch.Generator().manual_seed(0)).terms) == {"clip", "unrest", "first/red"}
    assert view.seen[0][0] == 1
    assert stage.first is not None
    never = dataclasses.replace(stage, first=dataclasses.replace(stage.first, share=0.0))
    quiet = MotionLoss(field, never, RedClips(), held=HeldFirst(PHOTO, view))  # type: ignore[arg-type]
    assert set(quiet(5, 0, torch.Generator().manual_seed(0)).terms) == {"clip", "unrest"}
    assert stage.anchored().first is None
    with pytest.raises(ConfigError, match="needs what holds it"):
        dataclasses.replace(stage, first=None)
    with pytest.raises(ConfigError, match="only grids have a first moment"):
        MotionConfig(kind="displaced", free_start=True)


@pytest.mark.parametrize("kind", ["coarse", "render"])
def test_a_controlnet_is_shown_the_frames_that_are_judged_as_they_were_or_are(kind: Any) -> None:
    score = FrameScore(since=0.0, frames=2, tile=kind)
    stage = free(pictures=score, occupancy_every=0)
    field, shown, pictures = free_field(), [], Red()

    @contextlib.contextmanager
    def tile(frames: torch.Tensor) -> Iterator[None]:
        shown.append(frames)
        yield

    held = HeldFirst(PHOTO)
    loss = MotionLoss(field, stage, RedClips(), pictures, held, tile)  # type: ignore[arg-type]
    loss(1, 0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        field.groups()[0].parameters[0].add_(3.0)
    loss(1, 0, torch.Generator().manual_seed(0))
    assert [seen[0] for seen in pictures.seen] == [2, 2]
    assert not shown[1].requires_grad
    assert shown[0].shape == (2, 3, 8, 8)
    assert torch.equal(shown[0], shown[1]) == (kind == "coarse")
    again = MotionLoss(field, stage, RedClips(), pictures, held, tile)  # type: ignore[arg-type]
    again.load_state_dict(loss.state_dict())
    again(1, 0, torch.Generator().manual_seed(0))
    assert torch.equal(shown[2], shown[1])
    assert not any(name.startswith("coarse/still") for name in loss.state_dict())


def test_a_clips_camera_goes_evenly_from_place_to_place() -> None:
    stage = free(moving_camera=1.0, frames=5)
    cameras = clip_cameras(stage, torch.Generator().manual_seed(3))
    assert len(cameras) == 5
    steps = (cameras.azimuth.diff() + 180) % 360 - 180
    torch.testing.assert_close(steps, steps[:1].expand(4), rtol=1e-3, atol=1e-2)
    assert steps.abs().max() > 1
    assert len(clip_cameras(free(), torch.Generator().manual_seed(3))) == 1
    frames = clip_of(free_field(), cameras, stage, None, None)
    alone = clip_of(free_field(), cameras, stage, None, None, [3])
    assert frames.shape == (5, 3, 8, 8)
    assert torch.equal(frames[3:4], alone)


def small(kind: Any, folder: Path) -> Path:
    """A recipe of a second."""
    frame = FrameScore(since=0.5) if kind == "grids" else None
    known = KnownView(first=1, every=3, side=12)
    first = FirstMoment(known=known, share=0.7) if kind == "grids" else None
    stage = MotionStage(
        motion=MotionConfig(kind=kind, moments=3, resolution=4, free_start=kind == "grids"),
        first=first,
        fit=fit_of(4),
        frames=3,
        noise_share=0.5,
        pictures=frame,
        side=16,
        samples=12,
        occupancy_every=2,
    )
    write_json(folder / f"{kind}.json", AnimateRecipe(id=kind, stage=stage))
    return folder / f"{kind}.json"


def animate(
    learned: Learned,
    folder: Path,
    kind: str,
    motion: Path,
    output: str = "rex.png",
    reporter: Reporter | None = None,
    load: Any = load_video_backbone,
    prompt: str = "a photo of {subject} jumping",
) -> Any:
    """`animate_3d` of the small recipe."""
    beside: dict[str, Any] = {}
    if kind == "grids":
        beside = {"photo": learned.photo, "view_model": str(learned.view_model), "controlnet": learned.controlnet}
    options = AnimateOptions(
        config=small(kind, folder), motion_module=motion, device="cpu", precision="fp32", side=16, frames=4, **beside
    )
    return animate_3d(learned.scene, learned.subject, prompt, folder / output, options, load, reporter=reporter)


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A motion adapter's folder."""
    folder = tmp_path_factory.mktemp("motion")
    tiny_motion_adapter().save_pretrained(folder)
    return folder


def test_a_killed_job_ends_like_one_left_alone(learned: Learned, motion: Path, tmp_path: Path) -> None:
    # The kind with a photo, a view model, and frames judged through a ControlNet from the middle on.
    kind = "grids"
    torch.set_num_threads(1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    made = animate(learned, whole, kind, motion)
    job = functools.partial(animate, learned, parts, kind, motion)
    killed(job, "3d motion", 3, preload="tests.threed.test_animate")
    animate(learned, parts, kind, motion)
    stored = [load_file(folder / "rex.png.work/motion/moving/moving.safetensors") for folder in (whole, parts)]
    assert all(torch.equal(value, stored[1][key]) for key, value in stored[0].items())
    assert not (made.work / "motion" / "checkpoints").exists()
    with Image.open(whole / "rex.png") as drawn:
        assert drawn.size == (3 * 16, 4 * 16)
    still = load_file(learned.scene / "field" / "field" / "field.safetensors")
    assert all(torch.equal(value, stored[0][f"still.{key}"]) for key, value in still.items())
    assert stored[0]["changes"].abs().max() > 0


def test_a_finished_job_is_filmed_again(learned: Learned, motion: Path, tmp_path: Path) -> None:
    made = animate(learned, tmp_path, "displaced", motion, "rex.gif")
    moved = load_file(made.work / "motion/moving/moving.safetensors")
    assert moved["displacements"].abs().max() > 0
    with Image.open(tmp_path / "rex.gif") as film:
        assert getattr(film, "n_frames", 1) == 4

    def no_model(*_: Any, **__: Any) -> Any:
        raise AssertionError("a finished scene is filmed without a model")

    (tmp_path / "rex.gif").unlink()
    again = animate(learned, tmp_path, "displaced", motion, "rex.gif", load=no_model)
    assert (tmp_path / "rex.gif").is_file()
    assert all(torch.equal(value, again.field.state_dict()[key]) for key, value in made.field.state_dict().items())
    (tmp_path / "rex.gif").unlink()
    with pytest.raises(CheckpointError, match="holds a job with another prompt"):
        animate(learned, tmp_path, "displaced", motion, "rex.gif", prompt="{subject} dancing")


def test_wrong_requests_are_refused(learned: Learned, tmp_path: Path) -> None:
    options = AnimateOptions(method="dreamfusion", device="cpu")
    with pytest.raises(UsageError, match="method is animate124 or dream-in-4d"):
        animate_3d(learned.scene, learned.subject, "{subject}", tmp_path / "a.mp4", options, load_video_backbone)
    with pytest.raises(UsageError, match="ends in webp, gif, mp4, png"):
        animate_3d(learned.scene, learned.subject, "{subject}", tmp_path / "a.glb", options, load_video_backbone)
    with pytest.raises(ConfigError, match="field of kind voxel, got hash"):
        MovingConfig(still=FieldConfig(kind="hash", resolution=16), motion=MotionConfig(kind="grids"))
    with pytest.raises(ConfigError, match="2 moments"):
        MotionConfig(moments=1)
    with pytest.raises(ConfigError, match="at least 2 frames"):
        dataclasses.replace(MotionStage(fit=fit_of(1)), frames=1)
