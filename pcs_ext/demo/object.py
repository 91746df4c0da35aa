"""The page's object: the learned subject as a mesh to turn, beside the toy itself."""

import dataclasses
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import file_sha256
from pcs_ext.demo.data import ShownObject
from pcs_ext.demo.numbers import seconds_text
from pcs_ext.demo.part import part, part_seconds
from pcs_ext.demo.wording import command, quoted
from pcs_ext.image.evaluate import ImageEncoder
from pcs_ext.image.evaluate.metrics import paired_similarity
from pcs_ext.image.subject import Artifact
from pcs_ext.page.pictures import webp_uri
from pcs_ext.reporter import Reporter
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.make import make_3d
from pcs_ext.threed.mesh import read_mesh
from pcs_ext.threed.mesh_views import render_mesh
from pcs_ext.threed.request import MakeOptions
from pcs_ext.threed.turntable import write_turntable
from pcs_ext.toybox.world.render import render
from pcs_ext.toybox.world.scene import Camera, Scene, SceneObject

FOLDER, PROMPT, METHOD = "object", "a photo of {subject}", "dreambooth3d"
_MODEL, _VIEWER = "object.glb", "object.html"
_FRAMES, _SIDE, _FPS = 24, 192, 12.0


def make_object(
    output: Path,
    subject: Path,
    photos: Sequence[Path],
    *,
    toy: SceneObject,
    encoder: ImageEncoder,
    resolution: int,
    options: MakeOptions,
    reporter: Reporter,
) -> ShownObject:
    """Make it, or take what an equal run made; the GLB, its viewer and both turntables lie in `OUTPUT/object/`.

    Args:
        output: folder of the demonstration.
        subject: folder of the learned subject.
        photos: what it was learned from.
        toy: what it is in truth.
        encoder: measures likeness.
        resolution: of the pictures that the encoder is shown.
        options: how it is made; its photos are put in.
        reporter: hears events and progress.
    """
    folder = output / FOLDER
    model = folder / _MODEL
    facts = {
        "subject": Artifact.load(subject).data.content_hash,
        "photos": sorted(file_sha256(path) for path in photos),
        "method": options.method,
        "effort": options.effort,
        "steps": options.steps,
        "seed": options.seed,
        "prompt": PROMPT,
    }
    with part(folder, facts, reporter) as watch:
        if not model.is_file():
            make_3d(subject, PROMPT, model, dataclasses.replace(options, photos=tuple(photos)), reporter=watch)
    mesh, views = read_mesh(model), ring(_FRAMES)
    made, true = render_mesh(mesh, views, _SIDE, _SIDE), _true_views(toy)
    for name, frames in (("made", made), ("true", true)):
        write_turntable(folder / f"{name}.webp", frames, _FPS)
    return ShownObject(
        method=options.method,
        text=PROMPT,
        model=f"{FOLDER}/{_MODEL}",
        viewer=f"{FOLDER}/{_VIEWER}",
        made=f"{FOLDER}/made.webp",
        true=f"{FOLDER}/true.webp",
        faces=len(mesh.faces),
        likeness=_likeness(encoder, made, true, resolution),
        seconds=part_seconds(folder),
    )


def _true_views(toy: SceneObject) -> Tensor:
    """The toy over white, `b 3 h w` in [0, 1], from the cameras that the object is seen from."""
    views = ring(_FRAMES)
    places = [
        Camera(azimuth=a, elevation=e) for a, e in zip(views.azimuth.tolist(), views.elevation.tolist(), strict=True)
    ]
    shown = render([Scene(objects=(toy,), camera=place) for place in places], resolution=_SIDE)
    cover = shown.coverage[:, None]
    return (shown.rgb * 0.5 + 0.5) * cover + (1 - cover)


@torch.inference_mode()
def _likeness(encoder: ImageEncoder, made: Tensor, true: Tensor, resolution: int) -> float:
    """Mean cosine of equal views."""
    size = (resolution, resolution)
    features = [
        encoder.encode_images(F.interpolate(frames, size, mode="bilinear", antialias=True) * 2 - 1)
        for frames in (made, true)
    ]
    return float(paired_similarity(*features).mean())


def object_section(shown: ShownObject, folder: Path, name: str) -> str:
    """Both turntables, and a button that opens the object to turn it."""
    inside = escape((folder / shown.viewer).read_text(encoding="utf-8"), quote=True)
    make = f"pcs-ext 3d make {name.lower()} {quoted(shown.text)} --photos PHOTOS -o {name.lower()}.glb"
    button = '<button type="button" class="go" data-opens="turn" hidden>Turn it</button>'
    plates = "".join(
        f'<figure class="plate"><div class="around-flat"><img src="{webp_uri(folder / path)}" width="{_SIDE}" '
        f'height="{_SIDE}" alt="{label}, turning" loading="lazy" decoding="async">{extra}</div>'
        f"<figcaption><b>{label}</b> {text}</figcaption></figure>"
        for path, label, text, extra in (
            (shown.made, f"{name}, as an object", f"{shown.faces:,} faces", button),
            (shown.true, f"{name} itself", "rendered; no such turn was ever shown to the model", ""),
        )
    )
    return (
        f'<h2 id="object-title">{name} to turn</h2>'
        f'<p class="soft">A mesh made from the photos and the learned subject ({escape(shown.method)}, with few steps, '
        f"unselected). Seen from all around, its likeness to the toy itself is {shown.likeness:.2f}; 1 is the same. "
        f"{seconds_text(shown.seconds)}.</p>"
        f'<div class="plates clips">{plates}</div>'
        f"{command(make)}"
        f'<p class="small soft">The viewer alone: <code>{escape(shown.viewer)}</code>; the model: '
        f"<code>{escape(shown.model)}</code></p>"
        '<dialog id="turn" class="inside" aria-label="Object"><form method="dialog"><button class="close" '
        f'aria-label="Close">×</button></form><iframe title="{escape(name)}" loading="lazy" srcdoc="{inside}">'
        "</iframe></dialog>"
    )
