"""`3d avatar`: words in, a figure of the learned subject in that pose and in those surroundings out."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import atomic_folder, atomic_write_bytes, file_sha256, to_jsonable, write_json
from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.avatar.figure import Figure, capsule_body, standing
from pcs_ext.threed.avatar.pose_model import PoseModel, load_pose_model
from pcs_ext.threed.avatar.skeleton import NAMES, turned
from pcs_ext.threed.avatar.skinned_glb import write_skinned
from pcs_ext.threed.avatar.surroundings import surroundings_of
from pcs_ext.threed.avatar.view_painting import PaintedSurface, filled_in
from pcs_ext.threed.cameras import Cameras, orbit
from pcs_ext.threed.export import write_with_page
from pcs_ext.threed.mesh import write_mesh
from pcs_ext.threed.mesh_views import render_mesh
from pcs_ext.threed.named_recipe import EffortOptions, named_recipe
from pcs_ext.threed.outputs import Outputs, check_ending, check_files, outputs_of
from pcs_ext.threed.posed_pictures import read_picture
from pcs_ext.threed.recipes import PosedRecipe
from pcs_ext.threed.stored import read_tensors
from pcs_ext.threed.surface import SurfaceMesh
from pcs_ext.threed.texture import TextureConfig, bake_texture
from pcs_ext.threed.turntable import sheet
from pcs_ext.threed.view_prompts import directions
from pcs_ext.threed.work import WorkFolder

_ROOM = 1.25
"""How much wider than the figure its picture is."""
_FOV = 26.0
_LOOK = "a photo of {subject}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AvatarOptions(EffortOptions):
    """How a figure is posed, painted and shown."""

    pose: str = ""
    """Words for the pose alone; empty: the prompt's, of "a person"."""
    look: str = _LOOK
    """What the body is painted by; view words are appended."""
    place: str = ""
    """Words for the surroundings alone, without the subject; empty: what the prompt says beside figure and pose."""
    avatar: Path | None = None
    """A figure that is there, standing; None paints the capsule body."""
    rig: bool = True
    """Also write the figure with its bones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.avatar is not None and self.look != _LOOK:
            raise UsageError("a figure that is there keeps its own colours; leave --look out, or --avatar.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posed:
    """What a finished job left."""

    mesh: Any
    """The posed `trimesh.Trimesh`."""
    turns: Tensor
    """Rotations `j 3 3` of its joints."""
    files: tuple[Path, ...]
    """Mesh, picture, rig and page."""
    work: Path
    """The job's folder."""


def pose_avatar(
    subject: Path,
    prompt: str,
    poses: Path,
    output: Path,
    options: AvatarOptions | None = None,
    *,
    reporter: Reporter | None = None,
) -> Posed:
    """Put a figure of a learned subject into the pose that a prompt tells.

    The job lives in `OUTPUT.work/`; the same call goes on from there after an interruption. `standing.glb` there is the
    figure before it was posed: give it as `options.avatar` to pose it again without painting it anew.

    Args:
        subject: folder written by `learn`.
        prompt: of the picture, with `{subject}`: pose and surroundings.
        poses: folder of a pose model.
        output: ends in .glb. Beside it OUT.png shows the figure in its surroundings, OUT_rig.glb has bones.
        options: how.
        reporter: hears events and progress.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError, ModelError: before any painting, with what to do.
        CheckpointError: the work folder belongs to another request.
        Interrupted: Ctrl-C; what was done is saved.
    """
    options, reporter = options or AvatarOptions(), reporter or SilentReporter()
    check_ending(output, ("glb",))
    outputs = outputs_of(output, viewer=options.viewer, textured=False)
    outputs = dataclasses.replace(
        outputs, others=(output.with_suffix(".png"), *([_rig(output)] if options.rig else []))
    )
    check_files(outputs.files, options.avatar, options.overwrite)
    artifact, (model, told) = Artifact.load(subject), load_pose_model(poses)
    text = artifact.concept.prompt(prompt)
    artifact.concept.prompt(options.look)
    if SUBJECT in options.place:
        raise UsageError(f"--place tells of surroundings alone; expected no {SUBJECT} in it, got {options.place!r}.")
    base = options.base or artifact.data.base_name
    recipe = named_recipe(PosedRecipe, "pas", preset_of(base), options)
    recipe.validate()
    given = None if options.avatar is None else standing(options.avatar)
    backbone = load_backbone(base, device=options.device, precision=options.precision, reporter=reporter)
    request = {
        "recipe": to_jsonable(dataclasses.replace(recipe, poses=recipe.poses.with_steps(told.steps))),
        "subject": artifact.data.content_hash,
        "prompt": text,
        "pose": options.pose,
        "look": options.look,
        "place": options.place,
        "poses": file_sha256(poses / "poses.safetensors"),
        "avatar": "" if options.avatar is None else file_sha256(options.avatar),
        "base": backbone.fingerprint,
        "precision": str(backbone.dtype),
        "seed": options.seed,
    }
    work = WorkFolder(output.with_name(f"{output.name}.work"), request)
    write_json(work.path / "recipe.json", recipe)
    job = AvatarJob(recipe, artifact, backbone, work, options, reporter)
    try:
        return job.run(prompt, given, model, outputs)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what was done is in {work.path}. The same command goes on from there."
        ) from None


def _rig(output: Path) -> Path:
    return output.with_name(f"{output.stem}_rig.glb")


class AvatarJob:
    """The stages of one request: pose, look, picture; each is done once."""

    def __init__(
        self,
        recipe: PosedRecipe,
        artifact: Artifact,
        backbone: AbstractUnetBackbone,
        work: WorkFolder,
        options: AvatarOptions,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.artifact, self.backbone = recipe, artifact, backbone
        self.work, self.options, self.reporter = work, options, reporter

    def run(self, prompt: str, given: Figure | None, model: PoseModel, outputs: Outputs) -> Posed:
        """All stages, and what is written of them."""
        turns = self._pose(prompt, model)
        bones = turned(turns[None])
        figure = given if given is not None else self._painted()
        posed = figure.posed(bones)
        write_with_page(posed, outputs)
        atomic_write_bytes(outputs.others[0], self._picture(prompt, posed))
        for rig in outputs.others[1:]:
            write_skinned(figure, turns, bones, rig)
        return Posed(mesh=posed, turns=turns, files=outputs.files, work=self.work.path)

    def _pose(self, prompt: str, model: PoseModel) -> Tensor:
        """Rotations `j 3 3` of the joints."""
        folder = self.work.path / "pose"
        text = self.options.pose or prompt.replace(SUBJECT, "a person").replace("a a person", "a person")
        unknown = model.vocabulary.unknown(text)
        if unknown:
            self.reporter.event(
                "unknown-words",
                f"the pose model does not know: {', '.join(unknown)}. These words change nothing of the pose.",
                words=unknown,
            )
        if not folder.exists():
            words = model.vocabulary.read([text])
            seed = seed_for(self.options.seed, "pose")
            turns = model.draw(
                words, seeds=[seed], steps=self.recipe.pose_steps, guidance_scale=self.recipe.pose_guidance
            )
            with atomic_folder(folder) as target:
                save_file({"turns": turns[0].contiguous()}, target / "pose.safetensors")
                write_json(target / "pose.json", {"text": text, "joints": dict(zip(NAMES, turns[0].tolist(),
                                                                                   strict=True))})  # fmt: skip
            self.reporter.event("stage", f"pose of: {text}", stage="pose")
        return read_tensors(folder / "pose.safetensors")["turns"]

    def _painted(self) -> Figure:
        """The capsule body with the subject's look."""
        body = capsule_body(self.recipe.body)
        mesh = SurfaceMesh(
            torch.from_numpy(np.array(body.vertices)).float(), torch.from_numpy(np.array(body.faces)).long()
        )
        surface = PaintedSurface(mesh, self.recipe.painting)
        cameras = self.recipe.painting.cameras()
        names = directions(cameras, self.recipe.words)
        with self.artifact.applied(self.backbone):
            for index, name in enumerate(names):
                camera = cameras[[index]]
                surface.add(camera, self._view(surface, camera, index, getattr(self.recipe.words, name)))
                self.reporter.progress("3d look", index + 1, len(names))
        figure = Figure.of(bake_texture(body, surface.filled, TextureConfig()))
        write_mesh(figure.mesh, self.work.path / "standing.glb")
        return figure

    def _view(self, surface: PaintedSurface, camera: Cameras, index: int, ending: str) -> Tensor:
        """One picture of the body, `3 h w` in [0, 1], painted or as it was painted before."""
        path = self.work.path / "look" / f"{index:02d}.png"
        if not path.exists():
            picture, covered, known = surface.render(camera, self.backbone.resolution)
            made = filled_in(
                self.backbone,
                picture,
                covered & ~known,
                self.artifact.concept.prompt(self.options.look + ending),
                seed=seed_for(self.options.seed, "look", index),
                strength=self.recipe.painting.strength,
                config=self.artifact.sampling,
                negative_prompt=self.artifact.concept.negative_prompt(),
            )
            # What was known stays to the level, in the pixels as in the latents.
            atomic_write_bytes(path, sheet(torch.where(covered & known, picture, made)[None], columns=1))
        return read_picture(path)

    def _picture(self, prompt: str, posed: Any) -> bytes:
        """The figure, pixel by pixel as it is, in surroundings that the base paints around it: a PNG."""
        side, camera = self.backbone.resolution, _around(posed, self.recipe.view)
        shown = render_mesh(posed, camera, side, side, background=0.0)[0]
        coverage = (render_mesh(posed, camera, side, side, background=1.0)[0] - shown).mean(0)
        cover = (1 - coverage).clamp(0, 1)
        plain = shown + (1 - cover) * self.recipe.painting.background
        # By the base alone: a prompt that names the subject, or a base with it inside, paints it once more.
        made = filled_in(
            self.backbone, plain, cover < 0.5, self.options.place or surroundings_of(prompt),
            seed=seed_for(self.options.seed, "surroundings"), strength=1.0, config=self.artifact.sampling,
        )  # fmt: skip
        large = functional.interpolate(made[None], shown.shape[1:], mode="bilinear")[0]
        return sheet((shown + (1 - cover) * large)[None], columns=1)


def _around(mesh: Any, view: tuple[float, float]) -> Cameras:
    """A camera that holds a posed figure with some room around it."""
    low, high = np.asarray(mesh.bounds)
    radius = float(np.linalg.norm(high - low)) / 2 * _ROOM
    x, y, z = ((low + high) / 2).tolist()
    return orbit([view[0]], [view[1]], [float(radius / np.sin(np.radians(_FOV / 2)))], [_FOV], (x, y, z))
