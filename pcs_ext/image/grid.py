"""Pictures as grids of regions."""

from torch import Tensor

from pcs_ext.errors import ConfigError


def divided(maps: Tensor, side: int) -> Tensor:
    """Maps `b c h w` -> their regions `(b side side) c h/side w/side`.

    Raises:
        ConfigError: they cannot be divided.
    """
    height, width = maps.shape[-2:]
    if height % side or width % side:
        raise ConfigError(
            f"maps of {height} x {width} cells cannot be divided into {side} x {side} regions; pack fewer photos into "
            "a picture."
        )
    rows = maps.unflatten(3, (side, width // side)).unflatten(2, (side, height // side))
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def joined(regions: Tensor, side: int) -> Tensor:
    """Inverse of `divided`."""
    rows = regions.unflatten(0, (-1, side, side)).permute(0, 3, 1, 4, 2, 5)
    return rows.flatten(4, 5).flatten(2, 3)
