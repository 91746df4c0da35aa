"""Commands for avatars: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Output = Annotated[Path, arg(aliases=["-o"])]


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
    of it mean nothing to the model.

    Args:
        output: folder of the model.
        preset: fast, to see that it works; balanced; or many steps.
        steps: 0 takes the preset's.
        seed: of everything random.
        config: a recipe as JSON.
        overwrite: replace the output.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.cli import console_reporter
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
    look: str = "a full body photo of {subject}",
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
    from pcs_ext.image.cli import console_reporter
    from pcs_ext.threed.avatar.avatar_job import AvatarOptions, pose_avatar

    options = AvatarOptions(
        pose=pose,
        look=look,
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
