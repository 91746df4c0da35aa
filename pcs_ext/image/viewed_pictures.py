"""Pictures of a learned subject from given cameras (recipe `viewpoint-control`)."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import AdapterConfig
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.feature_field import FeatureFieldAdapter, FeatureFieldConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.cameras import Cameras, orbit, tilted, upward
from pcs_ext.image.subject import Artifact, GeneratedImage
from pcs_ext.image.transforms_json import read_transforms


def draw_viewed(
    subject: Artifact,
    prompts: Sequence[str],
    cameras: Cameras,
    *,
    seeds: Sequence[int],
    base: str | AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    **how: Any,
) -> list[GeneratedImage]:
    """For each camera, for each prompt, one image per seed, in that order.

    Args:
        subject: learned with cameras.
        prompts, base, device, precision: see `Artifact.generate`.
        cameras: from where, in the world of the photos' cameras.
        seeds: of the noise, the same for every camera.
        how: the other settings of `Artifact.generate`.

    Raises:
        UsageError: the subject was learned without cameras, or none is given.
    """
    field_of(subject)
    if not len(cameras):
        raise UsageError("no camera is given; say at least one azimuth, or a transforms.json with frames.")
    backbone = base if isinstance(base, AbstractBackbone) else subject.backbone(base, device=device,
                                                                               precision=precision)  # fmt: skip
    made: list[GeneratedImage] = []
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]

        def steering(
            adapters: Sequence[AbstractAdapter], camera: Cameras = camera
        ) -> contextlib.AbstractContextManager[Any]:
            stack = contextlib.ExitStack()
            for adapter in adapters:
                if isinstance(adapter, FeatureFieldAdapter):
                    stack.enter_context(adapter.viewing(camera))
            return stack

        facts = {"azimuth": float(camera.azimuth[0]), "elevation": float(camera.elevation[0])}
        images = subject.generate(prompts, seeds=seeds, base=backbone, steering=steering, **how)
        made += [dataclasses.replace(image, facts={**image.facts, **facts}) for image in images]
    return made


def field_of(subject: Artifact) -> FeatureFieldAdapter:
    """The subject's field with its views, in no backbone.

    Raises:
        UsageError: it was learned without cameras.
    """
    for name, value in subject.data.adapters.items():
        settings = from_jsonable(AdapterConfig, value, where=f"adapter {name!r}")
        if isinstance(settings, FeatureFieldConfig):
            adapter = FeatureFieldAdapter(name, settings)
            stored = subject.data.tensors_of(name)
            adapter.kept = {key: tensor for key, tensor in stored.items() if key.startswith("views.")}
            return adapter
    raise UsageError(
        f"this subject was learned by {subject.data.recipe['id']}, which knows no cameras; learn it with --recipe "
        "viewpoint-control from posed photos."
    )


def around(
    subject: Artifact, azimuths: Sequence[float], elevation: float | None = None, distance: float | None = None
) -> Cameras:
    """Cameras about the subject, upright, with the lens of its photos.

    Args:
        subject: learned with cameras.
        azimuths: degrees; 0 looks along +y, which is at the front of what faces -y. Where up is not the world's z, the
            world is thought to be turned there the shortest way.
        elevation: degrees above the horizon, which lies across the photos' up (`cameras.upward`), wherever that is in
            their world; None: the photos' mean.
        distance: from the subject's middle, times the photos' mean; None: 1.

    Raises:
        UsageError: see `field_of`; or an angle or a distance out of range.
    """
    adapter = field_of(subject)
    return around_as(adapter.cameras, adapter.ball[0], azimuths, elevation, distance)


def around_as(
    known: Cameras,
    center: torch.Tensor,
    azimuths: Sequence[float],
    elevation: float | None = None,
    distance: float | None = None,
) -> Cameras:
    """Cameras about a point `3` like those that are known of it. The other arguments, and errors: see `around`."""
    up, offsets = upward(known), known.positions - center
    lengths = offsets.norm(dim=1)
    mean = float(torch.rad2deg(torch.asin((offsets @ up / lengths).clamp(-1, 1))).mean())
    count = len(azimuths)
    cameras = orbit(
        list(azimuths), [mean if elevation is None else elevation] * count,
        [float(lengths.mean()) * (1.0 if distance is None else distance)] * count, [float(known.fov.mean())] * count,
    )  # fmt: skip
    return tilted(cameras, up, center)


def cameras_of(file: Path) -> Cameras:
    """Those of a `transforms.json`, in the world of the photos."""
    return read_transforms(file)[0]
