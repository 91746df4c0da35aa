"""What a denoiser learns beside denoising: which toy stands where, and which side of it is seen.

A caption's class and view change few pixels, so the denoising loss alone says little about them. A head on the
denoiser's inner features therefore reads maps whose truth the world knows (after REPA, arXiv 2410.06940, which aligns
inner features with an encoder's); it is thrown away when training ends.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.toybox.world.render import render_geometry
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.vocabulary import CLASSES

CHANNELS = len(CLASSES) + 3
_RAYS = 2
"""Per latent cell and side."""
_CENTRE = (0.0, 0.0, 1.0)
"""Middle of a toy in its own frame; toys reach about 1 from it."""


def scene_maps(scenes: Sequence[Scene], cells: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Truth of pictures of `cells * cells` cells.

    Returns:
        Share of every cell that toys cover, `b cells cells` in [0, 1]; and maps `b 15 cells/2 cells/2` in [-1, 1]: the
        share of every class, and the mean object coordinates from the toy's middle, 0 where no toy is.
    """
    seen = render_geometry(scenes, resolution=cells * _RAYS, device=device)
    classes = torch.full((len(scenes), max(len(scene.objects) for scene in scenes) + 1), -1)
    for row, scene in enumerate(scenes):
        classes[row, : len(scene.objects)] = torch.tensor([CLASSES.index(toy.class_name) for toy in scene.objects])
    # Row -1, where no toy is, reads the last column, which holds no class.
    kinds = torch.stack([row[ids] for row, ids in zip(classes.to(device), seen.object_ids, strict=True)])
    shares = torch.nn.functional.one_hot(kinds + 1, len(CLASSES) + 1)[..., 1:].permute(0, 3, 1, 2).float()
    centre = torch.tensor(_CENTRE, device=device)[:, None, None]
    points = (seen.object_coordinates - centre).clamp(-1, 1) * seen.mask[:, None]
    maps = torch.cat([shares, points], 1)
    coverage = torch.nn.functional.avg_pool2d(seen.mask.float()[:, None], _RAYS)[:, 0]
    return coverage, torch.nn.functional.avg_pool2d(maps, 2 * _RAYS)


def mirrored_maps(maps: Tensor, flipped: Tensor) -> Tensor:
    """Maps of pictures that are mirrored where `flipped` (`b` bool): every toy's left becomes its right."""
    other = maps.flip(-1)
    other[:, -3] = -other[:, -3]
    return torch.where(flipped[:, None, None, None], other, maps)


class WithGeometry(nn.Module):
    """A denoiser and the head that reads maps from its first upward block.

    Args:
        unet: of at least three levels; its first upward block ends at half the latents' resolution.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        width = unet.config.block_out_channels[-1]
        self.head = nn.Sequential(nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, CHANNELS, 1))
        self._features: list[Tensor] = []
        unet.up_blocks[0].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, given: Any, features: Tensor) -> None:
        self._features.append(features)

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction `b 4 h w` and maps `b 15 h/2 w/2`."""
        self._features.clear()
        predicted = self.unet(noisy, timesteps, encoder_hidden_states=states).sample
        return predicted, self.head(self._features[0])
