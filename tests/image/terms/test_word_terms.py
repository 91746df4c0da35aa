"""Terms on the rows of learned words, against their formulas."""

import math

import torch

from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import AnchorConfig, SteeringConfig, Step, build_term
from pcs_ext.image.terms.steering import info_nce
from pcs_ext.image.types import Batch


def step_of(backbone: AbstractBackbone, adapters: dict, caption: str) -> Step:
    return Step(
        backbone=backbone,
        batch=Batch(images=torch.zeros(1, 3, 32, 32), captions=(caption,)),
        conditioning=backbone.encode_prompt([caption]),
        adapters=adapters,
        maps=None,
        generator=torch.Generator().manual_seed(0),
    )


def test_info_nce_against_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    anchor, positives, negatives = (torch.randn(*shape, generator=generator) for shape in ((8,), (4, 8), (3, 8)))

    def similarity(other: torch.Tensor) -> float:
        return math.exp(float(anchor @ other) / float(anchor.norm() * other.norm()) / 0.07)

    good, bad = sum(map(similarity, positives)), sum(map(similarity, negatives))
    torch.testing.assert_close(
        info_nce(anchor, positives, negatives, 0.07), torch.tensor(-math.log(good / (good + bad)))
    )
    weights = torch.tensor([1.0, 1.0, 0.5, 0.0])
    good = sum(float(weight) * similarity(positive) for weight, positive in zip(weights, positives, strict=True))
    torch.testing.assert_close(
        info_nce(anchor, positives, negatives, 0.07, weights), torch.tensor(-math.log(good / (good + bad)))
    )
    assert info_nce(anchor, positives, negatives[:0], 0.07) == 0, "without negatives there is nothing to tell apart"


def test_steering_draws_the_word_to_prepositions_and_away_from_the_caption(sd: AbstractBackbone) -> None:
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", initializer="dog"))
    table = sd.text_encoders[0].get_input_embeddings().weight
    ids = [sd.tokenizers[0](text, add_special_tokens=False).input_ids for text in ("on", "dog")]
    with injected(sd, word):
        term = build_term(SteeringConfig(positives=20, weight=1.0))
        (weight,) = word.parameters()["embedding"]
        before = term(step_of(sd, {"word": word}, "dog <r> beach"))
        (gradient,) = torch.autograd.grad(before, weight)
        with torch.no_grad():
            moved = -gradient[0] / gradient.norm()
            cosine = torch.nn.functional.cosine_similarity
            assert cosine(weight[0] + 0.01 * moved, table[ids[0][0]], dim=0) > cosine(
                weight[0], table[ids[0][0]], dim=0
            )
            assert cosine(weight[0] + 0.01 * moved, table[ids[1][0]], dim=0) < cosine(
                weight[0], table[ids[1][0]], dim=0
            )


def test_anchors(sd: AbstractBackbone) -> None:
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", num_vectors=2, initializer="dog"))
    with injected(sd, word):
        (weight,) = word.parameters()["embedding"]
        start = build_term(AnchorConfig(weight=0.5))
        assert start(step_of(sd, {"word": word}, "<r>")) == 0
        with torch.no_grad():
            weight[1] += 0.25
        width = weight.shape[1]
        torch.testing.assert_close(start(step_of(sd, {"word": word}, "<r>")), torch.tensor(0.5 * width * 0.0625 / 2))
        cat = build_term(AnchorConfig(words=("cat",), weight=1.0))
        row = (
            sd.text_encoders[0]
            .get_input_embeddings()
            .weight[sd.tokenizers[0]("cat", add_special_tokens=False).input_ids[0]]
        )
        expected = (weight - row).square().sum(-1).mean()
        torch.testing.assert_close(cat(step_of(sd, {"word": word}, "<r>")), expected)


def test_a_word_may_start_at_the_encoder_s_output(sd: AbstractBackbone) -> None:
    with torch.no_grad():
        expected = sd.encode_prompt(["dog"]).states[0, 1]
    config = EmbeddingConfig(placeholder="<r>", num_vectors=2, initializer="dog", through_encoder=True)
    word = build_adapter("word", config)
    with injected(sd, word):
        (weight,) = word.parameters()["embedding"]
        torch.testing.assert_close(weight.detach(), torch.stack([expected, expected]), atol=1e-5, rtol=1e-5)


def test_steering_towards_given_words_and_away_from_others(sd: AbstractBackbone) -> None:
    concept = build_adapter("concept", EmbeddingConfig(placeholder="<c>", initializer="red", num_vectors=2))
    thing = build_adapter("thing", EmbeddingConfig(placeholder="<t>", initializer="dog"))
    config = SteeringConfig(words=("snow", "red hat"), away=("toy dog",), adapters=("concept",), weight=0.5)
    with injected(sd, concept, thing):
        caption = "a <c> <t> on grass"
        found = build_term(config)(step_of(sd, {"concept": concept, "thing": thing}, caption))
        table, base = sd.text_encoders[0].get_input_embeddings().below().weight, sd.tokenizers[0].base

        def row(text: str) -> torch.Tensor:
            return table[base(text, add_special_tokens=False).input_ids].mean(0)

        positives = torch.stack([row("snow"), row("red hat")])
        negatives = torch.stack([row("a"), row("on"), row("grass"), row("toy dog")])
        expected = 0.5 * info_nce(concept.parameters()["embedding"][0].mean(0), positives, negatives, 0.07)
        torch.testing.assert_close(found, expected)
        found.backward()
        assert thing.parameters()["embedding"][0].grad is None
