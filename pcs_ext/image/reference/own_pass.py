"""What a base's own denoiser holds of pictures: their cells where its self-attentions stand."""

from collections.abc import Sequence

from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.entering import entering
from pcs_ext.image.reference.second_denoiser import References


def own_cells(
    backbone: AbstractBackbone,
    predict: Predict,
    given: References,
    noisy: Tensor,
    times: Tensor,
    batch: int,
    paths: Sequence[str],
) -> dict[str, Tensor]:
    """What enters self-attentions while the base denoises pictures; what comes after the last of them is not run.

    Args:
        backbone: whose denoiser it is; whatever is in it acts.
        predict: of it.
        given: the pictures.
        noisy: their latents as they enter, `m r c h w`.
        times: of every row that has some, `m`.
        batch: b.
        paths: of the self-attentions, in forward order.

    Returns:
        By path, `b r*cells width`, zeros in rows that have no pictures.
    """
    with entering(backbone.denoiser, paths) as kept:
        predict(noisy.flatten(0, 1), times.repeat_interleave(noisy.shape[1]), given.asked)
    return {path: given.placed(found, batch) for path, found in kept.items()}
