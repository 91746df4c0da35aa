"""Prompts' words without their pictures, kept beside conditioning for who asks the denoiser for both."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.image.reference.inside import beside, read_of
from pcs_ext.image.types import Conditioning

WORDS = "reference_words_alone"
"""Name of their states in `Conditioning.shown`."""
_POOLED = f"{WORDS}_pooled"


def with_words_alone(told: Conditioning, plain: Conditioning, there: Tensor) -> Conditioning:
    """The same conditioning with the states of the words alone.

    Args:
        told: of `b` prompts with pictures.
        plain: of the prompts alone.
        there: `b`, 0 in rows without pictures, which have no others.
    """
    told = beside(told, WORDS, plain.states, there)
    return told if plain.pooled is None else beside(told, _POOLED, plain.pooled.unsqueeze(1), there)


def words_alone(conditioning: Conditioning) -> tuple[Tensor, Conditioning] | None:
    """Numbers of the rows that have pictures, and those rows with their words alone; None: there are none."""
    words, pooled = read_of(conditioning, WORDS), read_of(conditioning, _POOLED)
    if words is None or not len(words.seen):
        return None
    rows, states = words.seen, words.vectors
    some = conditioning[rows.cpu()].with_states(lambda own: states[rows].to(own))
    return rows, some if pooled is None else dataclasses.replace(some, pooled=pooled.vectors[rows, 0])


def without_pictures(conditioning: Conditioning) -> Conditioning:
    """All rows, those that have pictures with their words alone."""
    found = words_alone(conditioning)
    if found is None:
        return conditioning
    rows, some = found
    plain = conditioning.with_states(lambda own: placed_back(own, rows, some.states))
    if plain.pooled is None or some.pooled is None:
        return plain
    return dataclasses.replace(plain, pooled=placed_back(plain.pooled, rows, some.pooled))


def placed_back(whole: Tensor, rows: Tensor, some: Tensor) -> Tensor:
    """`whole` with some of its rows replaced."""
    return torch.index_copy(whole, 0, rows.to(whole.device), some.to(whole))
