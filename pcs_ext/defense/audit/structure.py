"""What can be said of a file without running the base: modules, ranks, norms, spectra; with its token table, words."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.defense.audit.applied import places
from pcs_ext.defense.audit.contents import Contents, LearnedRows
from pcs_ext.defense.audit.layers import LayerChange
from pcs_ext.defense.audit.vocabulary import is_ordinary_word, nearest_words, token_table
from pcs_ext.image.adapters.layers import original
from pcs_ext.image.backbone import AbstractBackbone

_SHOWN = 5
_CHANGED = 0.1
"""A row of the token table counts as changed beyond this share of its length."""
REPLACED = 0.5
"""...and as replaced beyond this. DreamBooth with its usual 800 steps at 5e-6 on the text encoder can move the rows of
its own prompts by about a quarter (AdamW's step times their number, against rows of about 0.015 per number)."""


def layer_facts(layers: Sequence[LayerChange]) -> dict[str, Any]:
    """Modules, ranks, norms and spectra of the weight changes; the largest ones by name.

    `concentration` is the share of a change's energy in its first direction: 1 is a change of rank one, as closed-form
    edits of one word's key and value leave it (EvilEdit). Honest training of few steps leaves high shares, too.
    """
    if not layers:
        return {}
    rows = []
    for layer in layers:
        values = layer.singular_values()
        if values is None or not len(values):
            continue
        energy = values.square()
        share = float(energy[0] / energy.sum()) if float(energy.sum()) > 0 else 0.0
        rows.append({"layer": f"{layer.component or '?'}.{layer.name}", "norm": float(energy.sum().sqrt()),
                     "concentration": share})  # fmt: skip
    rows.sort(key=lambda row: -row["norm"])
    ranks = sorted({layer.rank for layer in layers if layer.rank is not None})
    components = [layer.component or "?" for layer in layers]
    total = sum(row["norm"] ** 2 for row in rows)
    return {
        "by_component": {name: components.count(name) for name in dict.fromkeys(components)},
        "forms": sorted({layer.form for layer in layers}),
        "ranks": ranks,
        "largest": rows[:_SHOWN],
        "share_of_largest": rows[0]["norm"] ** 2 / total if total > 0 else 0.0,
    }


def token_facts(token: LearnedRows, backbone: AbstractBackbone) -> list[dict[str, Any]]:
    """Each vector beside the base's table: length, how many words' rows are shorter, nearest words."""
    found = []
    for name, encoder, tokenizer in zip(_encoders(backbone), backbone.text_encoders, backbone.tokenizers, strict=True):
        if name not in token.rows:
            continue
        table = token_table(encoder)
        lengths = table.norm(dim=1)
        for row in token.rows[name]:
            if row.shape != table.shape[1:]:
                continue  # said by `applied`, which refuses it
            found.append(
                {
                    "encoder": name,
                    "length": float(row.norm()),
                    "usual_length": float(lengths.median()),
                    "longer_than": float((lengths < row.norm()).float().mean()),
                    "nearest": nearest_words(row, table, tokenizer),
                }
            )
    return found


def changed_words(contents: Contents, backbone: AbstractBackbone) -> list[tuple[str, float]]:
    """Ordinary words whose rows in the token table the file changes, with the change as a share of the row's length,
    largest first. Special tokens and bytes are left out.

    Call it while nothing is applied to the backbone.

    Raises:
        ArtifactError: a change belongs to nothing in this base, or does not fit it.
    """
    found: dict[str, float] = {}
    # By the weight that a change lands in, whatever spelling and form the file gives it: only that is what loaders see.
    placed = places(contents, backbone)
    for encoder, tokenizer in zip(backbone.text_encoders, backbone.tokenizers, strict=True):
        module, before = original(encoder.get_input_embeddings()), token_table(encoder)  # type: ignore[operator,arg-type]
        after = before
        for layer, place, _ in placed:
            if place is module:
                after = after + layer.delta(after)
        for index, share in [] if after is before else _moved_rows(after - before, before):
            piece = tokenizer.convert_ids_to_tokens(index) or ""
            word = piece.removesuffix("</w>")
            if piece.endswith("</w>") and is_ordinary_word(tokenizer, word):
                found[word] = max(found.get(word, 0.0), share)
    return sorted(found.items(), key=lambda item: -item[1])


def _moved_rows(delta: Tensor, table: Tensor) -> list[tuple[int, float]]:
    shares = delta.norm(dim=1) / table.norm(dim=1).clamp_min(1e-8)
    return [(index, float(shares[index])) for index in torch.nonzero(shares > _CHANGED)[:, 0].tolist()]


def _encoders(backbone: AbstractBackbone) -> list[str]:
    return [name for name in backbone.components() if name.startswith("text_encoder")]
