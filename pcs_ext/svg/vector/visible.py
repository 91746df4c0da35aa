"""What is seen of every path: its own coverage, less what the paths above it hide."""

import torch
from torch import Tensor

from pcs_ext.errors import ResourceError
from pcs_ext.svg.vector.render import layers_of
from pcs_ext.svg.vector.scene import Scene

_MOST_VALUES = 256_000_000


def visible_coverage(scene: Scene, height: int, width: int) -> Tensor:
    """Share of every pixel that shows each path, `p h w` in [0, 1]; with the background's share they sum to 1.

    Args:
        scene: of `p` paths; a path's fill and stroke count together.
        height: pixels.
        width: pixels.

    Not differentiable.

    Raises:
        ResourceError: too many paths for that canvas.
    """
    if len(scene.paths) * height * width > _MOST_VALUES:
        raise ResourceError(
            f"{len(scene.paths)} paths on {width} x {height} pixels need too much memory; "
            f"expected at most {_MOST_VALUES // 1_000_000} million values. Use a smaller side."
        )
    seen = torch.zeros(len(scene.paths), height, width)
    with torch.no_grad():
        layers = layers_of(scene, height, width)
        through = torch.ones(height, width)
        for index in range(len(layers.paints) - 1, -1, -1):
            top, left, rows, columns = layers.coverage.boxes[index]
            box = slice(top, top + rows), slice(left, left + columns)
            alpha = (layers.coverage.layer(index) * layers.paints[index].opacity).float()
            seen[layers.owners[index]][box] += alpha * through[box]
            through[box] *= 1 - alpha
    return seen
