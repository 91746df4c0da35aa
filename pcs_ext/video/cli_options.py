"""Groups of flags that the commands for clips share."""

import dataclasses
from pathlib import Path
from typing import Literal

from pcs_ext.command_options import Device, Precision

Effort = Literal["quick", "balanced", "best"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What makes clips, and where it runs.

    Args:
        base: a text-to-video folder or hub id; or an image base (toybox, folder, hub id, .safetensors file). Empty:
            toybox for learning; for making the one that the motion, or else the subject, was learned on.
        motion_module: AnimateDiff's motion adapter for an image base, a folder or a .safetensors file; for making,
            empty takes the motion's.
        device: where to run.
        precision: of the frozen weights and of autocast.
    """

    base: str = ""
    motion_module: str = ""
    device: Device = "auto"
    precision: Precision = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What the clips or photos show.

    Args:
        prompts: what the clips show, one for all or one each; without any, NAME.txt beside every clip is read. Where a
            recipe learns a word for the motion or for who does it, {motion} and {protagonist} stand for them.
        noun: what the subject is, or who does the motion, for recipes that learn a word for it; one per subject, with
            commas, for those that learn several.
        prior: clips of the same kind of actors that do something else, with NAME.txt beside each, for recipes that keep
            what the model knows by them.
        image_encoder: transformers folder of CLIP, for recipes that look at pictures; toybox has its own.
    """

    prompts: tuple[str, ...] = ()
    noun: str = ""
    prior: tuple[Path, ...] = ()
    image_encoder: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How it is learned; 0 and nothing take the recipe's.

    Args:
        recipe: how to learn (`pcs-ext video recipes` lists them); empty: motion-director, on toybox tune-a-video.
        preset: of a motion: quick, to see that it works; balanced, the recipe's own steps; best, 2.5 times as many.
            Not beside --steps.
        frames: frames of a training clip.
        size: pixels that clips are learned at: 512, or 512x320 for width x height; empty takes the config's, or the
            base's square.
        steps: optimiser steps in all.
        seed: of everything random.
        config: a recipe as JSON, or all that `--dry-run` printed, instead of the recipe's own values.
        checkpoint_activations: compute activations again in the backward pass: less memory, more time, equal gradients.
    """

    recipe: str = ""
    preset: Effort = "balanced"
    frames: int = 0
    size: str = ""
    steps: int = 0
    seed: int = 0
    config: Path | None = None
    checkpoint_activations: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Editing:
    """How a clip is learned that is to be changed; 0 and nothing take the recipe's.

    Args:
        recipe: how.
        preset: quick, to see that it works; balanced, the recipe's own steps; best, 2.5 times as many. Not beside
            --steps.
        frames: of the clip, from its beginning.
        size: pixels: 512, or 512x320 for width x height; empty takes the base's square.
        steps: optimiser steps.
    """

    recipe: Literal["tune-a-video", "make-a-protagonist"] = "tune-a-video"
    preset: Effort = "balanced"
    frames: int = 0
    size: str = ""
    steps: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """What was learned and goes into the clip.

    Args:
        subject: folder written by `learn`, or by `video learn` from photos.
        motion: folder written by `video learn` from clips.
        subject_scale: strength of the subject, 1 as trained.
        motion_scale: strength of the motion, 1 as trained.
        picture: what clips start from (recipe lamp) or look like (dreamvideo-motion); without one the base makes it.
        image_encoder: where the image encoder lies that the motion was learned with (dreamvideo-motion), if it moved.
    """

    subject: Path | None = None
    motion: Path | None = None
    subject_scale: float = 1.0
    motion_scale: float = 1.0
    picture: Path | None = None
    image_encoder: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Photos of what the clip should show without having learned it; or a clip to start from, or to change a part of.

    Args:
        reference: photos whose content is shown in every frame; or a clip (a video, an animation, a folder of frames)
            whose inverted noise is started from, for instance the one the motion was learned from: its beginning, at
            the motion's stride (without a motion frames of all of it).
        reference_adapter: of the photos: a folder of `reference learn` or `video learn-reference`, or a published
            file; toybox has its own.
        reference_encoder: folder or hub id of its image encoder, where it does not lie beside the adapter.
        reference_scale: strength of the photos: 1 as trained, 0 the plain model.
        reference_noun: the prompts' word for what the photos show, where the adapter asks for it.
        action: phrase for what is done, for adapters that are told (motioncharacter); empty: the prompt.
        intensity: how fast what moves does, 0 (still) to 20 pixels of 512 per frame, likewise; -1: the adapter's usual.
        structure: clip of maps over which frames are drawn, or whose edges are taken, for adapters that read maps.
        coarseness: how many times the maps lose half of their detail (gen-1).
        temporal_guidance: how much steadier than by themselves frames are, above 1, or less so, below (gen-1).
        reference_share: share of the clip in the start, up to 1; 0 takes the recipe's.
        mask: white where the reference's protagonist is (a clip or a folder of frames, read as the reference is, or a
            picture): only there it changes.
        keep: what stays where there is a mask: what is around the protagonist, or the protagonist.
    """

    reference: tuple[Path, ...] = ()
    reference_adapter: str = ""
    reference_encoder: str = ""
    reference_scale: float = 1.0
    reference_noun: tuple[str, ...] = ()
    action: str = ""
    intensity: float = -1.0
    structure: Path | None = None
    coarseness: int = 0
    temporal_guidance: float = 1.0
    reference_share: float = 0.0
    mask: Path | None = None
    keep: Literal["background", "protagonist"] = "background"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Size of the clip and how it is sampled; 0 and nothing take the recipe's.

    Args:
        seeds: one clip per prompt and seed.
        frames: how many; else what the motion, or the subject, was learned with, or what the base makes.
        window: frames that temporal layers see at once of a longer clip (FreeNoise), such as 16; 0: all at once.
        refine: further rounds that steady the frames, each as long as the first (FreeInit).
        size: pixels: 512, or 512x320 for width x height; empty takes what was learned, or the base's square.
        fps: frames per second of the written clip; by default 8, or those at which it moves as fast as the clip that
            the motion keeps and starts from.
        steps: denoising steps.
        guidance_scale: strength of the prompt, 1 = off.
        negative_prompt: what to stay away from.
    """

    seeds: tuple[int, ...] = (0,)
    frames: int = 0
    window: int = 0
    refine: int = 0
    size: str = ""
    fps: float | None = None
    steps: int = 0
    guidance_scale: float = 0.0
    negative_prompt: str = ""


MODEL, SHOWN, TRAINING, EDITING, LEARNED, REFERENCE, CLIP = (
    Model(),
    Shown(),
    Training(),
    Editing(),
    Learned(),
    Reference(),
    Clip(),
)
"""The groups as they are when no flag is given: defaults of commands."""
