"""Avatar jobs at a size of seconds, on a tiny base."""

from pathlib import Path
from typing import Any

from pcs_ext.config_io import write_json
from pcs_ext.image.fit import FitConfig
from pcs_ext.reporter import Reporter
from pcs_ext.threed.avatar.avatar_job import AvatarOptions, Posed, pose_avatar
from pcs_ext.threed.avatar.pose_model import PoseModelConfig
from pcs_ext.threed.avatar.pose_set import PoseSetConfig
from pcs_ext.threed.avatar.pose_training import PosesLearned, PoseStage, learn_poses
from pcs_ext.threed.avatar.view_painting import PaintingConfig
from pcs_ext.threed.recipes import GeneratorRecipe, PosedRecipe
from pcs_ext.threed.triplane.gan_stage import GanStage
from pcs_ext.threed.triplane.generator_job import GeneratorOptions, learn_generator
from pcs_ext.threed.triplane.networks import Generator, GeneratorConfig
from pcs_ext.threed.triplane.view_data import ViewDataConfig
from tests.support.small_jobs import HERE, Learned


def pose_stage() -> PoseStage:
    """Six steps of a tiny model."""
    return PoseStage(
        model=PoseModelConfig(width=16, layers=1, heads=2, timesteps=50),
        poses=PoseSetConfig(captions=12),
        fit=FitConfig(steps=6, ema_decay=0.9, checkpoint_every_steps=1, checkpoint_every_seconds=None),
        batch_size=4,
    )


def learn(folder: Path, *, reporter: Reporter | None = None) -> PosesLearned:
    """`learn_poses` of it into `folder/poses`."""
    return learn_poses(folder / "poses", pose_stage(), reporter=reporter)


def pose(learned: Learned, folder: Path, *, reporter: Reporter | None = None, **changes: Any) -> Posed:
    """`pose_avatar` on a coarse body with two pictures, into `folder/rex.glb`."""
    if not (folder.parent / "poses").exists():
        learn(folder.parent)
    painting = PaintingConfig(views=((0.0, 5.0), (180.0, 5.0)), strength=0.8)
    recipe = PosedRecipe(id="pas", poses=pose_stage(), pose_steps=4, body=28, painting=painting)
    write_json(folder / "pas.json", recipe)
    settings: dict[str, Any] = {"config": folder / "pas.json", **HERE, **changes}
    prompt, poses = settings.pop("prompt", "a photo of {subject} sitting"), folder.parent / "poses"
    return pose_avatar(learned.subject, prompt, poses, folder / "rex.glb", AvatarOptions(**settings), reporter=reporter)


def generator(learned: Learned, folder: Path, *, reporter: Reporter | None = None, **changes: Any) -> Generator:
    """`learn_generator` of three pictures and five steps into `folder/gen`."""
    gan = GanStage(
        generator=GeneratorConfig(latent=4, width=4, planes=2, resolution=8),
        fit=FitConfig(
            steps=5,
            optimizer="adam",
            betas=(0.0, 0.99),
            ema_decay=0.9,
            checkpoint_every_steps=1,
            checkpoint_every_seconds=None,
        ),
        side=8,
        samples=6,
        batch_size=2,
    )
    data = ViewDataConfig(count=3, attributes=("red", "old"), attributes_per_view=1)
    write_json(folder / "generator.json", GeneratorRecipe(id="styleavatar3d", data=data, gan=gan))
    settings: dict[str, Any] = {"config": folder / "generator.json", "shape": learned.mesh, **HERE, **changes}
    options = GeneratorOptions(**settings)
    return learn_generator(learned.subject, "a photo of {subject}", folder / "gen", options, reporter=reporter)
