"""The page's panorama: the learned subject on a beach, all around, to look around in without a network."""

from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pcs_ext.demo.data import ShownPanorama
from pcs_ext.demo.numbers import seconds_text
from pcs_ext.demo.part import part, part_seconds
from pcs_ext.demo.wording import command, quoted
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.subject import Artifact
from pcs_ext.page.pictures import data_uri
from pcs_ext.reporter import Reporter
from pcs_ext.svg.panorama.make import default_config, make_panoramas, own_look
from pcs_ext.svg.panorama.seams import seam_ratio
from pcs_ext.svg.panorama.viewer import write_viewer

FOLDER, PROMPT = "panorama", "a photo of {subject} on the beach"
_PICTURE, _VIEWER = "panorama.png", "panorama.html"
_SIDE = 384
_FOV = 115.0
"""Of the viewer: the panorama has few pixels."""


def make_panorama(
    output: Path, artifact: Artifact, backbone: AbstractBackbone, *, name: str, seed: int, reporter: Reporter
) -> ShownPanorama:
    """Make it, or take what an equal run made; the picture and a viewer of its own lie in `OUTPUT/panorama/`."""
    folder = output / FOLDER
    picture = folder / _PICTURE
    look = own_look(backbone.name)
    facts = {"artifact": artifact.data.content_hash, "base": backbone.fingerprint, "prompt": PROMPT, "seed": seed,
             "look": None if look is None else look.data.content_hash}  # fmt: skip
    with part(folder, facts, reporter) as watch:
        if not picture.is_file():
            config = default_config([artifact] if look is None else [look, artifact])
            make_panoramas(PROMPT, picture, subject=artifact, look=look, base=backbone, seeds=[seed], config=config,
                           reporter=watch)  # fmt: skip
        write_viewer(picture, folder / _VIEWER, title=PROMPT.replace("{subject}", name), fov=_FOV)
    levels = np.array(Image.open(picture).convert("RGB"), dtype=np.float32)
    seam = seam_ratio(torch.from_numpy(levels).permute(2, 0, 1)[None]).item()
    return ShownPanorama(
        picture=f"{FOLDER}/{_PICTURE}",
        viewer=f"{FOLDER}/{_VIEWER}",
        text=PROMPT,
        seam=seam,
        seconds=part_seconds(folder),
    )


def panorama_section(shown: ShownPanorama, folder: Path, name: str) -> str:
    """The whole panorama, and a button that opens it to look around in."""
    text = escape(shown.text).replace("{subject}", name)
    inside = escape((folder / shown.viewer).read_text(encoding="utf-8"), quote=True)
    return (
        '<div class="beside"><div>'
        f'<h2 id="panorama-title">Look around {name}</h2>'
        f'<p class="soft">“{text}”, all around: denoised as a ring, so that the ends meet. '
        f"Across the seam pixels differ {shown.seam:.1f} times as much as neighbours do elsewhere. "
        f"{seconds_text(shown.seconds)}.</p>"
        f"{command(f'pcs-ext panorama make {quoted(shown.text)} --subject FOLDER -o beach.jpg')}"
        f'<p class="small soft">The viewer alone: <code>{escape(shown.viewer)}</code></p></div>'
        f'<div class="around-flat"><img src="{data_uri(folder / shown.picture, side=_SIDE)}" '
        f'alt="{text}, a 360 degree panorama laid flat" loading="lazy" decoding="async">'
        '<button type="button" class="go" data-opens="around" hidden>Look around</button></div></div>'
        '<dialog id="around" class="inside" aria-label="Panorama"><form method="dialog"><button class="close" '
        f'aria-label="Close">×</button></form><iframe title="{text}" loading="lazy" srcdoc="{inside}"></iframe>'
        "</dialog>"
    )
