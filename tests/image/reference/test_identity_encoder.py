"""The identity encoder: one representation of a set, and attention that is held back where the person is not."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.identity_encoder import (
    IdentityEncoder,
    IdentityEncoderConfig,
    SetEncoder,
    added_outside,
    finding,
)
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.types import Decoupled
from tests.image.reference.test_kinds import bright_and_dark, opposite, sight_of
from tests.support.tiny_conditions import NOISY, PROMPTS, TIMES, predicted
from tests.support.tiny_reference import HIDDEN, at_random, drawn, tiny_system


@torch.no_grad()
def test_pictures_of_a_set_are_averaged_row_by_row_as_much_as_each_tells() -> None:
    encoder = SetEncoder(HIDDEN, 16, IdentityEncoderConfig(tokens=2, inner=64, depth=1))
    patches = drawn(1, 3, 17, HIDDEN)
    rows = [encoder(patches[:, [index]]) for index in range(3)]
    assert rows[0].shape == (1, 2, 16)
    torch.testing.assert_close(encoder(patches), (rows[0] + rows[1] + rows[2]) / 3, msg="untrained, all count alike")

    # Rows that say 0, ln 2 and ln 5 count 1/8, 2/8 and 5/8; of the second row all say the same.
    class Said(nn.Module):
        def forward(self, told: Tensor) -> Tensor:
            said = torch.zeros(1, 3, 2, 1)
            said[0, :, 0, 0] = torch.tensor([1.0, 2.0, 5.0]).log()
            assert told.shape == (1, 3, 2, 16)
            return said

    encoder.weigh = Said()  # type: ignore[assignment]
    made = encoder(patches)
    torch.testing.assert_close(made[:, 0], (rows[0] + 2 * rows[1] + 5 * rows[2])[:, 0] / 8)
    torch.testing.assert_close(made[:, 1], (rows[0] + rows[1] + rows[2])[:, 1] / 3)
    encoder.weigh = nn.Linear(16, 1, bias=False)
    torch.testing.assert_close(encoder(patches), encoder(patches[:, [2, 0, 1]]), msg="their order does not count")


def test_what_is_added_where_the_person_is_not_counts_in_shares_of_the_texts_answer() -> None:
    """Two rows of 2 x 2 cells; the text answers with squared lengths 4, 4, 8, 8 (mean 6) in the first."""
    text = torch.zeros(2, 4, 2, requires_grad=True)
    with torch.no_grad():
        text[0] = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [2.0, 2.0]])
        text[1] = 1.0
    added = torch.zeros(2, 4, 2)
    added[0] = torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 6.0]])  # squared 9, 0, 2, 36
    added[1] = 5.0
    outside = torch.tensor([[[1.0, 1.0], [0.5, 0.0]]] * 2)
    seen = torch.tensor([True, False])
    small = {"one": (text, text.detach() + added)}
    # (1 * 9 + 1 * 0 + 0.5 * 2 + 0 * 36) / 4 cells, in shares of 6; the row without pictures does not count.
    torch.testing.assert_close(added_outside(small, outside, seen), torch.tensor(2.5 / 6))
    # A layer of one cell sees a mask of 5/8; its text answers 3, 4 and is doubled: 25 * 5/8 / 25. Layers are averaged.
    coarse = torch.tensor([[[3.0, 4.0]]] * 2)
    both = {**small, "two": (coarse, 2 * coarse)}
    torch.testing.assert_close(added_outside(both, outside, seen), torch.tensor((2.5 / 6 + 0.625) / 2))


@torch.no_grad()
def test_the_representation_is_read_beside_the_text(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("identity-encoder", sd, eye)
    assert isinstance(adapter, IdentityEncoder)
    adapter.eval()
    sight = sight_of(encoder, pictures=3)
    assert sight.cut is not None
    made = predicted(sd, adapter, Shown(sight=sight))
    # Untrained: the denoiser is the base's, keys and values are the text's.
    tokens, pairs = adapter.encoder(sight.cut), {}
    for path in sd.cross_attention_paths():
        attention = sd.denoiser.get_submodule(path)
        pairs[path] = (tokens @ attention.to_k.weight.T, tokens @ attention.to_v.weight.T)  # type: ignore[union-attr, operator]
    told = sd.encode_prompt(PROMPTS).beside(Decoupled(pairs=pairs))
    torch.testing.assert_close(made, sd.predict(NOISY, TIMES, told), atol=2e-5, rtol=0)
    # What is kept of every layer is the text's own answer, and it with what is found in the representation.
    with finding(sd) as plain:
        sd.predict(NOISY, TIMES, sd.encode_prompt(PROMPTS))
    with finding(sd) as found:
        sd.predict(NOISY, TIMES, told)
    assert list(found) == list(sd.cross_attention_paths())
    assert all(torch.equal(*pair) for pair in plain.values())
    first = next(iter(found))
    torch.testing.assert_close(found[first][0], plain[first][0])
    attention = sd.denoiser.get_submodule(first)
    seen: list[Tensor] = []
    handle = attention.get_submodule("to_q").register_forward_hook(lambda module, inputs, output: seen.append(output))
    sd.predict(NOISY, TIMES, told)
    handle.remove()
    query, key, value = (
        x.unflatten(2, (attention.heads, -1)).transpose(1, 2)  # type: ignore[arg-type]
        for x in (seen[0], *pairs[first])
    )
    beside = ((query @ key.mT) * attention.scale).softmax(-1) @ value  # type: ignore[operator]
    torch.testing.assert_close(found[first][1] - found[first][0], beside.transpose(1, 2).flatten(2), atol=1e-5, rtol=0)


def test_the_terms_of_the_training(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("identity-encoder", sd, eye)
    at_random(adapter, sd)
    one = opposite(sight_of(encoder).map(lambda tensor: tensor[:, 0]))
    blank = one.map(lambda tensor: torch.zeros_like(tensor[0]))
    data = bright_and_dark(one)
    adapter.train()

    settings = ReferenceTraining(batch_size=4, photos=2, drop_text=0.0, drop_image=0.0, drop_both=0.0)

    def terms(data: PairData) -> dict[str, Tensor]:
        loss = ReferenceLoss(sd, adapter, data, settings, blank, encoder=encoder)
        loss.draw_timesteps = lambda batch, generator: torch.full((batch,), 20)
        with adapter.inserted(sd):
            return dict(loss(0, 0, torch.Generator().manual_seed(0)).terms)

    full = terms(data)
    assert set(full) == {"denoising", "attention", "identity"}
    everywhere = terms(dataclasses.replace(data, masks=None))
    assert 0 < full["attention"] < everywhere["attention"], "inside the mask the representation is free"
    gradients = torch.autograd.grad(full["attention"], [adapter.encoder.resample.latents], retain_graph=True)  # type: ignore[union-attr]
    assert gradients[0].abs().max() > 0
    with torch.no_grad():
        unseen = Shown(sight=Sight(features=drawn(2, 1, 17, HIDDEN)), seen=torch.zeros(2, dtype=torch.bool))
        plain = sd.encode_prompt(PROMPTS)
        told = adapter.conditioned(sd, sd.encode_prompt, PROMPTS, unseen)
        assert torch.equal(told.states, plain.states)
        assert told.decoupled == ()
    quiet = IdentityEncoder(IdentityEncoderConfig(tokens=2, inner=64, depth=1, identity_weight=0.0), sd, HIDDEN)
    assert quiet.identity is None
    for wrong in ({"inner": 96}, {"tokens": 0}, {"attention_weight": -1.0}, {"identity_below": 0.0}):
        with pytest.raises(ConfigError, match="must be at least 1|must not be negative"):
            IdentityEncoderConfig(**wrong)  # type: ignore[arg-type]
