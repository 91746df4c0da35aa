"""What an artifact holds, module by module: the form that every export format is written from."""

import dataclasses
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import ArtifactError, ConfigError, UsageError
from pcs_ext.image.adapters import (
    AdapterConfig,
    CrossAttentionConfig,
    EmbeddingConfig,
    ImageResidualConfig,
    LiDBConfig,
    LowRankConfig,
)
from pcs_ext.image.adapters.lidb import LiDBSpace

_KEY = re.compile(
    r"(?P<component>denoiser|text_encoder|text_encoder_2)\.(?P<path>.+)\."
    r"(?P<tensor>lora_A\.weight|lora_B\.weight|lora_magnitude_vector|hada_w\d_[ab]|lokr_w\d(?:_[ab])?|oft_R\.weight|delta)"
)
EXPRESSIBLE = {
    "diffusers": "lora, dora, lidb",
    "peft": "lora, dora, loha, lokr, oft, lidb",
    "kohya": "lora, dora, loha, lokr, cross_attention, lidb",
    "textual-inversion": "embedding",
    "diffusers-model": "lora, dora, loha, lokr, oft, svd, cross_attention, neurons, full, lidb",
}
"""Format -> the adapters it can hold."""
LEFT_OUT = (ImageResidualConfig,)
"""Configurations of adapters that have no part in generating pictures: no file needs them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModule:
    """What was trained in front of one layer."""

    component: str
    """`denoiser`, `text_encoder` or `text_encoder_2`."""
    path: str
    """Module path in the component; `text_model.` leads those of text encoders."""
    method: str
    """`lora`, `dora`, `loha`, `lokr`, `oft` or `cross_attention` (a full-rank difference)."""
    tensors: dict[str, Tensor]
    """By peft's names: `lora_A.weight`, `hada_w1_a`, ..., or `delta`."""
    config: LowRankConfig | CrossAttentionConfig
    """Of the adapter it belongs to."""

    @property
    def rank(self) -> int:
        """Rank of dW as loaders read it off the tensors; for lokr with both factors full, the configured one."""
        ranked = (("lora_A.weight", 0), ("hada_w1_b", 0), ("lokr_w2_b", 0), ("lokr_w1_b", 0))
        for name, axis in ranked:
            if name in self.tensors:
                return self.tensors[name].shape[axis]
        assert isinstance(self.config, LowRankConfig)
        return self.config.rank

    @property
    def scaling(self) -> float:
        """What dW is multiplied by."""
        return self.config.scaling if isinstance(self.config, LowRankConfig) else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedToken:
    """The rows of one placeholder."""

    placeholder: str
    rows: dict[str, Tensor]
    """`text_encoder`, `text_encoder_2` -> `n d`, float32."""


def adapter_configs(data: ArtifactData) -> dict[str, AdapterConfig]:
    """The artifact's adapter configurations, typed.

    Raises:
        ArtifactError: one is not a configuration of this version.
    """
    try:
        return {name: from_jsonable(AdapterConfig, c, where=f"adapter {name!r}") for name, c in data.adapters.items()}  # type: ignore[arg-type]
    except ConfigError as error:
        raise ArtifactError(f"the artifact's settings are not readable: {error}") from None


def trained_modules(data: ArtifactData, *, target: str, allowed: Iterable[str]) -> list[TrainedModule]:
    """Everything but learned tokens, for a format that can hold the `allowed` methods.

    Raises:
        UsageError: something the format cannot express, or nothing to write; the message names formats that can.
        ArtifactError: tensors that belong to no adapter of this kind.
    """
    allowed = set(allowed)
    modules: list[TrainedModule] = []
    factored: list[TrainedModule] = []
    for name, config in adapter_configs(data).items():
        if isinstance(config, (EmbeddingConfig, *LEFT_OUT)):
            continue
        if isinstance(config, LiDBConfig) and "lora" in allowed:
            factored += _as_lora(data, name, config)
            continue
        method = method_of(config)
        if method not in allowed:
            raise UsageError(cannot_express(method, target))
        assert isinstance(config, (LowRankConfig, CrossAttentionConfig))
        modules += _split(data, name, config, method)
    modules = _joined(modules, factored)
    if not modules:
        raise UsageError(
            f"this subject has no trained layers to write as {target}; its learned tokens go into a "
            "textual-inversion file."
        )
    _refuse_overlap(modules, target)
    return modules


def method_of(config: AdapterConfig) -> str:
    """How formats call what an adapter does."""
    return config.method if isinstance(config, LowRankConfig) else config.kind


def cannot_express(method: str, target: str) -> str:
    """Which formats can hold what this one cannot."""
    able = [name for name, methods in EXPRESSIBLE.items() if method in methods.split(", ")]
    if able:
        way_out = f"formats that can: {', '.join(able)}."
    else:
        way_out = "no format of other tools can. Use the subject with pcs-ext, which applies it while it generates."
    return f"the {target} format cannot hold {method} adapters, it holds {EXPRESSIBLE[target]}; {way_out}"


def learned_tokens(data: ArtifactData) -> list[LearnedToken]:
    """The artifact's learned tokens; none is an empty list."""
    return [
        LearnedToken(
            placeholder=config.placeholder,
            rows={
                key.removesuffix(".weight"): tensor
                for key, tensor in data.tensors_of(name).items()
                if key.endswith(".weight")
            },
        )
        for name, config in adapter_configs(data).items()
        if isinstance(config, EmbeddingConfig)
    ]


def _split(
    data: ArtifactData, name: str, config: LowRankConfig | CrossAttentionConfig, method: str
) -> list[TrainedModule]:
    grouped: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in data.tensors_of(name).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ArtifactError(f"adapter {name!r} holds {key!r}, which is not a tensor of a {method} adapter.")
        grouped.setdefault((match["component"], match["path"]), {})[match["tensor"]] = tensor
    return [
        TrainedModule(component=component, path=path, method=method, tensors=tensors, config=config)
        for (component, path), tensors in grouped.items()
    ]


def _as_lora(data: ArtifactData, name: str, config: LiDBConfig) -> list[TrainedModule]:
    """Lightweight DreamBooth with its basis multiplied out: LoRA of the same rank, for tools that know no basis."""
    tensors, same = data.tensors_of(name), LowRankConfig(rank=config.rank, components=config.components)
    modules = []
    for key in tensors:
        place, _, tensor = key.rpartition(".")
        if tensor != "lidb_up":
            continue
        outputs, inputs = tensors[f"{place}.lidb_size"].tolist()
        space = LiDBSpace.of(config, place, outputs, inputs)
        component, _, path = place.partition(".")
        found = {
            "lora_A.weight": tensors[f"{place}.lidb_down"] @ space.flat,
            "lora_B.weight": space.wide @ tensors[key],
        }
        modules.append(TrainedModule(component=component, path=path, method="lora", tensors=found, config=same))
    return modules


def _joined(modules: list[TrainedModule], factored: list[TrainedModule]) -> list[TrainedModule]:
    """Updates that stand in front of a LoRA's layers become part of it: the ranks add up."""
    others = {(module.component, module.path): module for module in factored}
    joined = []
    for module in modules:
        other = others.pop((module.component, module.path), None) if module.method == "lora" else None
        joined.append(module if other is None else _stacked(module, other))
    return [*joined, *others.values()]


def _stacked(one: TrainedModule, other: TrainedModule) -> TrainedModule:
    """One LoRA whose update is the sum of two, B = [s1 B1, s2 B2] and A = [A1; A2], at scale 1."""
    assert isinstance(one.config, LowRankConfig)
    rank = one.rank + other.rank
    tensors = {
        "lora_A.weight": torch.cat([one.tensors["lora_A.weight"], other.tensors["lora_A.weight"]]),
        "lora_B.weight": torch.cat([m.scaling * m.tensors["lora_B.weight"] for m in (one, other)], dim=1),
    }
    config = dataclasses.replace(one.config, rank=rank, alpha=float(rank), use_rslora=False)
    return dataclasses.replace(one, tensors=tensors, config=config)


def _refuse_overlap(modules: list[TrainedModule], target: str) -> None:
    seen: set[tuple[str, str]] = set()
    for module in modules:
        place = (module.component, module.path)
        if place in seen and target != "diffusers-model":
            raise UsageError(
                f"two adapters of this subject work on {module.component}.{module.path}; {target} holds one per "
                "layer. The diffusers-model format, which merges all of them into the weights, can hold both."
            )
        seen.add(place)
