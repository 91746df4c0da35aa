import copy

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.adapters.vocabulary import vector_tokens


def build(name="subject", **settings):
    return build_adapter(name, EmbeddingConfig(**{"placeholder": "<rex>", "initializer": "dog", **settings}))


def test_no_other_row_moves_under_adamw_with_weight_decay(backbone):
    tables = [e.get_input_embeddings().weight.detach().clone() for e in backbone.text_encoders]
    adapter = build()
    with injected(backbone, adapter):
        rows = adapter.parameters()["embedding"]
        start = [row.detach().clone() for row in rows]
        optimizer = torch.optim.AdamW(rows, lr=0.1, weight_decay=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            backbone.encode_prompt(["a photo of <rex> on the beach"]).states.square().sum().backward()
            optimizer.step()
        now = [e.get_input_embeddings().base_layer.weight for e in backbone.text_encoders]
        assert all(torch.equal(a, b) for a, b in zip(tables, now, strict=True))
        assert all(not torch.equal(a, b) for a, b in zip(start, rows, strict=True))


def test_a_multi_vector_placeholder_expands_to_its_tokens_in_order(sd):
    with injected(sd, build(num_vectors=3)):
        tokenizer = sd.tokenizers[0]
        ids = tokenizer(["a <rex>, dog", "dog"]).input_ids
        first = tokenizer.first_id
        assert [i for i in ids[0] if i >= first] == [first, first + 1, first + 2]
        assert not [i for i in ids[1] if i >= first]
        assert sd.token_count("a <rex>, dog") == 6
        assert tokenizer.tokenize("<rex>") == ["<rex>", "<rex>_1", "<rex>_2"]
        assert tokenizer.encode("<rex>")[1:-1] == [first, first + 1, first + 2]
        assert tokenizer.expand("<rex>_1 alone stays") == "<rex>_1 alone stays"
        assert tokenizer.eos_token_id == tokenizer.base.eos_token_id


def test_the_placeholder_is_read_as_typed_beside_punctuation(sd):
    with injected(sd, build(placeholder="<Rex>")):
        tokenizer = sd.tokenizers[0]
        assert tokenizer("the <Rex>.").input_ids.count(tokenizer.first_id) == 1
        assert tokenizer("the <rex>.").input_ids.count(tokenizer.first_id) == 0


def test_prompts_without_the_placeholder_are_encoded_bit_for_bit_as_before(backbone):
    before = backbone.encode_prompt(["a photo of the dog on the beach"])
    with injected(backbone, build()):
        after = backbone.encode_prompt(["a photo of the dog on the beach"])
    assert torch.equal(before.states, after.states)
    assert backbone.family == "sd" or torch.equal(before.pooled, after.pooled)


def test_a_row_that_equals_a_word_gives_exactly_that_word(backbone):
    expected = backbone.encode_prompt(["a photo of dog on the beach"])
    with injected(backbone, build()):
        got = backbone.encode_prompt(["a photo of <rex> on the beach"])
    assert torch.equal(expected.states, got.states)
    # The pooled text is read at the end mark, also with configs that mean "the largest id".
    assert backbone.family == "sd" or torch.equal(expected.pooled, got.pooled)


def test_an_initializer_of_several_words_is_their_mean(sd):
    table = sd.text_encoders[0].get_input_embeddings().weight
    ids = sd.tokenizers[0]("dog cat", add_special_tokens=False).input_ids
    assert len(ids) == 2
    adapter = build(initializer="dog cat", num_vectors=2)
    with injected(sd, adapter):
        (rows,) = adapter.parameters()["embedding"]
        torch.testing.assert_close(rows, table[ids].mean(0).expand(2, -1))


def test_random_rows_and_noise_depend_on_the_seed_alone(sd):
    def rows(**settings):
        adapter = build(num_vectors=4, **settings)
        with injected(sd, adapter):
            return adapter.parameters()["embedding"][0].detach().clone()

    random = {"initializer": "random", "init_std": 0.5}
    assert torch.equal(rows(**random), rows(**random))
    assert not torch.equal(rows(**random), rows(**random, init_seed=1))
    assert rows(**random).std() == pytest.approx(0.5, rel=0.3)
    noisy = rows(init_noise=0.01)
    assert 0.005 < (noisy - rows()).std() < 0.02
    assert not torch.equal(noisy[0], noisy[1])


def test_a_token_the_model_knows_is_refused_and_leaves_no_trace(sd):
    tokenizer = sd.tokenizers[0]
    for known in ("dog", "Dog", "dog</w>"):
        with pytest.raises(UsageError, match="already words of the model"):
            build(placeholder=known).inject(sd)
    assert sd.tokenizers[0] is tokenizer
    with injected(sd, build()):
        with pytest.raises(UsageError, match="used twice"):
            build("other").inject(sd)
        with pytest.raises(UsageError, match="named 'subject'"):
            build(placeholder="<max>").inject(sd)
    with pytest.raises(ConfigError, match="holds no word"):
        build(initializer="").inject(sd)


def test_two_subjects_keep_their_rows_when_the_first_leaves(sd):
    one, two = build("one", initializer="dog"), build("two", placeholder="<tom>", initializer="cat")
    cat = sd.encode_prompt(["photo of cat"]).states
    one.inject(sd)
    two.inject(sd)
    both = sd.encode_prompt(["photo of <tom> on <rex>"]).states
    assert not torch.equal(both, sd.encode_prompt(["photo of <rex> on <tom>"]).states)
    assert torch.equal(sd.encode_prompt(["photo of <tom>"]).states, cat)
    one.eject()
    assert torch.equal(sd.encode_prompt(["photo of <tom>"]).states, cat)
    two.eject()


def test_extended_tokenizers_can_be_copied(sd):
    with injected(sd, build(num_vectors=2)):
        tokenizer = copy.deepcopy(sd.tokenizers[0])
        assert tokenizer("a <rex>").input_ids == sd.tokenizers[0]("a <rex>").input_ids


def test_token_names_follow_diffusers():
    assert vector_tokens("<x>", 1) == ("<x>",)
    assert vector_tokens("<x>", 3) == ("<x>", "<x>_1", "<x>_2")


def test_rows_in_a_subspace_move_along_its_directions_alone(sd):
    adapter = build(subspace=3)
    with injected(sd, adapter):
        (coordinates,) = adapter.parameters()["embedding"]
        (rows,) = adapter.rows()  # type: ignore[attr-defined]
        assert coordinates.shape == (1, 3)
        with torch.no_grad():
            coordinates.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
        expected = rows.initial + rows.directions[0] - 2 * rows.directions[1] + 0.5 * rows.directions[2]
        torch.testing.assert_close(rows(), expected[None] if expected.dim() == 1 else expected)
        state = adapter.state_dict()
    assert set(state) == {"text_encoder.weight", "text_encoder.initial"}, "what every tool that reads words expects"
    torch.testing.assert_close(state["text_encoder.weight"], expected.detach())
    again = build(subspace=3)
    again.load_state_dict(state)
    with injected(sd, again):
        assert not again.parameters()["embedding"][0].any()
        (kept,) = again.rows()  # type: ignore[attr-defined]
        assert torch.equal(kept().detach(), state["text_encoder.weight"])
    with pytest.raises(ConfigError, match="number of directions"):
        build(subspace=-1)
