"""Attention terms have their hand-computed values, and gradients that move attention to where the mask is."""

from typing import Any

import pytest
import torch

from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
from pcs_ext.image.terms.attention import AttentionConfig, attention_errors
from pcs_ext.image.types import Batch

MASK = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
AT = torch.tensor([[False, True, False]])


def maps_of(looks: list[list[float]]) -> torch.Tensor:
    """`1 3 2 2`, the word being the second of three tokens."""
    word = torch.tensor(looks)
    rest = (1 - word) / 2
    return torch.stack([rest, word, rest])[None]


@pytest.mark.parametrize(
    ("looks", "match", "outside", "both"),
    [
        ([[0.5, 0.0], [0.0, 0.0]], 0.0, 0.0, 0.0),  # where the subject is, and nowhere else
        ([[0.0, 0.2], [0.2, 0.2]], 1.0, 1.0, 2.0),  # everywhere but there
        ([[0.4, 0.4], [0.4, 0.4]], 0.75, 1.0, 1.0),  # everywhere alike
        ([[0.4, 0.2], [0.0, 0.0]], 0.0625, 1 / 6, 1 / 12),
    ],
)
def test_hand_computed(looks: list[list[float]], match: float, outside: float, both: float) -> None:
    maps = maps_of(looks)
    torch.testing.assert_close(attention_errors(maps, AT, MASK, "match"), torch.tensor([match]))
    torch.testing.assert_close(attention_errors(maps, AT, MASK, "outside"), torch.tensor([outside]))
    torch.testing.assert_close(attention_errors(maps, AT, MASK, "both"), torch.tensor([both]))


def test_several_tokens_of_one_word_are_averaged() -> None:
    maps = maps_of([[0.4, 0.0], [0.0, 0.0]])
    both = torch.tensor([[True, True, False]])
    # Means 0.35, 0.25, 0.25, 0.25 (0.3 and 0.4; 0.5 and 0), over their maximum.
    expected = 3 * (0.25 / 0.35) ** 2 / 4
    torch.testing.assert_close(attention_errors(maps, both, MASK, "match"), torch.tensor([expected]))


def batch_of(captions: tuple[str, ...], masks: torch.Tensor, **more: Any) -> Batch:
    return Batch(images=torch.zeros(len(captions), 3, 32, 32), captions=captions, masks=masks, **more)


def test_each_word_has_its_own_mask_and_class_images_have_none(sd: AbstractBackbone) -> None:
    words = {"one": EmbeddingConfig(placeholder="<a>"), "two": EmbeddingConfig(placeholder="<b>", init_seed=1)}
    adapters = {name: build_adapter(name, config) for name, config in words.items()}
    parts = torch.zeros(2, 2, 32, 32)
    parts[:, 0, :, :16], parts[:, 1, :, 16:] = 1, 1
    config = ObjectiveConfig(terms=(AttentionConfig(side=8, weight=1.0),))

    def term(captions: tuple[str, ...], part_masks: torch.Tensor, prior: bool = False) -> torch.Tensor:
        is_prior = torch.tensor([False, prior]) if prior else None
        batch = batch_of(captions, part_masks.amax(1, keepdim=True), part_masks=part_masks, is_prior=is_prior)  # type: ignore[arg-type]
        objective = DenoisingObjective(config, adapters)
        states = sd.encode_prompt(captions)
        return objective(sd, batch, torch.zeros(2, 4, 8, 8), states, torch.Generator().manual_seed(0)).terms[
            "attention"
        ]

    with injected(sd, *adapters.values()):
        both = term(("a <a> and a <b>",) * 2, parts)
        swapped = term(("a <a> and a <b>",) * 2, parts.flip(1))
        assert both > 0
        assert not torch.equal(both, swapped)
        assert term(("a dog",) * 2, parts) == 0, "a caption without the words"
        one = term(("a <a>", "a <a>"), parts)
        with_class_image = term(("a <a>", "a <a>"), parts, prior=True)
        assert one > 0
        assert with_class_image > 0
        (gradient,) = torch.autograd.grad(one, adapters["one"].parameters()["embedding"])
        assert gradient.any()
    assert not any(
        type(module.processor).__name__ == "_Programmed"
        for module in sd.denoiser.modules()
        if hasattr(module, "processor")
    )


def test_words_of_backgrounds_are_held_to_where_no_subject_is(sd: AbstractBackbone) -> None:
    word = build_adapter("view", EmbeddingConfig(placeholder="<a>"))
    masks = torch.zeros(2, 1, 32, 32)
    masks[:, :, :, :8] = 1

    def term(mask: torch.Tensor, **more: Any) -> torch.Tensor:
        objective = DenoisingObjective(ObjectiveConfig(terms=(AttentionConfig(side=8, **more),)), {"view": word})
        batch, told = batch_of(("a <a>",) * 2, mask), sd.encode_prompt(["a <a>"] * 2)
        return objective(sd, batch, torch.zeros(2, 4, 8, 8), told, torch.Generator().manual_seed(0)).terms["attention"]

    with injected(sd, word), torch.no_grad():
        torch.testing.assert_close(term(masks, elsewhere=("view",)), term(1 - masks))
        assert not torch.isclose(term(masks), term(1 - masks))
