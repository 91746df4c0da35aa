"""The context of a learned word: which positions are compared, and both distances against slow references."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import ContextConfig, Noised, Step, build_term
from pcs_ext.image.terms.context import pair_of
from pcs_ext.image.types import Batch


def step_of(backbone: AbstractBackbone, adapters: dict) -> Step:
    generator = torch.Generator().manual_seed(0)
    noised = Noised(
        latents=torch.randn(2, 4, 8, 8, generator=generator),
        timesteps=torch.tensor([10, 800]),
        target=torch.zeros(2, 4, 8, 8),
    )
    return Step(
        backbone=backbone,
        batch=Batch(images=torch.zeros(2, 3, 32, 32), captions=("a photo of <r>",) * 2),
        conditioning=backbone.encode_prompt(["a photo of <r>"] * 2),
        adapters=adapters,
        maps=None,
        generator=generator,
        noised=noised,
    )


@pytest.mark.parametrize("noun", ["dog", "red toy dog"])
def test_other_words_meet_themselves(sd: AbstractBackbone, noun: str) -> None:
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", num_vectors=2, initializer="dog"))
    with injected(sd, word):
        pair = pair_of(sd, word, "a photo of the {subject} on the beach", noun)  # type: ignore[arg-type]
        tokenizer = sd.tokenizers[0]
        own, other = (tokenizer(text, padding="max_length", max_length=24).input_ids for text in (pair.own, pair.other))
        assert [own[i] for i in pair.own_at] == [other[i] for i in pair.other_at]
        assert len(pair.own_at) == 24 - max(2, len(noun.split()))


def test_both_distances_against_references(sd: AbstractBackbone) -> None:
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", initializer="cat"))
    template = "a photo of the {subject} on the beach"

    def term(embedding: float, attention: float) -> torch.Tensor:
        config = ContextConfig(
            noun="dog", templates=(template,), embedding_weight=embedding, attention_weight=attention
        )
        return build_term(config)(step_of(sd, {"word": word}))

    with injected(sd, word):
        prompts = ["a photo of the <r> on the beach", "a photo of the dog on the beach"]
        own, other = sd.encode_prompt(prompts).states
        at = [i for i in range(24) if i != 5]  # behind the start mark: a photo of the
        cosines = [torch.nn.functional.cosine_similarity(own[i], other[i], dim=0) for i in at]
        torch.testing.assert_close(term(2.0, 0.0), 2 * (1 - torch.stack(cosines)).mean())

        step = step_of(sd, {"word": word})
        asked, means = step.asked(), []
        for prompt in prompts:
            seen: list[torch.Tensor] = []
            with attention_program(sd, lambda path, p, seen=seen: (seen.append(p.detach()), p)[1]):
                sd.predict(asked.latents, asked.timesteps, sd.encode_prompt([prompt] * 2))
            assert len(seen) == len(sd.cross_attention_paths())
            values = [[torch.cat([p[row, :, :, i].flatten() for p in seen]).mean() for i in at] for row in range(2)]
            means.append(torch.tensor(values))
        expected = (means[0] - means[1]).square().mean()
        assert expected > 0
        torch.testing.assert_close(term(0.0, 3.0), 3 * expected, rtol=1e-3, atol=1e-9)
        (gradient,) = torch.autograd.grad(term(0.0, 1e4), word.parameters()["embedding"])
        assert gradient.any()


def test_a_word_that_is_the_noun_has_no_distance(sd: AbstractBackbone) -> None:
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", initializer="dog"))
    with injected(sd, word), torch.no_grad():
        config = ContextConfig(noun="dog", embedding_weight=1.0, attention_weight=1.0)
        assert float(build_term(config)(step_of(sd, {"word": word}))) < 1e-5


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="needs a noun and templates"):
        ContextConfig(noun="dog", templates=("a photo",))
