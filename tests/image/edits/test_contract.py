"""The contract of every edit: a value with a row of the survey, exact as JSON, and no trace left in the base."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pcs_ext.cli import commands
from pcs_ext.config_io import from_jsonable, to_jsonable
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits import EDITS
from pcs_ext.image.edits.boxes import parse_box
from pcs_ext.image.edits.concept_centric import ConceptCentricConfig, sample_guided_twice
from pcs_ext.image.edits.cones_2 import Cones2Config, cones_2_hooks
from pcs_ext.image.edits.dci import DciConfig, sample_integrated
from pcs_ext.image.edits.diptych import DiptychConfig, draw_beside
from pcs_ext.image.edits.freecontrol import FreeControlConfig, follow_structure
from pcs_ext.image.edits.freecure import FreeCureConfig, sample_cured
from pcs_ext.image.edits.insert import InsertConfig, insert
from pcs_ext.image.edits.layout import LayoutConfig, layout_hooks
from pcs_ext.image.edits.mc2 import Mc2Config, compose_apart
from pcs_ext.image.edits.members import Member
from pcs_ext.image.edits.multibooth import MultiBoothConfig, compose_in_boxes
from pcs_ext.image.edits.omg import OmgConfig, compose
from pcs_ext.image.edits.one_by_one import HooksOf, one_by_one
from pcs_ext.image.edits.pacgen import PacgenConfig, compose_regionally
from pcs_ext.image.edits.portrait_diffusion import PortraitDiffusionConfig, restyle
from pcs_ext.image.edits.sag import SagConfig, led_hooks
from pcs_ext.image.edits.settings import resolve_edit
from pcs_ext.image.edits.style_aligned import StyleAlignedConfig, sample_aligned
from pcs_ext.image.edits.swap import SwapConfig, swap
from pcs_ext.image.edits.try_on import TryOnConfig, put_on
from pcs_ext.image.locate import LocateConfig
from pcs_ext.systems import catalogue

PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
MASK = torch.zeros(1, 1, 32, 32)
MASK[..., 8:24, 8:24] = 1


def _swap(backbone: AbstractBackbone, config: SwapConfig) -> torch.Tensor:
    return swap(backbone, PICTURE, MASK, source_prompt="a cat", target_prompt="a red dog", config=config)


def _boxed(backbone: AbstractBackbone, hooks: Callable[..., HooksOf], config: Any) -> torch.Tensor:
    made = hooks(backbone, "a red dog", [parse_box("dog: 0 0 0.5 1")], config)
    return one_by_one(backbone, "a red dog", made, seeds=[0], sampling=config.sampling)


def _layout(backbone: AbstractBackbone, config: LayoutConfig) -> torch.Tensor:
    return _boxed(backbone, layout_hooks, config)


def _insert(backbone: AbstractBackbone, config: InsertConfig) -> torch.Tensor:
    beach, dog = "a photo of the beach", "a red dog on the beach"
    return insert(backbone, PICTURE, PICTURE.flip(-1), MASK, scene_prompt=beach, prompt=dog, config=config)


def _follow(backbone: AbstractBackbone, config: FreeControlConfig) -> torch.Tensor:
    return follow_structure(
        backbone, PICTURE, picture_prompt="a photo of a cat", phrase="cat", class_prompt="a dog", prompt="a red dog",
        seeds=[0], config=config,
    )  # fmt: skip


def _cones_2(backbone: AbstractBackbone, config: Cones2Config) -> torch.Tensor:
    return _boxed(backbone, cones_2_hooks, config)


def _members() -> list[Member]:
    boxes = [parse_box("x: 0 0 0.5 1"), parse_box("x: 0.5 0 1 1")]
    lora = LowRankConfig(targets=(r"\.attn2\.(to_k|to_v)$",))
    return [
        Member([build_adapter(f"lora_{at}", lora)], "a red dog on cat", [at], [8 - at], [at], box)
        for at, box in zip((3, 5), boxes, strict=True)
    ]


def _omg(backbone: AbstractBackbone, config: OmgConfig) -> torch.Tensor:
    return compose(backbone, "a red dog on cat", _members(), seed=0, config=config).picture


def _multibooth(backbone: AbstractBackbone, config: MultiBoothConfig) -> torch.Tensor:
    return compose_in_boxes(backbone, "a red dog on cat", _members(), seed=0, config=config).picture


def _mc2(backbone: AbstractBackbone, config: Mc2Config) -> torch.Tensor:
    return compose_apart(backbone, "a red dog on cat", _members(), seed=0, config=config).picture


def _pacgen(backbone: AbstractBackbone, config: PacgenConfig) -> torch.Tensor:
    return compose_regionally(backbone, "a red dog on cat", _members(), seed=0, config=config).picture


def _aligned(backbone: AbstractBackbone, config: StyleAlignedConfig) -> torch.Tensor:
    return sample_aligned(backbone, ["a red dog", "a cat"], seed=0, config=config)[1:]


def _restyle(backbone: AbstractBackbone, config: PortraitDiffusionConfig) -> torch.Tensor:
    return restyle(backbone, PICTURE, PICTURE.flip(-1), config=config)


def _sag(backbone: AbstractBackbone, config: SagConfig) -> torch.Tensor:
    hooks = led_hooks(backbone, lambda images: images.mean(), config)
    return one_by_one(backbone, "a red dog", hooks, seeds=[0], sampling=config.sampling)


def _dci(backbone: AbstractBackbone, config: DciConfig) -> torch.Tensor:
    adapter = build_adapter("lora", LowRankConfig())
    with injected(backbone, adapter):
        return sample_integrated(backbone, [adapter], "a red dog", "a dog", [3], [2], seed=0, config=config)


def _freecure(backbone: AbstractBackbone, config: FreeCureConfig) -> torch.Tensor:
    adapter = build_adapter("lora", LowRankConfig())
    with injected(backbone, adapter):
        return sample_cured(backbone, [adapter], "a dog hat", "a dog hat", [3], seed=0, config=config)[0]


def _concept_centric(backbone: AbstractBackbone, config: ConceptCentricConfig) -> torch.Tensor:
    adapter = build_adapter("lora", LowRankConfig())
    with injected(backbone, adapter):
        return sample_guided_twice(backbone, [adapter], "a red hat", seed=0, config=config)


def _diptych(backbone: AbstractBackbone, config: DiptychConfig) -> torch.Tensor:
    return draw_beside(backbone, PICTURE, "a red dog", noun="dog", seeds=(0,), config=config)


def _try_on(backbone: AbstractBackbone, config: TryOnConfig) -> torch.Tensor:
    return put_on(backbone, PICTURE, MASK, PICTURE.flip(-1), MASK, "a red dog", seed=0, config=config)


RUNS: dict[type, Callable[[AbstractBackbone, Any], torch.Tensor]] = {
    SwapConfig: _swap,
    LayoutConfig: _layout,
    Cones2Config: _cones_2,
    OmgConfig: _omg,
    MultiBoothConfig: _multibooth,
    Mc2Config: _mc2,
    PacgenConfig: _pacgen,
    SagConfig: _sag,
    DciConfig: _dci,
    FreeCureConfig: _freecure,
    ConceptCentricConfig: _concept_centric,
    StyleAlignedConfig: _aligned,
    PortraitDiffusionConfig: _restyle,
    InsertConfig: _insert,
    FreeControlConfig: _follow,
    DiptychConfig: _diptych,
    TryOnConfig: _try_on,
}


def quick(name: str) -> Any:
    built = EDITS[name].build("toybox")
    guidance = 0.0 if isinstance(built, PortraitDiffusionConfig) else 2.0
    small = resolve_edit(name, type(built), "toybox", steps=3, guidance_scale=guidance)
    if isinstance(small, FreeCureConfig):  # random maps grow over the whole of a tiny picture
        return dataclasses.replace(small, locate=LocateConfig())
    return dataclasses.replace(small, class_images=3) if isinstance(small, FreeControlConfig) else small


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("preset", ["toybox", "sd", "sdxl"])
def test_edits_are_values(name: str, preset: str) -> None:
    entry = EDITS[name]
    config = entry.build(preset)  # type: ignore[arg-type]
    assert config.id == name
    assert from_jsonable(type(config), to_jsonable(config)) == config
    assert not entry.system or name in {system.id: system for system in catalogue()}[entry.system].edits
    assert entry.command in commands()


@pytest.mark.parametrize("name", EDITS)
def test_contract(name: str, sd: AbstractBackbone) -> None:
    config = quick(name)
    before = {key: value.clone() for key, value in sd.denoiser.state_dict().items()}
    processors, hooks = dict(sd.denoiser.attn_processors), _hooks(sd)
    first, second = (RUNS[type(config)](sd, config) for _ in range(2))
    assert first.shape == (1, 3, 32, 32)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert first.abs().max() <= 1
    assert torch.equal(first, second), "the same seed gave another picture"
    assert all(torch.equal(value, before[key]) for key, value in sd.denoiser.state_dict().items())
    assert dict(sd.denoiser.attn_processors) == processors
    assert _hooks(sd) == hooks
    assert all(parameter.grad is None for parameter in sd.denoiser.parameters())


def _hooks(backbone: AbstractBackbone) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.denoiser.modules())
