"""What `video make` was told to use: the subject and the motion, loaded, and all that follows from them."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import AbstractAdapter
from pcs_ext.image.concept import SUBJECT, Concept
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.video.alignment import AlignmentConfig, can_align
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.inflated import CrossFrame
from pcs_ext.video.backbones.load import follows_flow, is_text_to_video, load_video_backbone
from pcs_ext.video.clips import clip_digest
from pcs_ext.video.make_request import MakeRequest
from pcs_ext.video.motion import Motion
from pcs_ext.video.recipes import SUBJECTS, MotionRecipe, SubjectEntry
from pcs_ext.video.recipes.layers import MOTION
from pcs_ext.video.sample import ClipConfig
from pcs_ext.video.subject import subject_applied
from pcs_ext.video.told_encoder import told_encoder

Adapters = tuple[AbstractAdapter, ...]
_FLOW_GUIDANCE = 5.0
"""What Wan's model card asks for; recipes' own values are made for noise-predicting UNets."""


USUAL_FPS = 8.0
"""Of written clips, where nothing says how fast they should move."""


def filled(prompts: tuple[str, ...], motion: MotionRecipe | None, concept: Concept | None) -> list[str]:
    """Prompts with the words of a motion and a subject in them.

    Raises:
        UsageError: one asks for what there is not.
    """
    if motion is not None:
        prompts = tuple(motion.fill(prompt) for prompt in prompts)
    if concept is not None:
        return [concept.prompt(prompt) for prompt in prompts]
    for prompt in prompts:
        if motion is None and MOTION in prompt:
            raise UsageError(f"prompt {prompt!r} asks for {MOTION}, but no --motion was given; name its folder.")
        if SUBJECT in prompt:
            raise UsageError(f"prompt {prompt!r} asks for {SUBJECT}, but no --subject was given; name its folder.")
    return list(prompts)


@dataclasses.dataclass(frozen=True)
class Artifacts:
    """What a request names, loaded."""

    subject: Artifact | None
    motion: Motion | None

    @classmethod
    def load(cls, request: MakeRequest) -> "Artifacts":
        request.check()
        subject = None if request.subject is None else Artifact.load(request.subject)
        motion = None if request.motion is None else Motion.load(request.motion)
        found = cls(subject, motion)
        found.check_source(request)
        return found

    def texts(self, prompts: tuple[str, ...]) -> list[str]:
        """Prompts with the words of subject and motion in them; see `filled`."""
        return filled(
            prompts,
            None if self.motion is None else self.motion.recipe,
            None if self.subject is None else self.subject.concept,
        )

    def fps(self, request: MakeRequest) -> float:
        """Frames per second of the written clips."""
        if request.fps is not None:
            return request.fps
        if self.motion is None or not self.motion.recipe.keeps_clip:
            return USUAL_FPS
        return self.motion.data.training.get("fps", USUAL_FPS)

    def negative(self, request: MakeRequest) -> str:
        """What clips stay away from: the request's words, and those that the subject learned to stay away from."""
        return (
            request.negative_prompt
            if self.subject is None
            else self.subject.concept.negative_prompt(request.negative_prompt)
        )

    def backbone(self, request: MakeRequest, reporter: Reporter) -> AbstractVideoBackbone:
        """The model that everything was learned on, or the one that is asked for."""
        origin: dict[str, str | None] = {} if self.motion is None else self.motion.origin
        home = origin.get("base") or (None if self.subject is None else self.subject.data.base_name)
        base = request.base or home or "toybox"
        if request.reference is not None and follows_flow(base):
            raise UsageError(
                f"{base} follows a flow, where no clip can be inverted; leave out --reference {request.reference}, or "
                "take an AnimateDiff or ModelScope base."
            )
        if request.refinements and follows_flow(base):
            raise UsageError(
                f"{base} follows a flow, and --refine mixes the noise of a schedule anew; leave it out, or take an "
                "AnimateDiff or ModelScope base."
            )
        module = request.motion_module or (None if is_text_to_video(base) else origin.get("motion_module"))
        return load_video_backbone(
            base,
            module,
            inflation=self._inflation(base, module),
            device=request.device,
            precision=request.precision,
            reporter=reporter,
        )

    @property
    def entry(self) -> SubjectEntry | None:
        """Of the subject's recipe, where it was made for clips."""
        return None if self.subject is None else SUBJECTS.get(self.subject.data.recipe["id"])

    def _inflation(self, base: str, module: str | None) -> CrossFrame | None:
        if self.motion is not None:
            return self.motion.recipe.inflation
        if self.entry is None or module is not None or is_text_to_video(base):
            return None
        return self.entry.inflation

    @property
    def window(self) -> float:
        """Share of the denoising, at its end, in which the subject is there."""
        return 1.0 if self.entry is None else self.entry.window

    @property
    def own_clip(self) -> Tensor | None:
        """Latents of the clip that the motion was learned from, `1 c f h w`, where clips start from its noise."""
        return None if self.motion is None else self.motion.clip

    @property
    def stride(self) -> int | None:
        """Frames from one to the next that a reference and its mask are read at, as the motion's clip was; None: evenly
        spread."""
        return None if self.motion is None else self.motion.recipe.stride

    def check_source(self, request: MakeRequest) -> None:
        """See that there is a clip whose part a mask can keep.

        Raises:
            UsageError: none was given, and the motion kept none.
        """
        if request.mask is not None and request.reference is None and self.own_clip is None:
            raise UsageError(
                "--mask changes a part of the clip that the motion was learned from, and this motion keeps none: give "
                "that clip with --reference."
            )

    @property
    def source(self) -> tuple[MotionRecipe, str]:
        """The motion's recipe, and what the clip shows that it was learned from."""
        assert self.motion is not None, "a mask is about a motion's clip"
        return self.motion.recipe, self.motion.recipe.fill(self.motion.data.concept["prompts"][0])

    def alignment(self, backbone: AbstractVideoBackbone) -> AlignmentConfig | None:
        """How subject and motion are tuned to each other; None where they are not.

        Raises:
            UsageError: the base cannot do so.
        """
        if self.motion is None or self.subject is None or self.motion.recipe.alignment is None:
            return None
        if not can_align(backbone):
            raise UsageError(
                f"{self.motion.recipe.id} tunes subject and motion to each other by frames, which {backbone.name} does "
                "not tell apart; take an AnimateDiff or ModelScope base."
            )
        return self.motion.recipe.alignment

    def plain(self, prompt: str, text: str) -> str:
        """A prompt with the subject's noun instead of its words."""
        assert self.subject is not None
        if SUBJECT not in prompt:
            return text
        assert self.motion is not None
        return self.subject.concept.class_prompt(self.motion.recipe.fill(prompt))

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
            "height": None if request.size is None else request.size[0],
            "width": None if request.size is None else request.size[1],
            # The latents that are kept are those of an inversion, which knows DDIM's timesteps alone.
            "scheduler": None if request.mask is None else "ddim",
        }
        return dataclasses.replace(config, **{key: value for key, value in asked.items() if value is not None})

    def clip(self, request: MakeRequest, backbone: AbstractVideoBackbone) -> ClipConfig:
        """The recipe's starting noise with the request's frames and share of a reference."""
        clip, frames, share = ClipConfig(), backbone.frames, 0.3
        if self.motion is not None:
            recipe = self.motion.recipe
            clip, frames, share = recipe.clip, recipe.frames, recipe.reference_share
        elif self.subject is not None and self.entry is not None:
            clip, frames = self.entry.clip, self.subject.data.training.get("frames", frames)
        if request.frames is not None:
            frames = request.frames
        elif clip.frames is not None:
            frames = clip.frames
        else:
            frames = backbone.whole_frames(frames)
        if request.reference is not None or self.own_clip is not None:
            clip = dataclasses.replace(clip, inverted_share=request.reference_share or share)
        return dataclasses.replace(
            clip, frames=frames, window=request.window or 0, refinements=request.refinements or clip.refinements
        )

    def say_what_differs(self, backbone: AbstractVideoBackbone, reporter: Reporter) -> None:
        """A subject or a motion on other weights than its own still goes in, and may look or move less like itself."""
        if self.subject is not None and self.subject.data.base_fingerprint != backbone.spatial_fingerprint:
            reporter.event(
                "other-base",
                f"note: the subject was learned on {self.subject.data.base_name}; the spatial layers of "
                f"{backbone.name} are other weights, so it may look less like itself.",
            )
        if self.motion is not None and self.motion.data.base_fingerprint != backbone.fingerprint:
            reporter.event(
                "other-base",
                f"note: the motion was learned on {self.motion.data.base_name}; {backbone.name} has other weights, so "
                "it may move, and look, otherwise than learned.",
            )

    def facts(self, request: MakeRequest, backbone: AbstractVideoBackbone) -> dict[str, Any]:
        """What a clip's record says of its making, beside prompt, seed and settings.

        Raises:
            InputError: a file that was named is not there.
        """
        alignment = self.alignment(backbone)
        kept = {} if request.mask is None else {**_named("mask", request.mask), "keep": request.keep}
        return {
            **backbone.origin,
            "base_fingerprint": backbone.fingerprint,
            "precision": str(backbone.dtype).removeprefix("torch."),
            **kept,
            **({} if alignment is None else {"alignment": to_jsonable(alignment)}),
            "subject": None if self.subject is None else self.subject.data.content_hash,
            "motion": None if self.motion is None else self.motion.data.content_hash,
            "subject_scale": request.subject_scale,
            "motion_scale": request.motion_scale,
            "negative_prompt": self.negative(request),
            **_named("reference", request.reference),
            **_named("picture", request.picture),
        }

    @property
    def told(self) -> bool:
        """Whether the motion's networks are told what clips should look like."""
        return self.motion is not None and self.motion.recipe.told

    def subject_in(
        self, request: MakeRequest, backbone: AbstractVideoBackbone
    ) -> contextlib.AbstractContextManager[Adapters]:
        """The subject's adapters, in the backbone; none if there is no subject."""
        if self.subject is None:
            return contextlib.nullcontext(())
        return subject_applied(self.subject, backbone, scale=request.subject_scale)

    def motion_in(
        self, request: MakeRequest, backbone: AbstractVideoBackbone, *, look: Tensor | None = None
    ) -> contextlib.AbstractContextManager[Adapters]:
        """The motion's adapters, in the backbone and told what clips should look like; none if there is no motion."""
        if self.motion is None:
            return contextlib.nullcontext(())
        return self.motion.applied(backbone, scale=request.motion_scale, look=look)

    def encoder(self, request: MakeRequest, backbone: AbstractVideoBackbone) -> ImageEncoder | None:
        """The image encoder that the motion was learned with, if its networks are told anything.

        Raises:
            UsageError: one was given for nothing.
            InputError: it is not there, or another one.
        """
        if self.motion is None or not self.motion.recipe.told:
            if request.image_encoder is not None:
                raise UsageError("--image-encoder is for motions that are told what clips look like; leave it out.")
            return None
        said = self.motion.data.concept
        known = said.get("image_encoder_id")
        return told_encoder(said["image_encoder"], known, backbone.device, given=request.image_encoder)


def _named(name: str, path: Path | None) -> dict[str, str | None]:
    """Where something was read from, for people, and what it held: a file may change under its name."""
    return {name: None} if path is None else {name: str(path), f"{name}_digest": clip_digest(path)}
