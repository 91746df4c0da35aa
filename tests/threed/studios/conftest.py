"""A learned subject on disk and a stand-in for threestudio's registry, as its documentation describes it."""

import dataclasses
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import to_jsonable
from pcs_ext.image.adapters import build_adapter, injected
from pcs_ext.image.adapters.low_rank_config import LowRankConfig
from pcs_ext.image.backbones.load import load_backbone


@pytest.fixture
def subject(tmp_path: Path, tiny_sd_path: Path) -> Path:
    """An artifact folder: a LoRA that changes much, on the tiny base."""
    backbone = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    settings = LowRankConfig(rank=2)
    adapter = build_adapter("lora", settings)
    with injected(backbone, adapter), torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in itertools.chain(*adapter.parameters().values()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        tensors = {key: value.clone() for key, value in adapter.state_dict().items()}
    folder = tmp_path / "subject"
    ArtifactData(
        recipe={"id": "dreambooth-lora", "sampling": {}},
        concept={"class_noun": "dog", "mode": "rare", "token": "sks"},
        adapters={"lora": to_jsonable(settings)},
        tensors={"lora": tensors},
        base_name=str(tiny_sd_path),
        base_fingerprint=backbone.fingerprint,
        base_family="sd",
        training={},
    ).save(folder)
    return folder


class Registry(types.ModuleType):
    """`register` and `find`; a name can be taken once."""

    def __init__(self) -> None:
        super().__init__("threestudio")
        self.classes: dict[str, Any] = {}

    def register(self, name: str) -> Any:
        def decorate(cls: Any) -> Any:
            assert name not in self.classes
            self.classes[name] = cls
            return cls

        return decorate

    def find(self, name: str) -> Any:
        return self.classes[name]


class BaseObject:
    """Structured configuration with unknown keys refused, then `configure`."""

    Config: Any

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = self.Config(**cfg)
        self.configure()

    def configure(self) -> None: ...


class DreamFusionSystem(BaseObject):
    """The parts of `dreamfusion-system` that a subclass builds on; its renderer returns a trainable grey."""

    @dataclasses.dataclass
    class Config:
        loss: dict[str, float] = dataclasses.field(default_factory=dict)

    def configure(self) -> None:
        self.grey = torch.tensor(0.25, requires_grad=True)
        self.seen: list[dict[str, Any]] = []

    def C(self, value: float) -> float:
        return value

    def __call__(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        self.seen.append(batch)
        return {"comp_rgb": self.grey.expand_as(batch["rays_d"])}

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return {"loss": self.grey * 0}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The stand-in, importable as threestudio, with the suite's parts registered by the installed folder's one call."""
    from pcs_ext.threed.studios.threestudio_parts import register_parts

    made, utils, base = Registry(), types.ModuleType("threestudio.utils"), types.ModuleType("threestudio.utils.base")
    base.BaseObject = BaseObject  # type: ignore[attr-defined]
    made.register("dreamfusion-system")(DreamFusionSystem)
    for name, module in (("threestudio", made), ("threestudio.utils", utils), ("threestudio.utils.base", base)):
        monkeypatch.setitem(sys.modules, name, module)
    register_parts()
    return made
