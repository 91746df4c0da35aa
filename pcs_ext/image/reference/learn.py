"""Train a reference adapter on a folder of pairs, for any base and image encoder."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcs_ext.config_io import check_output, config_hash, file_sha256, from_jsonable, read_json, to_jsonable
from pcs_ext.errors import Interrupted, PhotoError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.data import Photo
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.learn import AUTOCAST
from pcs_ext.image.loss_log import LossReport
from pcs_ext.image.reference import REFERENCES, ReferenceEntry
from pcs_ext.image.reference.albums import Subjects, read_subjects
from pcs_ext.image.reference.base import AbstractReferenceAdapter, TrainingStage
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.files import ReferenceConfig, encoder_folder, encoder_name, reading_of, save_adapter
from pcs_ext.image.reference.kinds import KindConfig, adapter_class, build_adapter
from pcs_ext.image.reference.latents import OWN, open_eye
from pcs_ext.image.reference.maps import MapKinds, albums_of_maps, check_maps, map_file
from pcs_ext.image.reference.pairs import PairData, encode_subjects
from pcs_ext.image.reference.retrieve import retrieved_groups
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.reference.style_space import check_named, codes_file
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceSchedule, ReferenceTraining
from pcs_ext.image.reference.views import read_views
from pcs_ext.image.types import ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter


def learn_reference(
    pairs: Path,
    output: Path,
    *,
    system: str = "ip-adapter",
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
    """Train a system on pairs of pictures; checkpoints live in `OUTPUT.training/`, and the same call goes on there.

    Args:
        pairs: a folder with a subfolder for each subject, in each two photos or more with captions beside them;
            see `read_subjects` for nouns and masks.
        output: folder of the adapter; an IP-Adapter's is readable by diffusers' `load_ip_adapter`, too.
        system: a key of `REFERENCES`.
        base: toybox, a hub id, a diffusers folder or a file; it stays frozen, but for weights that a system puts into
            it and that are stored with the adapter.
        encoder: `toybox/NAME`, a transformers folder or hub id; empty: the system's own, for toybox alone.
        steps: optimiser steps; None takes the settings'.
        config: `ReferenceTraining` as JSON.
        seed: of everything random.
        device: auto, cuda, mps or cpu.
        precision: of the base's weights: auto, fp32, bf16 or fp16; the adapter trains in float32.
        overwrite: replace an existing output.
        reporter: hears the progress.

    Raises:
        UsageError, PhotoError, ModelError, ConfigError, ArtifactError: before any training, with what to do.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    check_output(output, overwrite)
    entry = _entry(system)
    settings, kind = _settings(entry, base, config, steps)
    made_by = adapter_class(kind)
    maps = made_by.reads_maps(kind)
    encoder = OWN if made_by.sees in ("latents", "nothing") else encoder or _toybox_encoder(base, entry)
    subjects = _albums(pairs, made_by, maps, system, reporter)
    backbone = load_backbone(base, device=device, precision=precision, reporter=reporter)
    reader = open_eye(encoder_folder(encoder), made_by, backbone)
    check_named(reader)
    data = _encoded(subjects, backbone, reader, made_by, maps, reporter)
    adapter = build_adapter(kind, backbone, reading_of(reader), seed=seed)
    told: list[Any] = [[own.nouns, *[photo.digest for photo in own.photos]] for own in subjects]
    told += [_map_digests(own.photos, maps) for own in subjects] if maps else []
    if data.views is not None:
        told.append(data.views.tolist())
    if made_by.sees == "codes":
        files = [codes_file(photo.path) for own in subjects for photo in own.photos]
        told.append([file_sha256(file) for file in files if file.is_file()])
    known = [system, to_jsonable(settings), seed, backbone.fingerprint, reader.digest, adapter.elsewhere, told]
    loss = ReferenceLoss(backbone, adapter, data, settings, blank_of(data, reader), encoder=reader)
    with adapter.inserted(backbone):
        train_stages(loss, settings, seed, Path(f"{output}.training"), config_hash(known), reporter)
    said = ReferenceConfig(
        kind=system,
        adapter=made_by.located(kind),
        encoder=encoder_name(encoder),
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


def _albums(
    pairs: Path, made_by: type[AbstractReferenceAdapter], maps: MapKinds, system: str, reporter: Reporter
) -> list[Subjects]:
    """What lies in a folder, once all is found right that a system asks of it."""
    subjects = read_subjects(pairs, asks_noun=made_by.asks_noun, several=made_by.several)
    there = [photo.mask is not None for own in subjects for photo in own.photos]
    _check_masks(there, made_by, pairs, system)
    if any(there) and not all(there):
        lacking = f"{there.count(False)} of {len(there)} photos in {pairs} have no mask"
        reporter.event("masks-left-out", f"{lacking}: errors and attention count everywhere in all of them")
    if "photo" in maps:
        subjects += [
            dataclasses.replace(own, photos=album) for own in subjects for album in albums_of_maps(own.photos, maps)
        ]
    photos = [photo for own in subjects for photo in own.photos]
    check_maps(photos, maps, pairs)
    if made_by.asks_views:
        read_views([photo.path for photo in photos])
    return subjects


def _encoded(
    subjects: list[Subjects], backbone: AbstractBackbone, reader: PictureEncoder,
    made_by: type[AbstractReferenceAdapter], maps: MapKinds, reporter: Reporter,
) -> PairData:  # fmt: skip
    """All that a system is told of albums."""
    data = encode_subjects(
        subjects,
        backbone,
        reader,
        reporter,
        cut=made_by.cuts,
        scenes=made_by.asks_scene,
        details=made_by.details,
        latents_too=made_by.asks_latents,
        views=made_by.asks_views,
        maps=maps,
        whole=made_by.asks_target,
        styles=made_by.asks_style,
    )
    if not made_by.retrieves:
        return data
    groups = retrieved_groups([own[0] for own in data.captions], made_by.retrieves)
    return dataclasses.replace(data, groups=groups, nouns=(), leads=True)


def _entry(system: str) -> ReferenceEntry:
    if system not in REFERENCES:
        raise UsageError(f"--system {system} is not known; expected one of {', '.join(REFERENCES)}.")
    return REFERENCES[system]


def _settings(
    entry: ReferenceEntry, base: str, config: Path | None, steps: int | None
) -> tuple[ReferenceTraining, KindConfig]:
    """How is trained, and what."""
    settings = entry.settings(base)
    if config is not None:
        settings = from_jsonable(ReferenceTraining, read_json(config), where=str(config))
        if settings.adapter is None:
            settings = dataclasses.replace(settings, adapter=entry.settings(base).adapter)
    settings = settings if steps is None else dataclasses.replace(settings, steps=steps)
    assert settings.adapter is not None
    if settings.adapter.kind != entry.adapter.kind:
        raise UsageError(
            f"{config} has an adapter of kind {settings.adapter.kind}, and --system is {entry.id}; expected the same."
        )
    return settings, settings.adapter


def _check_masks(there: list[bool], made_by: type[AbstractReferenceAdapter], pairs: Path, system: str) -> None:
    if made_by.asks_masks and not all(there):
        raise PhotoError(
            f"{there.count(False)} of {len(there)} photos in {pairs} have no mask, and {system} learns with masks; put "
            "NAME_mask.png beside every photo, white where the subject is."
        )


def _map_digests(photos: Sequence[Photo], kinds: MapKinds) -> list[str]:
    files = [map_file(photo.path, kind) for photo in photos for kind in kinds]
    return ["" if file is None else file_sha256(file) for file in files]


def blank_of(data: PairData, reader: PictureEncoder) -> Sight:
    """How one picture looks when there is none."""
    parts = max((len(own) for own in data.nouns), default=1)
    one = data.sight.map(lambda known: known[:1].float())
    one = one if parts == 1 else one.map(lambda known: known[:, 0])
    return reader.blank_sight(one.map(lambda known: known.to(reader.device))).map(lambda known: known[0].cpu())


def train_stages(
    loss: ReferenceLoss,
    settings: ReferenceSchedule,
    seed: int,
    folder: Path,
    known: str,
    reporter: Reporter,
    stages: Sequence[TrainingStage] | None = None,
) -> None:
    """One part of the training after the other; those that are done are read from their last checkpoint.

    Args:
        loss: of the adapter, which is inserted into its backbone.
        settings: how.
        seed: of everything random.
        folder: of the checkpoints, a subfolder for each part.
        known: hash of all that must not change between start and resume.
        reporter: hears the progress.
        stages: the parts; None: the adapter's.

    Raises:
        Interrupted: Ctrl-C; what was done is saved.
    """
    adapter, backbone = loss.adapter, loss.backbone
    stages = adapter.stages if stages is None else stages
    adapter.train()
    for number, stage in enumerate(stages):
        adapter.begin_stage(stage.name)
        steps = max(1, round(stage.share * settings.steps))
        fitting = FitConfig(steps=steps, seed=seed + number, autocast=AUTOCAST[backbone.dtype])
        checkpoints = CheckpointFolder(folder / f"{number + 1}-{stage.name}", config_hash=known)
        title = "learn reference" if len(stages) == 1 else f"learn reference ({stage.name})"
        try:
            groups = parameter_groups(adapter, stage, settings)
            with LossReport(None, reporter, task=title, device=backbone.device) as report:
                for state in fit(loss, groups, fitting, checkpoints=checkpoints):
                    report.add(state)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; what was learned so far is saved. The same command goes on.") from None
    adapter.eval()


def parameter_groups(
    adapter: AbstractReferenceAdapter, stage: TrainingStage, settings: ReferenceSchedule
) -> list[ParameterGroup]:
    """What trains in a part of the training, and gradients for that alone."""
    network, base = settings.rates
    # What is in no group, a language model that stays as it is for one, has no gradients either.
    adapter.requires_grad_(False)
    found = {name: parameters for name, parameters in adapter.groups().items() if name in stage.trains and parameters}
    for name, parameters in adapter.groups().items():
        for parameter in parameters:
            parameter.requires_grad_(name in stage.trains)
    return [
        ParameterGroup(
            name=name,
            parameters=parameters,
            learning_rate=base if name == "base" else network,
            weight_decay=settings.weight_decay,
        )
        for name, parameters in found.items()
    ]


def _toybox_encoder(base: str, entry: ReferenceEntry) -> str:
    if entry.toybox_encoder and base != "toybox":
        raise UsageError(
            f"--encoder is needed for {base}: the folder or hub id of a CLIP, DINO, ViT or ResNet that sees such "
            "photos as the base draws, for instance openai/clip-vit-large-patch14."
        )
    if not entry.toybox_encoder:
        raise UsageError(
            f"--encoder is needed for {entry.id}: a style space, as `pcs-ext reference style-space PAIRS -o FOLDER` "
            "writes it; none ships."
        )
    return entry.toybox_encoder
