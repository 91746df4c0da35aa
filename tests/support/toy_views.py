"""True views of one of the world's subjects, over white, with their cameras."""

import torch
from torch import Tensor

from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.cameras import Cameras, orbit
from pcs_ext.toybox.world.render import Rendered, render
from pcs_ext.toybox.world.scene import Camera, Scene
from pcs_ext.toybox.world.subjects import SUBJECTS


def toy_views(subject: str, count: int, resolution: int, seed: int) -> tuple[Cameras, Tensor, Rendered]:
    """Cameras, pictures `b 3 h w` in [0, 1] over white, and the world's truth."""
    law = CameraLaw(elevation=(-5, 60), distance=(5.2, 5.2), fov=(32, 32))
    drawn = draw_cameras(law, count, torch.Generator().manual_seed(seed))
    views = [
        Camera(azimuth=a, elevation=e) for a, e in zip(drawn.azimuth.tolist(), drawn.elevation.tolist(), strict=True)
    ]
    truth = render([Scene(objects=(SUBJECTS[subject],), camera=view) for view in views], resolution=resolution)
    cover = truth.coverage[:, None]
    cameras = orbit(drawn.azimuth, drawn.elevation, [5.2] * count, [32.0] * count, (0.0, 0.0, 0.75))
    return cameras, (truth.rgb * 0.5 + 0.5) * cover + (1 - cover), truth
