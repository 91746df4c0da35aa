"""The measures themselves: pure functions of unit embeddings `b d`, of pixels, or of attributes read off images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def reference_similarity(generated: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each generated embedding `b d` to all references `r d` -> `b` in [-1, 1]. Differentiable.

    CLIP-I and DINO-I of DreamBooth (Ruiz et al. 2023, section 4.1) are its mean over the batch.
    """
    return (generated @ references.T).mean(dim=1)


def similarity_to_others(embeddings: Tensor) -> Tensor:
    """Mean cosine of each of `b d` embeddings to the b - 1 others -> `b` in [-1, 1]. At least two are needed."""
    count = embeddings.shape[0]
    assert count >= 2, f"similarity to others needs two images, got {count}"
    similarity = embeddings @ embeddings.T
    return (similarity.sum(dim=1) - similarity.diagonal()) / (count - 1)


def paired_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of row i with row i, `b d` and `b d` -> `b` in [-1, 1]. CLIP-T with images first and prompts second."""
    return (first * second).sum(dim=1)


def drift(base: Tensor, adapted: Tensor) -> Tensor:
    """How far adapted outputs moved from the base's for the same prompts and seeds: 1 - cosine, `b` in [0, 2]."""
    return 1 - paired_similarity(base, adapted)


def vendi_score(embeddings: Tensor) -> float:
    """Effective number of different images in a set: from 1 (all alike) to b (all orthogonal).

    exp of the entropy of the eigenvalues of the similarity matrix over b (Friedman and Dieng 2023, eq. 3).
    """
    similarity = embeddings.double() @ embeddings.double().T / embeddings.shape[0]
    eigenvalues = torch.linalg.eigvalsh(similarity).clamp_min(0)
    return float(torch.exp(torch.special.entr(eigenvalues).sum()))


def pairwise_distance(embeddings: Tensor) -> float:
    """Mean of 1 - cosine over all pairs of different images of a set, in [0, 2]; at least two images are needed."""
    return float(1 - similarity_to_others(embeddings.double()).mean())


def attribute_hits(
    read: Sequence[Mapping[str, str]], expected: Sequence[Mapping[str, str]]
) -> list[tuple[int, str, bool]]:
    """Compare what was read off each image with what its prompt asked for.

    Args:
        read: per image, attribute kind -> value.
        expected: per image, the kinds its prompt fixes; other kinds are not judged.

    Returns:
        (image index, kind, right or wrong) for each expected attribute. A kind that was not read is wrong.
    """
    assert len(read) == len(expected), f"{len(read)} readings for {len(expected)} expectations"
    return [
        (index, kind, have.get(kind) == value)
        for index, (have, want) in enumerate(zip(read, expected, strict=True))
        for kind, value in want.items()
    ]


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, rounds: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979).

    Args:
        values: one per unit that was drawn independently (a subject, or a seed), not one per image.
        level: coverage in (0, 1).
        rounds: resamplings, drawn from a fixed seed: equal values give equal intervals.
    """
    sample = torch.tensor(values, dtype=torch.float64)
    picks = torch.randint(len(sample), (rounds, len(sample)), generator=torch.Generator().manual_seed(0))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(sample[picks].mean(dim=1), tails).tolist()
    return low, high
