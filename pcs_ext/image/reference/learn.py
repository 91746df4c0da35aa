"""Train a reference adapter on a folder of pairs, for any base and image encoder."""

import dataclasses
import shutil
from pathlib import Path

from pcs_ext.config_io import check_place, config_hash, file_sha256, from_jsonable, read_json, to_jsonable
from pcs_ext.errors import ArtifactError, Interrupted, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.learn import AUTOCAST
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import ReferenceConfig, encoder_folder, save_adapter
from pcs_ext.image.reference.ip_adapter import IPAdapter
from pcs_ext.image.reference.pairs import encode_subjects, read_subjects
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.types import ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter


def learn_reference(
    pairs: Path,
    output: Path,
    *,
    base: str = "toybox",
    encoder: str = "",
    steps: int | None = None,
    config: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train IP-Adapter on pairs of pictures; checkpoints live in `OUTPUT.training/`, and the same call goes on there.

    Args:
        pairs: a folder with a subfolder for each subject, two photos or more in each, a caption beside every photo.
        output: folder of the adapter, readable by diffusers' `load_ip_adapter`, too.
        base: toybox, a hub id, a diffusers folder or a file; it stays frozen.
        encoder: `toybox/NAME`, a transformers folder or hub id; empty: `toybox/dino`, for toybox alone.
        steps: optimiser steps; None takes the settings'.
        config: `ReferenceTraining` as JSON.
        seed: of everything random.
        device: auto, cuda, mps or cpu.
        precision: of the base's weights: auto, fp32, bf16 or fp16; the adapter trains in float32.
        overwrite: replace an existing output.
        reporter: hears the progress.

    Raises:
        PhotoError, ModelError, ConfigError, ArtifactError: before any training, with what to do.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    if output.exists() and not overwrite:
        raise ArtifactError(f"{output} exists already; choose another --output or pass --overwrite to replace it.")
    check_place(output)
    settings = ReferenceTraining() if config is None else from_jsonable(ReferenceTraining, read_json(config))
    settings = settings if steps is None else dataclasses.replace(settings, steps=steps)
    encoder = encoder or _toybox_encoder(base)
    subjects = read_subjects(pairs)
    backbone = load_backbone(base, device=device, precision=precision, reporter=reporter)
    reader = open_encoder(encoder_folder(encoder), "embedding", backbone.device)
    data = encode_subjects(subjects, backbone, reader, reporter)
    adapter = IPAdapter.begin(backbone, reader.width, tokens=settings.tokens, seed=seed)
    loss = ReferenceLoss(backbone, adapter, data, settings, reader.blank(data.features[:1])[0])
    hashes = [file_sha256(photo.path) for own in subjects for photo in own]
    known = [to_jsonable(settings), seed, backbone.fingerprint, reader.digest, hashes]
    training = CheckpointFolder(Path(f"{output}.training"), config_hash=config_hash(known))
    _train(loss, adapter, settings, FitConfig(steps=settings.steps, seed=seed, autocast=AUTOCAST[backbone.dtype]),
           training, reporter)  # fmt: skip
    said = ReferenceConfig(
        encoder=encoder,
        encoder_digest=reader.digest,
        base=backbone.name,
        base_fingerprint=backbone.fingerprint,
        family=backbone.family,
        steps=settings.steps,
    )
    save_adapter(adapter, said, output, half=False)
    shutil.rmtree(f"{output}.training", ignore_errors=True)
    reporter.event("learned", f"saved {output}", output=str(output))
    return output


def _train(
    loss: ReferenceLoss,
    adapter: IPAdapter,
    settings: ReferenceTraining,
    fitting: FitConfig,
    checkpoints: CheckpointFolder,
    reporter: Reporter,
) -> None:
    group = ParameterGroup(
        name="reference",
        parameters=tuple(adapter.parameters()),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    try:
        for state in fit(loss, [group], fitting, checkpoints=checkpoints):
            reporter.progress("learn reference", state.step, state.total_steps, loss=state.losses["total"])
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was learned so far is saved. The same command goes on.") from None


def _toybox_encoder(base: str) -> str:
    if base != "toybox":
        raise UsageError(
            f"--encoder is needed for {base}: the folder or hub id of a CLIP, DINO, ViT or ResNet that sees such "
            "photos as the base draws, for instance openai/clip-vit-large-patch14."
        )
    return "toybox/dino"
