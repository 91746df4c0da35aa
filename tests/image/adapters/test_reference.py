"""A picture that is looked at: which cells, by whom, and what is left when it is gone."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig, ReferenceAdapter, ReferenceConfig, build_adapter, injected
from pcs_ext.image.adapters.reference import otsu_mask
from pcs_ext.image.attention import attention_program
from tests.image.adapters.test_adapters import disturb

PROMPTS = ["a photo of <rex> on the beach", "a cat"]


def build() -> ReferenceAdapter:
    return ReferenceAdapter("picture", ReferenceConfig(placeholder="<rex>"))


def word():
    return build_adapter("word", EmbeddingConfig(placeholder="<rex>", initializer="dog"))


def predict(backbone, prompts=PROMPTS):
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return backbone.predict(noise, torch.tensor([3, 70][: len(prompts)]), backbone.encode_prompt(prompts))


def test_otsu_is_the_best_of_all_thresholds():
    values = torch.rand(5, 40, generator=torch.Generator().manual_seed(0)) ** 3
    values[4] = 0.25
    found = otsu_mask(values)
    for row, chosen in zip(values[:4], found[:4], strict=True):
        scaled = (row - row.min()) / (row.max() - row.min())
        scores = []
        for step in range(1, 10):
            above, below = scaled[scaled >= step / 10], scaled[scaled < step / 10]
            share = len(above) / len(scaled)
            scores.append(0.0 if len(above) == 0 else share * (1 - share) * float(above.mean() - below.mean()) ** 2)
        best = 1 + scores.index(max(scores))
        assert torch.equal(chosen, scaled >= best / 10)
    assert found[4].all(), "where nothing stands out, everything is looked at"


@torch.no_grad()
def test_untrained_it_changes_nothing_and_trained_only_who_names_the_subject(backbone, snapshot):
    adapter = build()
    with injected(backbone, word()):
        before, plain = snapshot(backbone), predict(backbone)
        with injected(backbone, adapter):
            assert torch.equal(predict(backbone), plain), "no picture is known yet"
            adapter.reference = known = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))
            torch.testing.assert_close(predict(backbone), plain, rtol=1e-4, atol=1e-5)
            disturb(adapter, size=0.3)
            moved = predict(backbone)
            torch.testing.assert_close(moved[1], plain[1], rtol=1e-4, atol=1e-5)
            assert not torch.allclose(moved[0], plain[0], atol=1e-3)
            other = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(6))
            with adapter.referring(torch.cat([other, other])):
                assert not torch.allclose(predict(backbone)[0], moved[0], atol=1e-4)
            same = known.expand(2, -1, -1, -1)
            with adapter.referring(same):
                torch.testing.assert_close(predict(backbone), moved, rtol=1e-4, atol=1e-5)
            adapter.set_scale(0.0)
            assert torch.equal(predict(backbone), plain)
            adapter.set_scale(1.0)
            state = adapter.state_dict()
        assert snapshot(backbone) == before
        again = build()
        again.load_state_dict(state)
        with injected(backbone, again):
            torch.testing.assert_close(predict(backbone), moved)
            assert again.state_dict().keys() == state.keys()
    with pytest.raises(ConfigError, match="every must be at least 1"):
        ReferenceConfig(every=0)


@torch.no_grad()
def test_each_cell_looks_where_the_word_looks(sd):
    """The block behind one attention, against the block called with that attention's own map."""
    adapter = build()
    seen: list[torch.Tensor] = []
    with injected(sd, word(), adapter):
        (path,) = adapter.blocks
        adapter.reference = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))
        disturb(adapter, size=0.3)
        block = sd.denoiser.get_submodule(path)
        inside: list[torch.Tensor] = []
        handle = block.register_forward_hook(lambda module, inputs, output: inside.append(output))
        with attention_program(sd, lambda _, x: seen.append(x) or x, [f"{path}.attn2"]):
            predict(sd, PROMPTS[:1])
        handle.remove()
        (maps,), (output,) = seen, inside  # the hook of the pass was put in later and sees what this one saw
        own, pictured = output[:1], output[1:]
        look = maps[1:].mean(1)[..., 4]  # start mark, a, photo, of, <rex>
        mask = otsu_mask(look)
        cells = pictured[:, mask[0]]
        expected = adapter.blocks[path](own, encoder_hidden_states=cells)
        bias = torch.zeros(1, 1, mask.shape[1]).masked_fill(~mask, -10000.0)
        whole = adapter.blocks[path](own, encoder_hidden_states=pictured, encoder_attention_mask=bias)
        torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
        assert adapter.maps is not None
        torch.testing.assert_close(adapter.maps[0], look)
        torch.testing.assert_close(adapter.maps[1], maps[1:].mean(1)[..., 8], msg="behind on the beach")


def test_gradients_reach_the_blocks_and_the_word_and_survive_checkpointing(sd):
    adapter, learned = build(), word()
    gradients = []
    with injected(sd, learned, adapter):
        adapter.reference = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))
        disturb(adapter)
        parameters = [*adapter.parameters()["denoiser"], *learned.parameters()["embedding"]]
        for checkpointed in (False, True):
            if checkpointed:
                sd.denoiser.train()
                sd.denoiser.enable_gradient_checkpointing()
            predict(sd).square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in parameters if parameter.grad is not None])
            for parameter in parameters:
                parameter.grad = None
    assert len(gradients[0]) == len(parameters)
    assert all(gradient.any() for gradient in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
