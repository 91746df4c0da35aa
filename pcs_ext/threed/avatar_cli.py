"""Commands for avatars: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pcs_ext.command_options import Device, Output, Precision, console_reporter


def learn_poses(
    output: Output,
    preset: Literal["fast", "balanced", "paper"] = "balanced",
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Train a model of poses from words (PAS) on a synthetic set; interrupted, the same command goes on.

    The set is made by a grammar of some fifty phrases: "sitting", "raising the left arm", "looking up". Words outside
    of it change nothing; `3d avatar` names them.

    Args:
        output: folder of the model.
        preset: fast, to see that it works; balanced; or many steps.
        steps: 0 takes the preset's.
        seed: of everything random.
        config: a recipe as JSON.
        overwrite: replace the output.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.threed.avatar.pose_training import learn_poses
    from pcs_ext.threed.named_recipe import EffortOptions, named_recipe
    from pcs_ext.threed.recipes import PosedRecipe

    options = EffortOptions(effort=preset, steps=steps or None, config=config, seed=seed)
    recipe = named_recipe(PosedRecipe, "pas", "sd", options)
    made = learn_poses(
        output,
        recipe.poses,
        seed=seed,
        overwrite=overwrite,
        reporter=console_reporter(jsonl),
    )
    sys.stdout.write(f"{output}  {made.seen:.0%} of fresh poses do what they are told")
    unseen = "" if made.held_out is None else f", {made.held_out:.0%} for pairs of phrases it never saw"
    sys.stdout.write(f"{unseen}\n")


def avatar(
    subject: Positional[Path],
    prompt: Positional[str],
    output: Output,
    poses: Path,
    pose: str = "",
    look: str = "a photo of {subject}",
    place: str = "",
    avatar: Path | None = None,
    rig: bool = True,
    base: str = "",
    seed: int = 0,
    config: Path | None = None,
    viewer: bool = True,
    overwrite: bool = False,
    device: Device = "auto",
    precision: Precision = "auto",
    jsonl: Path | None = None,
) -> None:
    """Put a figure of a learned subject into a pose from words, and into its surroundings (PAS).

    Writes the posed mesh, beside it OUT.png, the figure where the prompt says, and OUT_rig.glb, the figure with bones
    for Blender and other programs.

    Args:
        subject: folder written by `learn`.
        prompt: of the picture, with {subject}: "{subject} sitting and raising the left arm on the beach".
        output: .glb.
        poses: folder of a pose model: `3d learn-poses`.
        pose: words for the pose alone; without them the prompt's.
        look: what the body is painted by, with {subject}.
        place: words for the surroundings alone, without {subject}; by default the prompt's.
        avatar: a figure that is there (.glb, .obj or .ply), which keeps its own colours; it must stand upright, facing
            the front, arms a little away from the trunk. OUT.work/standing.glb of an earlier call is one.
        rig: also write the figure with bones.
        base: another base of the same family than the one the subject was learned on.
        seed: of everything random.
        config: a recipe as JSON (OUTPUT.work/recipe.json is one).
        viewer: also write an HTML page in which one turns the figure, offline.
        overwrite: replace the output (the work folder is never replaced).
        device: where the base runs.
        precision: of the base's weights.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.threed.avatar.avatar_job import AvatarOptions, pose_avatar

    options = AvatarOptions(
        pose=pose,
        look=look,
        place=place,
        avatar=avatar,
        rig=rig,
        base=base,
        seed=seed,
        config=config,
        viewer=viewer,
        overwrite=overwrite,
        device=device,
        precision=precision,
    )
    made = pose_avatar(subject, prompt, poses, output, options, reporter=console_reporter(jsonl))
    sys.stdout.write(f"{output}  {len(made.mesh.faces)} faces\n")
    for path in (*made.files[1:], made.work):
        sys.stdout.write(f"{path}\n")


def learn_generator(
    subject: Positional[Path],
    prompt: Positional[str],
    output: Output,
    preset: Literal["fast", "balanced", "paper"] = "balanced",
    shape: Path | None = None,
    controlnet: Path | None = None,
    control: Literal["normal", "depth"] = "depth",
    pictures: int = 0,
    base: str = "",
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    overwrite: bool = False,
    device: Device = "auto",
    precision: Precision = "auto",
    jsonl: Path | None = None,
) -> None:
    """Train a generator of 3D objects in a learned look (StyleAvatar3D); interrupted, the same command goes on.

    First the base draws the subject over renders of a shape from all sides (OUTPUT.work/pictures), then a tri-plane
    generator learns from these pictures.

    Args:
        subject: folder written by `learn`: a subject or a style.
        prompt: with {subject}; words for the view are appended.
        output: folder of the generator.
        preset: fast, to see that it works; balanced; or many pictures and steps.
        shape: .glb, .obj or .ply whose renders guide the pictures; without it a standing body.
        controlnet: folder of a diffusers ControlNet for the base; without it the noised render guides.
        control: what the ControlNet reads.
        pictures: how many; 0 takes the preset's.
        base: another base of the same family than the one the subject was learned on.
        steps: of the generator; 0 takes the preset's.
        seed: of everything random.
        config: a recipe as JSON (OUTPUT.work/recipe.json is one).
        overwrite: replace the output (the work folder is never replaced).
        device: where the base runs; the generator trains on the CPU.
        precision: of the base's weights.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.threed.triplane.generator_job import GeneratorOptions, learn_generator

    options = GeneratorOptions(
        effort=preset,
        shape=shape,
        controlnet=controlnet,
        control=control,
        pictures=pictures or None,
        base=base,
        steps=steps or None,
        seed=seed,
        config=config,
        overwrite=overwrite,
        device=device,
        precision=precision,
    )
    learn_generator(subject, prompt, output, options, reporter=console_reporter(jsonl))
    sys.stdout.write(f"{output}\n{output}.work/pictures\n")


def generate(
    generator: Positional[Path],
    output: Output,
    seed: int = 0,
    truncation: float = 0.7,
    frames: int = 48,
    side: int = 128,
    viewer: bool = True,
    overwrite: bool = False,
) -> None:
    """Draw an object of a generator: a mesh, a turntable or a sheet of views.

    Args:
        generator: folder written by `3d learn-generator`.
        output: .glb, .obj, .ply or .usdz; .mp4, .webp or .gif; .png for eight views.
        seed: of the object.
        truncation: how far from the mean object, 0 to 1.
        frames: of a turntable.
        side: of views, pixels.
        viewer: also write an HTML page beside a GLB in which one turns the object, offline.
        overwrite: replace what is there.
    """
    from pcs_ext.threed.triplane.generate import generate_3d

    written = generate_3d(
        generator,
        output,
        seed=seed,
        truncation=truncation,
        frames=frames,
        side=side,
        viewer=viewer,
        overwrite=overwrite,
    )
    for path in written:
        sys.stdout.write(f"{path}\n")
