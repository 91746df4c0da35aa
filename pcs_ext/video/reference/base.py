"""Which model of pictures a clip model is made of."""

from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone


def spatial_base(backbone: AbstractVideoBackbone) -> AbstractUnetBackbone:
    """The image model whose layers a clip model runs on every frame, its temporal layers between them.

    Raises:
        UsageError: the clip model is one piece.
    """
    if isinstance(backbone, AnimateDiffBackbone):
        return backbone.image
    raise UsageError(
        f"photos are shown to clip models that are made of an image model (one with --motion-module, toybox, or an "
        f"inflated one); {backbone.name} makes clips by itself. Leave the photos out, or take such a base."
    )
