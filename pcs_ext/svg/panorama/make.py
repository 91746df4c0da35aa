"""From prompts to panorama files, with a learned subject and a learned panorama look if wanted."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import TOYBOX_WEIGHTS, load_backbone
from pcs_ext.image.concept import SUBJECT, fill
from pcs_ext.image.levels import to_pil
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.svg.panorama.metadata import check_target, save_panorama
from pcs_ext.svg.panorama.sample import PanoramaConfig, sample_panoramas
from pcs_ext.svg.panorama.seams import seam_ratio


@dataclasses.dataclass(frozen=True)
class MadePanorama:
    """One file that was written."""

    path: Path
    prompt: str
    """As the model read it."""
    seed: int
    seam: float
    """`seam_ratio`: 1 is seamless."""


def make_panoramas(
    prompt: str,
    output: Path,
    *,
    subject: Artifact | None = None,
    look: Artifact | None = None,
    base: str | AbstractBackbone | None = None,
    seeds: Sequence[int] = (0,),
    config: PanoramaConfig | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[MadePanorama]:
    """Write one panorama per seed: `output` itself for one seed, else `NAME-SEED.ENDING`.

    Args:
        prompt: what is around; with `{subject}` where a learned subject goes.
        output: JPEG, PNG or WebP.
        subject: a learned subject.
        look: what the recipe `stitchdiffusion` learned from panoramas; its trigger phrase is put before the prompt.
        base: of the pictures; None: what the look or the subject was learned on, else toybox.
        seeds: at least one.
        config: how; None: the defaults, with the steps and guidance that the look or the subject was saved with.
        device, precision: as in `load_backbone`.
        reporter: hears the progress.

    Raises:
        UsageError: no seed, `{subject}` without a subject or the other way round, or another ending.
    """
    check_target(output)
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"expected one or more seeds, all different, got {list(seeds)}.")
    text = _text(prompt, subject, look)
    learned = [artifact for artifact in (look, subject) if artifact is not None]
    config = config or default_config(learned)
    name = base or (learned[0].data.base_name if learned else "toybox")
    backbone = name if isinstance(name, AbstractBackbone) else load_backbone(name, device=device, precision=precision)
    with contextlib.ExitStack() as stack:
        for artifact in learned:
            stack.enter_context(artifact.applied(backbone))
        with torch.inference_mode():
            pictures = sample_panoramas(backbone, [text] * len(seeds), seeds=seeds, config=config, reporter=reporter)
    made = []
    paths = panorama_files(output, seeds)
    for path, seed, picture, seam in zip(paths, seeds, pictures, seam_ratio(pictures).tolist(), strict=True):
        save_panorama(to_pil(picture), path)
        made.append(MadePanorama(path=path, prompt=text, seed=seed, seam=seam))
    return made


def panorama_files(output: Path, seeds: Sequence[int]) -> list[Path]:
    """What is written: `output` itself for one seed, else `NAME-SEED.ENDING`."""
    if len(seeds) == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{seed}{output.suffix}") for seed in seeds]


def _text(prompt: str, subject: Artifact | None, look: Artifact | None) -> str:
    if (SUBJECT in prompt) != (subject is not None):
        missing = "names {subject}, but none was given" if subject is None else "does not say where {subject} goes"
        raise UsageError(f"the prompt {prompt!r} {missing}; give both, or none of them.")
    text = prompt if subject is None else subject.concept.prompt(prompt)
    return text if look is None else f"{fill(SUBJECT, look.concept.name)}, {text}"


def own_look(base: str) -> Artifact | None:
    """What the embedded base has learned of panoramas; None: another base, whose looks users learn."""
    return Artifact.load(TOYBOX_WEIGHTS / "panorama") if base == "toybox" else None


def default_config(learned: Sequence[Artifact] = ()) -> PanoramaConfig:
    """Steps and guidance of the first artifact; the whole panorama at once if one was tuned on panoramas."""
    tuned = any(artifact.data.recipe["id"] == "stitchdiffusion" for artifact in learned)
    config = PanoramaConfig(window="wide" if tuned else "square")
    return dataclasses.replace(config, sampling=learned[0].sampling) if learned else config


def overridden(config: PanoramaConfig, **changes: Any) -> PanoramaConfig:
    """The configuration with the settings, its own or its sampling's, that are not None."""
    given = {name: value for name, value in changes.items() if value is not None}
    own = {field.name for field in dataclasses.fields(PanoramaConfig)}
    sampling = dataclasses.replace(config.sampling, **{k: v for k, v in given.items() if k not in own})
    return dataclasses.replace(config, sampling=sampling, **{k: v for k, v in given.items() if k in own})
