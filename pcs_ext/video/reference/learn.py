"""Train an adapter on a folder of clips that then shows a clip model photos of any subject."""

import dataclasses
import shutil
from pathlib import Path

from pcs_ext.config_io import check_place, config_hash, file_sha256, from_jsonable, read_json, to_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import encoder_folder, encoder_name, reading_of, save_adapter
from pcs_ext.image.reference.learn import blank_of, train_stages
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.reference import REFERENCES, ClipReferenceEntry
from pcs_ext.video.reference.clips import ClipSubject, encode_clip_subjects, read_clip_subjects
from pcs_ext.video.reference.files import ClipReferenceConfig
from pcs_ext.video.reference.kinds import ClipKindConfig, build_clip_adapter, clip_adapter_class
from pcs_ext.video.reference.tracks import digests
from pcs_ext.video.reference.training import ClipReferenceLoss, ClipReferenceTraining


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipReferenceRequest:
    """One call of `pcs-ext video learn-reference`."""

    clips: Path
    """A folder with a subfolder for each subject or style; see `read_clip_subjects`."""
    system: str = "id-animator"
    """A key of `REFERENCES`."""
    base: str = "toybox"
    """An image model; it stays frozen, but for weights that a system puts into it and that are stored with it."""
    motion_module: str | None = None
    """See `load_video_backbone`."""
    encoder: str = ""
    """`toybox/NAME`, a transformers folder or hub id; empty: the system's own, for toybox alone."""
    steps: int | None = None
    """Optimiser steps; None takes the settings'."""
    frames: int | None = None
    """Of a training clip; None takes the settings'."""
    config: Path | None = None
    """`ClipReferenceTraining` as JSON."""
    device: str = "auto"
    precision: str = "auto"

    @property
    def entry(self) -> ClipReferenceEntry:
        """Of the system.

        Raises:
            UsageError: there is none of that name.
        """
        if self.system not in REFERENCES:
            raise UsageError(f"--system {self.system} is not known; expected one of {', '.join(REFERENCES)}.")
        return REFERENCES[self.system]

    def settings(self) -> tuple[ClipReferenceTraining, ClipKindConfig]:
        """How is trained, and what.

        Raises:
            UsageError, ConfigError: the settings are of another system, or no settings.
        """
        entry = self.entry
        settings = entry.settings(self.base)
        if self.config is not None:
            settings = from_jsonable(ClipReferenceTraining, read_json(self.config), where=str(self.config))
            if settings.adapter is None:
                settings = dataclasses.replace(settings, adapter=entry.settings(self.base).adapter)
        asked = {"steps": self.steps, "frames": self.frames}
        settings = dataclasses.replace(settings, **{key: value for key, value in asked.items() if value is not None})
        assert settings.adapter is not None
        if settings.adapter.kind != entry.id:
            raise UsageError(
                f"{self.config} has an adapter of kind {settings.adapter.kind}, and --system is {entry.id}; expected "
                "the same."
            )
        return settings, settings.adapter

    def eye(self) -> str:
        """Name of the image encoder.

        Raises:
            UsageError: none was named, and the base has none of its own.
        """
        blind = clip_adapter_class(self.entry.adapter).blind
        if not self.encoder and self.base != "toybox" and not blind:
            raise UsageError(
                f"--encoder is needed for {self.base}: the folder or hub id of a CLIP, DINO or ViT that sees such "
                "photos as the base draws, for instance openai/clip-vit-large-patch14."
            )
        return self.encoder or self.entry.toybox_encoder


def learn_clip_reference(
    request: ClipReferenceRequest,
    output: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train a system on clips; checkpoints live in `OUTPUT.training/`, and the same call goes on there.

    Args:
        request: what, and from what.
        output: folder of the adapter.
        seed: of everything random.
        overwrite: replace an existing output.
        reporter: hears the progress.

    Raises:
        PcsError: before any training, with what to do.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    if output.exists() and not overwrite:
        raise ArtifactError(f"{output} exists already; choose another --output or pass --overwrite to replace it.")
    check_place(output)
    settings, kind = request.settings()
    made_by, encoder = clip_adapter_class(kind), request.eye()
    subjects = read_clip_subjects(request.clips, asks_noun=made_by.asks_noun)
    backbone = load_video_backbone(
        request.base, request.motion_module, device=request.device, precision=request.precision, reporter=reporter
    )
    reader = open_encoder(encoder_folder(encoder), made_by.sees, backbone.device, depths=made_by.depths)
    adapter = build_clip_adapter(kind, backbone, reading_of(reader), seed=seed)
    if settings.masked and not adapter.tracking.masks:
        raise UsageError(f"masked is {settings.masked}, and {request.system} reads no masks of clips; set it to 0.")
    data = encode_clip_subjects(
        subjects, backbone, reader, reporter, frames=settings.frames, stride=settings.stride, cut=made_by.cuts,
        tracking=adapter.tracking, frozen=settings.frozen, pyramid=made_by.pyramid,
    )  # fmt: skip
    known = [request.system, to_jsonable(settings), seed, backbone.fingerprint, reader.digest, _told(subjects)]
    loss = ClipReferenceLoss(backbone, adapter, data, settings, blank_of(data, reader), encoder=reader)
    with adapter.inserted(backbone):
        train_stages(loss, settings, seed, Path(f"{output}.training"), config_hash(known), reporter)
    said = ClipReferenceConfig(
        kind=request.system,
        adapter=kind,
        encoder=encoder_name(encoder),
        encoder_digest=reader.digest,
        base=str(backbone.origin["base"]),
        motion_module=backbone.origin["motion_module"],
        base_fingerprint=backbone.fingerprint,
        family=backbone.family,
        steps=settings.steps,
    )
    save_adapter(adapter, said, output, half=False)
    shutil.rmtree(f"{output}.training", ignore_errors=True)
    reporter.event("learned", f"saved {output}", output=str(output))
    return output


def _told(subjects: list[ClipSubject]) -> list[list[object]]:
    """Everything that is learned from, as it was when the training began."""
    return [
        [
            own.noun,
            *[(file_sha256(clip.path), clip.prompt, *digests(clip.path)) for clip in own.clips],
            *[photo.digest for photo in own.photos],
        ]
        for own in subjects
    ]
