"""What a base's own denoiser holds of pictures: their cells where its self-attentions stand."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.second_denoiser import References
from pcs_ext.image.types import Conditioning


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
    kept: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept[path] = inputs[0]
            if path == paths[-1]:
                raise _Enough

        return hook

    count, added = noisy.shape[1], given.added or {}
    asked = Conditioning(states=given.states, pooled=added.get("text_embeds"), time_ids=added.get("time_ids"))
    handles = [backbone.denoiser.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
    try:
        predict(noisy.flatten(0, 1), times.repeat_interleave(count), asked)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return {path: _placed(found, given.rows, count, batch) for path, found in kept.items()}


def _placed(found: Tensor, rows: Tensor, count: int, batch: int) -> Tensor:
    wide = found.unflatten(0, (-1, count)).flatten(1, 2)
    return wide.new_zeros(batch, *wide.shape[1:]).index_copy(0, rows.to(wide.device), wide)


class _Enough(Exception):
    """The last self-attention was reached."""
