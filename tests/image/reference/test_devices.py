"""Adapters on a device that is not the CPU: nothing is mixed."""

from pathlib import Path

import pytest
import torch

from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.image.sample import SampleConfig, sample
from tests.support.elsewhere import MixedDevicesError, elsewhere, moved
from tests.support.tiny import tiny_backbone
from tests.support.tiny_reference import tiny_system

PICKING = (
    "face0", "profusion", "infinite-id", "visconet", "prompt-free-diffusion", "domain-agnostic-encoder",
    "uni-controlnet", "instantid",
)  # fmt: skip
"""Systems that pick rows of a batch by what the denoiser's device says of them."""


@pytest.mark.parametrize("system", ["ip-adapter", *PICKING])
def test_pictures_are_drawn_where_the_base_is(system: str, eye: Path, photos: Path, tmp_path: Path) -> None:
    base = tiny_backbone(tmp_path / "sd")
    assert isinstance(base, AbstractUnetBackbone)
    config = SampleConfig(scheduler="ddim", num_inference_steps=1, guidance_scale=2.0)
    with elsewhere(), torch.no_grad():
        moved(base)
        adapter, encoder = tiny_system(system, base, eye)
        opened = OpenedAdapter(adapter=adapter.eval(), encoder=encoder)
        maps = [f"{kind}={photos / '1.png'}" for kind in adapter.map_kinds]
        nouns = ("dog",) if adapter.asks_noun else ()
        reference = seen_by(opened, find_photos(photos / "0.png"), scale=1.0, nouns=nouns, maps=maps)
        made = sample(base, ["the dog"] * 2, seeds=[0, 1], config=config, hooks=reference.hooks(base))
    assert made.isfinite().all()


def test_tensors_of_the_cpu_are_not_indexed_from_elsewhere() -> None:
    with elsewhere() as device:
        numbers = torch.tensor([0, 2]).to(device)
        assert torch.ones(3).to(device)[torch.tensor([0, 2])].device == device
        with pytest.raises(MixedDevicesError, match=r"aten\.index"):
            torch.arange(3)[numbers]
