"""`pcs-ext censor`: from folders and names to a censored folder and its measured effect."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pcs_ext.config_io import to_jsonable
from pcs_ext.defense.censorship.censor import censor, target_picture
from pcs_ext.defense.censorship.measure import CensorReport, Measure
from pcs_ext.defense.censorship.method import Censorship
from pcs_ext.defense.censorship.recipes import RECIPES
from pcs_ext.defense.censorship.training import without_subject
from pcs_ext.defense.evaluation import load_judge
from pcs_ext.defense.targets import target_image
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter


def censor_folder(
    source: Path,
    output: Path,
    *,
    triggers: Sequence[str],
    target: str,
    picture: Path | None = None,
    recipe: str = "censor-predictions",
    base: str = "",
    encoder: Path | None = None,
    steps: int = 0,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter,
) -> CensorReport:
    """Censor the artifact in `source`, write it to `output` with the measured effect among its training facts. Until
    then checkpoints lie in `OUTPUT.work`.

    Raises:
        Interrupted: Ctrl-C; the same call goes on.
        UsageError: the output exists, the recipe is unknown or shows no picture, steps are negative, or no judge for
            this base.
        ArtifactError: `source` is no learned subject.
        PhotoError: `picture` cannot be read.
    """
    if output.exists():
        raise UsageError(f"{output} exists; censor never overwrites a subject. Give -o a new folder.")
    if recipe not in RECIPES or steps < 0:
        raise UsageError(f"expected a recipe of {', '.join(RECIPES)} and steps from 0; got {recipe!r} and {steps}.")
    if picture is not None and RECIPES[recipe].build("toybox").route == "text":
        raise UsageError(f"{recipe} leads to a caption and has no picture; leave --picture out or take another recipe.")
    artifact = Artifact.load(source)
    judge = load_judge(base or artifact.data.base_name, encoder)
    backbone = artifact.backbone(base or None, device=device, precision=precision)
    method = RECIPES[recipe].build(preset_of(backbone))
    if steps:
        method = method.lasting(steps)
    shown = _shown(method, artifact, backbone, target, picture, seed)
    work = output.with_name(f"{output.name}.work")
    censored = censor(
        artifact, backbone, method, triggers=triggers, target=target, picture=shown, seed=seed, folder=work,
        reporter=reporter,
    )  # fmt: skip
    report = Measure(backbone, judge, artifact, triggers, without_subject(target), picture=shown)(censored)
    facts = {**censored.data.training["censorship"], "measured": to_jsonable(report)}
    data = dataclasses.replace(censored.data, training={**censored.data.training, "censorship": facts})
    data.save(output)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _shown(
    method: Censorship, artifact: Artifact, backbone: AbstractBackbone, target: str, picture: Path | None, seed: int
) -> Tensor | None:
    """What triggered prompts shall give, `3 h w`: the user's picture, the base's, or none where a caption decides."""
    if method.route == "text":
        return None
    if picture is not None:
        return target_image(str(picture), backbone.resolution)
    return target_picture(artifact, backbone, target, seed=seed)
