"""InstantFamily: one softmax over words and people, each person's tokens open in their own place."""

from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.joint import joint_attention
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.instantfamily import InstantFamily
from tests.support.tiny_reference import HIDDEN, at_random, drawn, tiny_system, tiny_vision

PROMPT = "the dog and the cat"
HALVES = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]])


def test_a_joint_softmax_is_one_over_what_is_open() -> None:
    """Against the plain softmax over both, closed scores at minus infinity."""
    query, own, value = drawn(1, 2, 3, 4), drawn(1, 2, 5, 4, seed=1), drawn(1, 2, 5, 4, seed=2)
    key, other = drawn(1, 2, 4, 4, seed=3), drawn(1, 2, 4, 4, seed=4)
    opened = torch.tensor([[True, True, False, False], [False, True, True, False], [False] * 4])[None, None]
    mixed = (0.5 * query @ own.transpose(-1, -2)).softmax(-1) @ value
    scores = 0.5 * query @ torch.cat([own, key], 2).transpose(-1, -2)
    closed = torch.cat([torch.ones(1, 1, 3, 5, dtype=torch.bool), opened], 3)
    expected = scores.masked_fill(~closed, -torch.inf).softmax(-1) @ torch.cat([value, other], 2)
    found = joint_attention(mixed, (query, own), (query, key, other), torch.ones(1), 0.5, opened)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(found[:, :, 2], mixed[:, :, 2]), "who may look at none keeps what the words say"


@torch.no_grad()
def test_people_are_stacked_behind_the_words_and_open_in_their_places(sd: AbstractBackbone, tmp_path: Path) -> None:
    adapter, _ = tiny_system("instantfamily", sd, tiny_vision(tmp_path / "eye"))
    assert isinstance(adapter, InstantFamily)
    at_random(adapter, sd)
    adapter.eval()
    sight = Sight(features=drawn(1, 2, 1, 17, HIDDEN))
    tokens = adapter.stacked(sight.features[:, :, 0])
    assert tokens.shape == (1, 2, 2 + 16, 16)
    whole = adapter.whole(sight.features[0, 1, 0, 0]).unflatten(0, (2, 16))
    torch.testing.assert_close(tokens[0, 1, :2], adapter.norm(whole))
    torch.testing.assert_close(tokens[0, 1, 2:], adapter.norm(adapter.local(sight.features[0, 1, 0, 1:])))
    path = sd.cross_attention_paths()[0]
    module, seen = sd.denoiser.get_submodule(path), {}
    noisy, times = drawn(1, 4, 8, 8, seed=4), torch.tensor([300])

    def keep(module, inputs, named, output) -> None:
        seen["cells"], seen["found"] = inputs[0], output

    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], Shown(sight=sight, boxes=HALVES))
        handle = module.register_forward_hook(keep, with_kwargs=True)
        sd.predict(noisy, times, told)
        handle.remove()
        # Every half reads a stack of its own: words and the person who stands there, through the module's own maps.
        side = round(seen["cells"].shape[1] ** 0.5)
        assert side * side == seen["cells"].shape[1]
        for half in range(2):
            stack = torch.cat([told.states, tokens[:, half]], dim=1)
            expected: Tensor = module(seen["cells"], encoder_hidden_states=stack)
            columns = slice(0, side // 2) if half == 0 else slice(side // 2, side)
            got, wanted = (x.unflatten(1, (side, side))[:, :, columns] for x in (seen["found"], expected))
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        # Without a box a person is open everywhere; a place that nobody fills changes nothing.
        one = Shown(sight=sight.map(lambda known: known[:, :1]))
        free = sd.predict(noisy, times, adapter.conditioned(sd, sd.encode_prompt, [PROMPT], one))
        padded = Shown(sight=sight, nouns=(("dog", ""),))
        filled = sd.predict(noisy, times, adapter.conditioned(sd, sd.encode_prompt, [PROMPT], padded))
        torch.testing.assert_close(filled, free, atol=1e-5, rtol=1e-5)
        whole_picture = Shown(sight=one.sight, boxes=torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]))
        boxed = sd.predict(noisy, times, adapter.conditioned(sd, sd.encode_prompt, [PROMPT], whole_picture))
        torch.testing.assert_close(boxed, free, atol=1e-5, rtol=1e-5)
