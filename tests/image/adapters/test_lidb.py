"""Lightweight DreamBooth: the basis, the update by hand, and how few numbers are kept."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters import LiDBAdapter, LiDBConfig, injected
from pcs_ext.image.adapters.layers import merged_weights
from pcs_ext.image.adapters.lidb import LiDBLinear, LiDBSpace, orthonormal
from pcs_ext.runtime import generator_for


def test_the_basis_is_orthonormal_and_belongs_to_its_seed_and_layer() -> None:
    space = LiDBSpace.of(LiDBConfig(up=5, down=3, rank=2), "denoiser.some.to_q", 16, 8)
    torch.testing.assert_close(space.wide.T @ space.wide, torch.eye(5))
    torch.testing.assert_close(space.flat @ space.flat.T, torch.eye(3))
    torch.testing.assert_close(space.start.norm(dim=-1), torch.ones(2))
    again = LiDBSpace.of(LiDBConfig(up=5, down=3, rank=2), "denoiser.some.to_q", 16, 8)
    assert torch.equal(again.wide, space.wide)
    other = LiDBSpace.of(LiDBConfig(up=5, down=3, rank=2, seed=1), "denoiser.some.to_q", 16, 8)
    layer = LiDBSpace.of(LiDBConfig(up=5, down=3, rank=2), "denoiser.some.to_k", 16, 8)
    assert not torch.allclose(other.wide, space.wide)
    assert not torch.allclose(layer.wide, space.wide)
    # The numbers themselves: files hold none of them, so they must never change.
    first = orthonormal(3, 2, generator_for(0, "denoiser.some.to_q", "up"))
    torch.testing.assert_close(first, torch.tensor(ANCHOR), atol=1e-6, rtol=0)


ANCHOR = [[-0.2159999, -0.0133331], [-0.1657529, 0.9858943], [0.9622214, 0.1668378]]


def test_a_layer_adds_the_product_of_four_matrices() -> None:
    base = nn.Linear(4, 3)
    layer = LiDBLinear(LiDBSpace(wide=torch.eye(3)[:, :2], flat=torch.eye(4)[1:3], start=torch.tensor([[1.0, 0.0]])))
    layer.set_below(base)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert torch.equal(layer(x), base(x)), "it begins as the base"
    with torch.no_grad():
        layer.up.copy_(torch.tensor([[10.0], [20.0]]))
        layer.down.copy_(torch.tensor([[1.0, 0.5]]))
    # B_aux x = (2, 3), B_train of it 2 + 1.5, times A_train (10, 20), in the first two outputs.
    torch.testing.assert_close(layer(x) - base(x), torch.tensor([[35.0, 70.0, 0.0]]))
    layer.scale = 0.5
    torch.testing.assert_close(layer(x) - base(x), torch.tensor([[17.5, 35.0, 0.0]]))
    torch.testing.assert_close(x @ layer.merge(base.weight).T + base.bias, layer(x))


def test_of_stable_diffusion_a_subject_is_26_400_numbers() -> None:
    """16 blocks of two attentions of four projections, and twelve of one in the text encoder: 176 layers of 150."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    linear = {f".{path}": layer for path, layer in unet.named_modules() if isinstance(layer, nn.Linear)}
    asked = [layer for path, layer in linear.items() if path.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))]
    assert (len(asked), min(min(layer.weight.shape) for layer in asked)) == (128, 320)
    assert (len(asked) + 12 * 4) * (100 + 50) == 26_400


def test_the_same_numbers_on_other_layers_are_refused(sd) -> None:
    adapter = LiDBAdapter("one", LiDBConfig(up=6, down=4))
    with injected(sd, adapter):
        state = adapter.state_dict()
        assert merged_weights(sd.denoiser).keys() == {
            key.removeprefix("denoiser.").removesuffix(".lidb_up") for key in state if key.endswith(".lidb_up")
        }
    size = next(key for key in state if key.endswith(".lidb_size"))
    wrong = {**state, size: state[size] + 1}
    fresh = LiDBAdapter("two", LiDBConfig(up=6, down=4))
    fresh.load_state_dict(wrong)
    with pytest.raises(ArtifactError, match="made for layers of other sizes"):
        fresh.inject(sd)
    with pytest.raises(ConfigError, match="at least the rank"):
        LiDBConfig(rank=60, down=50)
