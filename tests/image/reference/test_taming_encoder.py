"""Taming Encoder: features of the object alone beside the text, attention tuned with and without pictures."""

from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference import REFERENCES
from pcs_ext.image.reference.shown import Shown
from pcs_ext.image.reference.systems.taming_encoder import TamingEncoder, TamingEncoderConfig
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.types import Decoupled
from tests.image.reference.test_kinds import bright_and_dark, opposite, sight_of
from tests.support.tiny_conditions import NOISY, PROMPTS, TIMES, predicted
from tests.support.tiny_reference import drawn, tiny_system


@torch.no_grad()
def test_features_of_the_object_alone_are_read_beside_the_text(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("taming-encoder", sd, eye)
    assert isinstance(adapter, TamingEncoder)
    adapter.eval()
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = torch.zeros(2, 1, 40, 40)
    masks[..., :20] = 1
    other = torch.where(masks > 0, images, -images)
    made = []
    for shown in (images, other):
        sight = encoder.sight(shown, masks, cut=True).map(lambda x: x[:, None])
        made.append(predicted(sd, adapter, Shown(sight=sight)))
        patches = sight.object
        # Untrained: the tuned attention is the base's, keys and values of the features are the text's.
        mapped = adapter.project(patches[:, 0])
        pairs = {}
        for path in sd.cross_attention_paths():
            attention = sd.denoiser.get_submodule(path)
            pairs[path] = (mapped @ attention.to_k.weight.T, mapped @ attention.to_v.weight.T)  # type: ignore[union-attr, operator]
        expected = sd.predict(NOISY, TIMES, sd.encode_prompt(PROMPTS).beside(Decoupled(pairs=pairs)))
        torch.testing.assert_close(made[-1], expected, atol=2e-5, rtol=0)
    assert torch.equal(*made), "what is around the object is not seen"
    assert adapter.features_of(drawn(2, 3, 17, 32)).shape == (2, 51, 16)


def test_attention_is_tuned_on_pairs_without_pictures_too(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("taming-encoder", sd, eye)
    one = opposite(sight_of(encoder).map(lambda tensor: tensor[:, 0]))
    blank = one.map(lambda tensor: torch.zeros_like(tensor[0]))
    settings = ReferenceTraining(batch_size=8, drop_image=0.5, drop_text=0.0, drop_both=0.0)
    loss = ReferenceLoss(sd, adapter, bright_and_dark(one), settings, blank, encoder=encoder)
    adapter.train()
    with adapter.inserted(sd):
        # Nothing is seen in any row: what learns is the tuned attention alone.
        drawn_pairs = loss._drawn(torch.Generator().manual_seed(0))
        unseen = Shown(sight=drawn_pairs.shown.sight, seen=torch.zeros(8, dtype=torch.bool))
        told = adapter.conditioned(sd, sd.encode_prompt, drawn_pairs.captions, unseen)
        noisy = drawn(8, 4, 8, 8)
        sd.predict(noisy, torch.full((8,), 300), told).square().mean().backward()
        groups = adapter.groups()
        # Untrained deltas of outputs and queries, keys and values all get gradients.
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in groups["base"])
        assert all(p.grad is None for p in groups["reference"])
        assert len(groups["base"]) == 4 * len(sd.cross_attention_paths())
    own = REFERENCES["taming-encoder"].training
    assert (own.drop_image, own.masked) == (0.5, 0.5)
    with pytest.raises(ConfigError, match="tuned must name different projections"):
        TamingEncoderConfig(tuned=("to_k", "to_k"))
    assert TamingEncoder(TamingEncoderConfig(tuned=()), sd, 32).inside == ()
