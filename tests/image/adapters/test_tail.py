"""HiPer's vectors take the last positions of the prompts that ask for them, and nothing else changes."""

import torch

from pcs_ext.image.adapters import TailConfig, build_adapter, injected


@torch.no_grad()
def test_the_tail_and_nothing_but_the_tail(sd, run) -> None:
    tail = build_adapter("tail", TailConfig(placeholder="<rex>", num_vectors=3, initializer="a photo of the dog"))
    plain = sd.encode_prompt(["a photo of the dog", "a cat on the beach"]).states
    with injected(sd, tail):
        same = sd.encode_prompt(["a photo of the <rex> dog"]).states
        assert torch.equal(same[0], plain[0]), "it starts at the prompt's own states, and the mark is not read"
        tail.parameters()["embedding"][0].copy_(torch.arange(3.0)[:, None].expand(3, 16))
        marked, unmarked = sd.encode_prompt(["a <rex> cat on the beach", "a cat on the beach"]).states
        assert torch.equal(unmarked, plain[1])
        assert torch.equal(marked[:-3], plain[1, :-3])
        assert torch.equal(marked[-3:, 0], torch.arange(3.0))
        tail.set_scale(0.5)
        half = sd.encode_prompt(["a <rex> cat on the beach"]).states[0]
        torch.testing.assert_close(half[-3:], (plain[1, -3:] + marked[-3:]) / 2)
    assert "encode_prompt" not in vars(sd)
