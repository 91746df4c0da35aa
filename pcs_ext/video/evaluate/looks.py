"""What frames look like from one to the next, and what of a reference's looks they took over."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from pcs_ext.image.evaluate.metrics import paired_similarity


def temporal_consistency(frames: Tensor) -> Tensor:
    """Mean cosine of neighbouring frames' unit embeddings `b f d` -> `b` in [-1, 1]; 1 for a clip that stands still.

    The measure of Tune-A-Video and most after it. It rewards standing still: read it beside motion.
    """
    before, after = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
    return paired_similarity(before, after).unflatten(0, (len(frames), -1)).mean(1)


def leaked_attributes(
    read: Sequence[Mapping[str, str]], reference: Mapping[str, str], asked: Mapping[str, str]
) -> float | None:
    """Share of a reference's attributes that frames show although something else was asked for; lower is better.

    Args:
        read: per frame, attribute kind -> value.
        reference: the same of the clip that the motion was learned from.
        asked: what the frames should show; kinds that agree with the reference, or are not asked for, do not count.

    Returns:
        In [0, 1]; None where nothing asked for differs from the reference.
    """
    kinds = [kind for kind, value in asked.items() if kind in reference and reference[kind] != value]
    if not kinds:
        return None
    leaked = [facts.get(kind) == reference[kind] for facts in read for kind in kinds]
    return sum(leaked) / len(leaked)
