"""Clips of any learned subject with any learned motion, no training in between."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.evaluate.encoders import ImageEncoder, load_image_encoder
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.inversion import invert
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.load import is_text_to_video, load_video_backbone
from pcs_ext.video.clips import ClipFolder, read_clip
from pcs_ext.video.motion import Motion
from pcs_ext.video.recipes import SUBJECTS
from pcs_ext.video.recipes.base import MOTION
from pcs_ext.video.sample import ClipConfig, sample_clips
from pcs_ext.video.subject import subject_applied

_FLOW_GUIDANCE = 5.0
"""What Wan's model card asks for; recipes' own values are made for noise-predicting UNets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeRequest:
    """One call of `pcs-ext video make`."""

    prompts: tuple[str, ...]
    """Texts; with `{subject}` where a subject goes."""
    seeds: tuple[int, ...] = (0,)
    """One clip per prompt and seed."""
    subject: Path | None = None
    """Folder of a learned subject."""
    motion: Path | None = None
    """Folder of a learned motion."""
    base: str = ""
    """Empty: the one that the motion, or the subject, was learned on."""
    motion_module: str | None = None
    """None: the one that the motion was learned on."""
    negative_prompt: str = ""
    frames: int | None = None
    """None: as the motion was learned, or as the model makes them."""
    size: int | None = None
    """Side in pixels; None: as learned, or the base's."""
    fps: float = 8.0
    """Of the written clips."""
    steps: int | None = None
    """Denoising steps; None takes the recipe's."""
    guidance_scale: float | None = None
    """1 = off; None takes the recipe's."""
    subject_scale: float = 1.0
    motion_scale: float = 1.0
    """Strengths, 1 as trained."""
    reference: Path | None = None
    """A clip whose inverted noise the start is mixed with."""
    reference_share: float | None = None
    """Share of it, in (0, 1]; None takes the recipe's."""
    picture: Path | None = None
    """What clips start from or look like, where the motion is told a picture; None: the base makes one."""
    device: str = "auto"
    precision: str = "auto"


def make_clips(request: MakeRequest, output: Path, *, overwrite: bool, reporter: Reporter) -> list[Path]:
    """Write a clip per prompt and seed; what a folder already holds of them is not made again.

    Args:
        request: what is asked.
        output: a clip to write (.mp4, .webm, .gif, .webp), or a folder for several.
        overwrite: replace a clip of this name; folders only ever grow.
        reporter: hears the progress.

    Returns:
        Paths of the clips, prompt by prompt.

    Raises:
        PcsError: the request cannot be met; says what to do.
    """
    artifacts = _Artifacts.load(request)
    texts = artifacts.texts(request.prompts)
    folder = ClipFolder(output, len(texts) * len(request.seeds), fps=request.fps, overwrite=overwrite)
    backbone = artifacts.backbone(request, reporter)
    config, clip = artifacts.sampling(request, backbone), artifacts.clip(request, backbone)
    artifacts.say_what_differs(backbone, reporter)
    facts = artifacts.facts(request, backbone) | {"sampling": to_jsonable(config), "clip": to_jsonable(clip)}
    paths = []
    jobs = [(prompt, text, seed) for prompt, text in zip(request.prompts, texts, strict=True) for seed in request.seeds]
    with artifacts.subject_in(request, backbone), torch.inference_mode():
        # Without the motion: it is a picture of the base.
        picture = _picture(request, backbone, config, wanted=clip.first_frame or artifacts.told)
        encoder = artifacts.encoder(backbone)
        with artifacts.motion_in(request, backbone):
            inverted = _inverted(request, backbone, config, clip, reporter)
        for number, (prompt, text, seed) in enumerate(jobs):
            made_by = {"prompt": prompt, "text": text, "seed": seed, **facts}
            path = folder.made(made_by)
            if path is None:
                start = picture(text, seed)
                look = None if encoder is None or start is None else encoder.encode_images(start)
                with artifacts.motion_in(request, backbone, look=look):
                    frames = sample_clips(
                        backbone,
                        [text],
                        seeds=[seed],
                        config=config,
                        clip=clip,
                        inverted=inverted,
                        first=_latents(start, backbone) if clip.first_frame else None,
                        negative_prompts=[request.negative_prompt] if request.negative_prompt else None,
                    )
                path = folder.write(frames[0], made_by)
            paths.append(path)
            reporter.progress("clips", number + 1, len(jobs))
    return paths


@dataclasses.dataclass(frozen=True)
class _Artifacts:
    """What a request names, loaded."""

    subject: Artifact | None
    motion: Motion | None

    @classmethod
    def load(cls, request: MakeRequest) -> "_Artifacts":
        _check(request)
        subject = None if request.subject is None else Artifact.load(request.subject)
        motion = None if request.motion is None else Motion.load(request.motion)
        return cls(subject, motion)

    def texts(self, prompts: tuple[str, ...]) -> list[str]:
        """Prompts with the words of subject and motion in them."""
        if self.motion is not None:
            prompts = tuple(self.motion.recipe.fill(prompt) for prompt in prompts)
        if self.subject is not None:
            return [self.subject.concept.prompt(prompt) for prompt in prompts]
        for prompt in prompts:
            if self.motion is None and MOTION in prompt:
                raise UsageError(f"prompt {prompt!r} asks for {MOTION}, but no --motion was given; name its folder.")
            if SUBJECT in prompt:
                raise UsageError(f"prompt {prompt!r} asks for {SUBJECT}, but no --subject was given; name its folder.")
        return list(prompts)

    def backbone(self, request: MakeRequest, reporter: Reporter) -> AbstractVideoBackbone:
        """The model that everything was learned on, or the one that is asked for."""
        origin: dict[str, str | None] = {} if self.motion is None else self.motion.origin
        home = origin.get("base") or (None if self.subject is None else self.subject.data.base_name)
        base = request.base or home or "toybox"
        module = request.motion_module or (None if is_text_to_video(base) else origin.get("motion_module"))
        return load_video_backbone(
            base,
            module,
            inflation=None if self.motion is None else self.motion.recipe.inflation,
            device=request.device,
            precision=request.precision,
            reporter=reporter,
        )

    def sampling(self, request: MakeRequest, backbone: AbstractVideoBackbone) -> SampleConfig:
        """The recipe's settings with the request's; a flow is sampled by Euler steps."""
        config = SAMPLING["toybox" if backbone.origin["base"] == "toybox" else "sd"]
        if self.motion is not None:
            config = self.motion.recipe.sampling
        elif self.subject is not None:
            config = self.subject.sampling
        if isinstance(backbone.schedule, FlowSchedule):
            config = dataclasses.replace(config, scheduler="euler", guidance_scale=_FLOW_GUIDANCE)
        asked = {
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "height": request.size,
            "width": request.size,
        }
        return dataclasses.replace(config, **{key: value for key, value in asked.items() if value is not None})

    def clip(self, request: MakeRequest, backbone: AbstractVideoBackbone) -> ClipConfig:
        """The recipe's starting noise with the request's frames and share of a reference."""
        clip, frames, share = ClipConfig(), backbone.frames, 0.3
        if self.motion is not None:
            recipe = self.motion.recipe
            clip, frames, share = recipe.clip, recipe.frames, recipe.reference_share
        elif self.subject is not None and self.subject.data.recipe["id"] in SUBJECTS:
            clip = SUBJECTS[self.subject.data.recipe["id"]].clip
        if request.frames is not None:
            frames = request.frames
        elif clip.frames is not None:
            frames = clip.frames
        else:
            frames = backbone.whole_frames(frames)
        if request.reference is not None:
            clip = dataclasses.replace(clip, inverted_share=request.reference_share or share)
        return dataclasses.replace(clip, frames=frames)

    def say_what_differs(self, backbone: AbstractVideoBackbone, reporter: Reporter) -> None:
        """A subject on other weights than its own still goes in, and may look less like itself."""
        if self.subject is not None and self.subject.data.base_fingerprint != backbone.spatial_fingerprint:
            reporter.event(
                "other-base",
                f"note: the subject was learned on {self.subject.data.base_name}; the spatial layers of "
                f"{backbone.name} are other weights, so it may look less like itself.",
            )

    def facts(self, request: MakeRequest, backbone: AbstractVideoBackbone) -> dict[str, Any]:
        """What a clip's record says of its making, beside prompt, seed and settings."""
        return {
            **backbone.origin,
            "subject": None if self.subject is None else self.subject.data.content_hash,
            "motion": None if self.motion is None else self.motion.data.content_hash,
            "subject_scale": request.subject_scale,
            "motion_scale": request.motion_scale,
            "negative_prompt": request.negative_prompt,
            "reference": None if request.reference is None else str(request.reference),
            "picture": None if request.picture is None else str(request.picture),
        }

    @property
    def told(self) -> bool:
        """Whether the motion's networks are told what clips should look like."""
        return self.motion is not None and self.motion.recipe.told

    def subject_in(
        self, request: MakeRequest, backbone: AbstractVideoBackbone
    ) -> contextlib.AbstractContextManager[Any]:
        """The backbone with the subject in it, if there is one."""
        if self.subject is None:
            return contextlib.nullcontext()
        return subject_applied(self.subject, backbone, scale=request.subject_scale)

    def motion_in(
        self, request: MakeRequest, backbone: AbstractVideoBackbone, *, look: Tensor | None = None
    ) -> contextlib.AbstractContextManager[Any]:
        """The backbone with the motion in it, if there is one, told what clips should look like."""
        if self.motion is None:
            return contextlib.nullcontext()
        return self.motion.applied(backbone, scale=request.motion_scale, look=look)

    def encoder(self, backbone: AbstractVideoBackbone) -> ImageEncoder | None:
        """The image encoder that the motion was learned with, if its networks are told anything."""
        if self.motion is None or not self.motion.recipe.told:
            return None
        return load_image_encoder(Path(self.motion.data.concept["image_encoder"]), backbone.device)


def _check(request: MakeRequest) -> None:
    if not request.prompts or not request.seeds:
        raise UsageError('make needs at least one prompt and one seed: "a photo of {subject} that spins".')
    if request.frames is not None and request.frames < 1:
        raise UsageError(f"--frames must be at least 1, got {request.frames}.")
    if request.steps is not None and request.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {request.steps}.")
    share = request.reference_share
    if share is not None and (request.reference is None or not 0 < share <= 1):
        raise UsageError(f"--reference-share is a share of a --reference clip, above 0 and up to 1; got {share}.")


def _inverted(
    request: MakeRequest,
    backbone: AbstractVideoBackbone,
    config: SampleConfig,
    clip: ClipConfig,
    reporter: Reporter,
) -> Tensor | None:
    """The noise that the reference comes from under an empty prompt, as Tune-A-Video and MotionDirector invert."""
    if request.reference is None:
        return None
    sides = (config.height or backbone.resolution, config.width or backbone.resolution)
    read = read_clip(request.reference, frames=clip.frames, size=sides, multiple_of=backbone.vae_factor)
    latents = backbone.encode_clips(read.video().to(backbone.device, backbone.dtype)).float()
    backwards = dataclasses.replace(config, scheduler="ddim", guidance_scale=1.0)
    return invert(backbone, latents, [""], config=backwards, reporter=reporter)[-1]


def _latents(picture: Tensor | None, backbone: AbstractVideoBackbone) -> Tensor:
    """Clean latents `1 c h w` of a picture."""
    assert picture is not None, "a clip that starts from a picture was given none"
    return backbone.encode_images(picture.to(backbone.device, backbone.dtype)).float()


def _picture(
    request: MakeRequest, backbone: AbstractVideoBackbone, config: SampleConfig, *, wanted: bool
) -> Callable[[str, int], Tensor | None]:
    """`(text, seed)` -> the picture `1 3 h w` that a clip starts from or should look like; None where none is wanted.

    Raises:
        UsageError: a picture was given for nothing.
    """
    if not wanted:
        if request.picture is not None:
            raise UsageError("--picture is for motions that start from one or are told one; leave it out.")
        return lambda text, seed: None
    if request.picture is None:
        return lambda text, seed: sample(backbone, [text], seeds=[seed], config=config)
    sides = (config.height or backbone.resolution, config.width or backbone.resolution)
    given = read_clip(request.picture, frames=1, size=sides, multiple_of=backbone.vae_factor).video()[:, :, 0]
    return lambda text, seed: given
