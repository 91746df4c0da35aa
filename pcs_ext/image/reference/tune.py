"""Tune a trained reference adapter to one subject in a few steps (E4T, arXiv 2302.12228, section 4.3).

What is known of all subjects is the beginning, and all of it learns on the subject's own photos: the adapter's networks
and its weights in the base, of E4T the whole denoiser, too. The result is an adapter of its own, for that subject.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from pcs_ext.config_io import check_output, config_hash
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import fill
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.albums import Subjects
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.files import open_adapter, read_settings, save_adapter, weights_digest
from pcs_ext.image.reference.kinds import KindConfig
from pcs_ext.image.reference.learn import blank_of, train_stages
from pcs_ext.image.reference.pairs import PairData, encode_subjects
from pcs_ext.image.reference.systems.dreamtuner import DreamTunerConfig
from pcs_ext.image.reference.systems.e4t import E4TConfig
from pcs_ext.image.reference.systems.profusion import ProFusionConfig
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.reporter import Reporter, SilentReporter

TUNING_WEIGHT = 0.1
"""Of E4T's word offset while it is tuned (a public port's)."""


def tune_reference(
    adapter: Path,
    photos: Path | str | Sequence[Path | str],
    output: Path,
    *,
    noun: str,
    steps: int = 15,
    batch_size: int = 16,
    learning_rate: float = 1e-5,
    seed: int = 0,
    base: str = "",
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Go on training a folder of `reference learn` on photos of one subject; resumable like that.

    Args:
        adapter: that folder, of a system that reads a noun.
        photos: of the subject, one or more: each is shown and drawn.
        output: folder of the tuned adapter, which is shown the same photos afterwards.
        noun: the subject's class word.
        steps: of the optimiser; fewer than 15 are enough in the paper.
        batch_size: noisy copies of the photos in each.
        learning_rate: of everything. Ours: the paper's is not known here.
        seed: of everything random.
        base: the base it was trained on; empty: as the folder says.
        device: auto, cuda, mps or cpu.
        precision: of the base's weights.
        overwrite: replace an existing output.
        reporter: hears the progress.

    Raises:
        UsageError, PhotoError, ModelError, ArtifactError: before any training, with what to do.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    _check_output(output, adapter, overwrite)
    if min(steps, batch_size) < 1 or learning_rate <= 0:
        raise ConfigError("steps and batch_size must be at least 1 and learning_rate above 0.")
    caption = fill("a photo of {subject}", noun)
    given = [photo.but(caption=caption) for photo in find_photos(photos)]
    settings = read_settings(adapter)
    backbone = load_backbone(base or settings.base, device=device, precision=precision, reporter=reporter)
    opened = open_adapter(backbone, str(adapter))
    made, reader = opened.adapter, opened.encoder
    if not made.asks_noun or settings.adapter is None or made.sees == "nothing":
        raise UsageError(
            f"{adapter} is of {settings.kind}, which has no word for a subject to tune; `pcs-ext learn` learns a "
            "subject in any base, and pictures are shown beside it."
        )
    kind = _opened_up(made, settings.adapter)
    subjects = [Subjects(tuple(given), (noun,))]
    data = _same(encode_subjects(subjects, backbone, reader, reporter, cut=made.cuts, latents_too=made.asks_latents))
    training = ReferenceTraining(
        adapter=kind, steps=steps, batch_size=batch_size, learning_rate=learning_rate, drop_image=0.0, drop_text=0.0,
        drop_both=0.0,
    )  # fmt: skip
    loss = ReferenceLoss(backbone, made, data, training, blank_of(data, reader), encoder=reader)
    known = [
        weights_digest(adapter),
        backbone.fingerprint,
        reader.digest,
        [photo.digest for photo in given],
        noun,
        steps,
        batch_size,
        learning_rate,
        seed,
    ]
    with made.inserted(backbone):
        folder, stages = Path(f"{output}.training"), made.tuning_stages
        train_stages(loss, training, seed, folder, config_hash(known), reporter, stages)
    fingerprint, total = backbone.fingerprint, settings.steps + steps
    tuned = dataclasses.replace(settings, adapter=made.located(kind), base_fingerprint=fingerprint, steps=total)
    save_adapter(made, tuned, output, half=False)
    shutil.rmtree(f"{output}.training", ignore_errors=True)
    reporter.event("tuned", f"saved {output}", output=str(output))
    return output


def _check_output(output: Path, adapter: Path, overwrite: bool) -> None:
    check_output(output, overwrite)
    if output.resolve() == adapter.resolve():
        raise UsageError(f"--output {output} is the adapter itself; tuning makes another one. Choose another --output.")


def _opened_up(made: AbstractReferenceAdapter, kind: KindConfig) -> KindConfig:
    """Let all of an adapter learn, of some systems the whole denoiser, too; its settings then."""
    if isinstance(kind, (E4TConfig, ProFusionConfig, DreamTunerConfig)) and not kind.denoiser:
        kind = dataclasses.replace(kind, denoiser=True)
        if isinstance(kind, E4TConfig):
            kind = dataclasses.replace(kind, offset_weight=TUNING_WEIGHT)
        made.config = kind  # type: ignore[assignment]
        made.inside = (*made.inside, FullAdapter("reference", FullConfig(components=("denoiser",))))
    made.float().requires_grad_(True)
    return kind


def _same(data: PairData) -> PairData:
    """Every picture is shown beside itself: there may be one alone."""
    return dataclasses.replace(data, groups=[torch.tensor([row, row]) for row in range(len(data.latents))])
