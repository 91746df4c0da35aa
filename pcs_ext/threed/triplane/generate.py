"""`3d generate`: an object of a generator as a mesh, a turntable or a sheet of views."""

from pathlib import Path

import torch

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import UsageError
from pcs_ext.runtime import generator_for
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.export import colors_for, finished_mesh, write_with_page
from pcs_ext.threed.mesh import WRITTEN, MeshConfig
from pcs_ext.threed.outputs import free_outputs
from pcs_ext.threed.shapes import shape_views
from pcs_ext.threed.triplane.generator_job import load_generator
from pcs_ext.threed.triplane.networks import Generator, TriplaneField
from pcs_ext.threed.turntable import KINDS, sheet, write_turntable

_AVERAGED = 256
"""Styles whose mean truncation pulls to."""
_MESH = MeshConfig(resolution=64, threshold=5.0, relative=0.2)


@torch.no_grad()
def drawn_field(generator: Generator, seed: int, truncation: float = 1.0) -> TriplaneField:
    """The object of a seed.

    Args:
        generator: trained.
        seed: of its style.
        truncation: how far from the mean style, in [0, 1]: 0 is the mean itself (arXiv 1812.04948, sec. 3.1).
    """
    latent = generator.settings.latent
    w = generator.styled(torch.randn(1, latent, generator=generator_for(seed, "style")))
    if truncation < 1:
        many = torch.randn(_AVERAGED, latent, generator=generator_for("mean style"))
        w = generator.styled(many).mean(0, keepdim=True).lerp(w, truncation)
    return generator.field(generator.planes(w)[0])


def generate_3d(
    folder: Path,
    output: Path,
    *,
    seed: int = 0,
    truncation: float = 0.7,
    frames: int = 48,
    side: int = 128,
    viewer: bool = True,
    overwrite: bool = False,
) -> list[Path]:
    """Write an object of a generator.

    Args:
        folder: of the generator.
        output: .glb, .obj, .ply or .usdz: a mesh; .mp4, .webp or .gif: a turn around it; .png: a sheet of eight views.
        seed: of the object.
        truncation: how far from the mean object, in [0, 1].
        frames: of a turn.
        side: of views, pixels.
        viewer: write a page beside a GLB.
        overwrite: replace what is there.

    Returns:
        What was written.

    Raises:
        UsageError: numbers out of range, or nothing of the object is dense enough for a mesh.
        InputError: no generator there.
    """
    colors, endings = colors_for(output, "auto"), (*WRITTEN, *KINDS, "png")
    outputs = free_outputs(output, endings, viewer=viewer, textured=colors != "vertex", overwrite=overwrite)
    if not 0 <= truncation <= 1 or frames < 1 or not 16 <= side <= 2048:
        raise UsageError(
            f"expected a truncation in [0, 1], at least 1 frame and views of 16 to 2048 pixels, got {truncation}, "
            f"{frames} and {side}."
        )
    field = drawn_field(load_generator(folder)[0], seed, truncation)
    kind = output.suffix.lower().lstrip(".")
    if kind in WRITTEN:
        return write_with_page(finished_mesh(field, _MESH, colors), outputs)
    count = 8 if kind == "png" else frames
    seen = shape_views(field, ring(count, target=field.bounds.center), side, samples=64)
    if kind == "png":
        atomic_write_bytes(output, sheet(seen, columns=count))
    else:
        write_turntable(output, seen)
    return [output]
