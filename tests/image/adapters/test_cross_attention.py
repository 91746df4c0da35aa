import pytest
import torch
from diffusers import UNet2DConditionModel

from pcs_ext.image.adapters import CrossAttentionConfig, build_adapter, injected

SD = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
}


@pytest.mark.parametrize(
    ("shape", "width", "count", "layers"),
    [(SD, 768, 19_169_280, 16), (SD, 1024, 25_559_040, 16), (SDXL, 2048, 340_787_200, 70)],
    ids=["sd1", "sd2", "sdxl"],
)
def test_number_of_trained_weights_at_full_size(sd, shape, width, count, layers):
    with torch.device("meta"):
        sd.denoiser = UNet2DConditionModel(sample_size=64, layers_per_block=2, cross_attention_dim=width, **shape)
    adapter = build_adapter("subject", CrossAttentionConfig())
    with injected(sd, adapter):
        parameters = adapter.parameters()["denoiser"]
        assert len(parameters) == 2 * layers
        assert sum(parameter.numel() for parameter in parameters) == count


def test_the_difference_acts_as_a_changed_weight(sd, run):
    adapter = build_adapter("subject", CrossAttentionConfig())
    with injected(sd, adapter), torch.no_grad():
        for parameter in adapter.parameters()["denoiser"]:
            parameter += 0.1 * torch.randn(parameter.shape)
        expected = run(sd)
        state = adapter.state_dict()
    with torch.no_grad():
        for key, delta in state.items():
            path = key.removeprefix("denoiser.").removesuffix(".delta")
            sd.denoiser.get_submodule(path).weight += delta
        torch.testing.assert_close(run(sd), expected, rtol=1e-5, atol=1e-6)


def test_other_projections_can_be_asked_for(sd):
    adapter = build_adapter("subject", CrossAttentionConfig(projections=("to_q", "to_out.0")))
    with injected(sd, adapter):
        names = {key.removesuffix(".delta").split("attn2.")[1] for key in adapter.state_dict()}
    assert names == {"to_q", "to_out.0"}
