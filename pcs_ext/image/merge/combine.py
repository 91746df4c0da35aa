"""Several learned subjects in one: their words side by side, their weights joined by least squares."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.adapters import (
    AbstractAdapter,
    AdapterConfig,
    CrossAttentionConfig,
    FullConfig,
    LiDBConfig,
    LowRankConfig,
    NeuronsConfig,
    SpectralShiftConfig,
    build_adapter,
    injected,
)
from pcs_ext.image.adapters.layers import canonical_path, merged_weights, original
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import fill, neutral_captions
from pcs_ext.image.merge.activations import input_grams
from pcs_ext.image.merge.least_squares import constrained, fused
from pcs_ext.image.merge.words import WORD_ADAPTERS, NamedSubject, joint_concept, named_subjects
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter

Method = Literal["auto", "kv", "fusion", "neurons"]
_LAYERED = (LowRankConfig, CrossAttentionConfig, SpectralShiftConfig, LiDBConfig)
_PROMPTS = ("a photo of {subject}", "a photo of {subject} on the beach", "a close-up photo of {subject}")


def merge(
    artifacts: Sequence[Artifact],
    names: Sequence[str],
    backbone: AbstractBackbone,
    *,
    method: Method = "auto",
    config: SampleConfig | None = None,
    reporter: Reporter | None = None,
) -> ArtifactData:
    """One artifact of several subjects. Prompts say each one's words (`NamedSubject.words`), or `{subject}` for all.

    Args:
        artifacts: learned on this backbone, on their own.
        names: of the subjects; learned words become `<name>`.
        backbone: their base, without adapters; it is left as it was.
        method: `kv`: cross-attention keys and values that give every subject's words what its own weights give them
            (Custom Diffusion). `fusion`: all changed layers, fitted on what they read while each subject is painted
            (Mix-of-Show). `neurons`: the union of the weights that are shut (Cones). `auto`: neurons where such were
            learned, kv where nothing but keys and values was.
        config: how subjects are painted for `fusion`; None: as the first one is, in a third of the steps.
        reporter: hears the progress.

    Raises:
        UsageError: see `named_subjects`; a method that does not fit what was learned.
        ArtifactError: a subject of another base.
    """
    reporter = reporter or SilentReporter()
    subjects = named_subjects(artifacts, names)
    _check(subjects, backbone)
    method = _method(subjects, method)
    words = {
        f"{subject.name.replace('-', '_')}_{key}": (config_, subject.artifact.data.tensors_of(key))
        for subject in subjects
        for key, config_ in subject.adapters.items()
        if isinstance(config_, WORD_ADAPTERS)
    }
    adapters: dict[str, tuple[AdapterConfig, dict[str, Tensor]]] = {**words}
    if method == "neurons":
        adapters["neurons"] = _united(subjects)
    elif any(isinstance(value, _LAYERED) for subject in subjects for value in subject.adapters.values()):
        weights = _constrained(subjects, backbone) if method == "kv" else _fused(subjects, backbone, config, reporter)
        adapters["weights"] = weights
    return _data(subjects, adapters, method)


def _check(subjects: Sequence[NamedSubject], backbone: AbstractBackbone) -> None:
    for subject in subjects:
        if subject.artifact.data.base_fingerprint != backbone.fingerprint:
            raise ArtifactError(
                f"{subject.name} was learned on {subject.artifact.data.base_name} with other weights than "
                f"{backbone.name}; merge subjects of one base."
            )
        for key, config in subject.adapters.items():
            if not isinstance(config, (*WORD_ADAPTERS, *_LAYERED, NeuronsConfig)):
                raise UsageError(
                    f"{subject.name} learned {key!r} of kind {config.kind!r}, which merge cannot join; expected "
                    "learned words, low_rank, svd, cross_attention or neurons."
                )


def _method(subjects: Sequence[NamedSubject], method: Method) -> Literal["kv", "fusion", "neurons"]:
    shut = [
        isinstance(c, NeuronsConfig) for s in subjects for c in s.adapters.values() if not isinstance(c, WORD_ADAPTERS)
    ]
    if any(shut) or method == "neurons":
        if not all(shut) or not shut or method not in ("auto", "neurons"):
            raise UsageError(
                "neurons (recipe cones) are joined by their union, among themselves; these subjects learned "
                f"{'more' if any(shut) else 'none'}, or --method is {method!r}. Join subjects of one kind."
            )
        return "neurons"
    layered = [c for subject in subjects for c in subject.adapters.values() if isinstance(c, _LAYERED)]
    plain = all(
        isinstance(c, CrossAttentionConfig) and set(c.projections) <= {"to_k", "to_v"} for c in layered
    ) and not any(c.kind in ("spectrum", "neti") for subject in subjects for c in subject.adapters.values())
    if method == "kv" and not plain:
        raise UsageError(
            "method kv joins cross-attention keys and values of subjects with plain words (custom-diffusion); these "
            "learned more. Take --method fusion."
        )
    if method == "auto":
        return "kv" if plain else "fusion"
    return method


@contextlib.contextmanager
def _in(subject: NamedSubject, backbone: AbstractBackbone) -> Iterator[None]:
    """Inside, the backbone has this subject in it, under its new words."""
    adapters: list[AbstractAdapter] = []
    for key, config in subject.adapters.items():
        adapter = build_adapter(key, config)
        adapter.load_state_dict(subject.artifact.data.tensors_of(key))
        adapters.append(adapter)
    with injected(backbone, *adapters):
        yield


def _united(subjects: Sequence[NamedSubject]) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """All that any of the subjects shuts."""
    found: dict[str, list[Tensor]] = {}
    for subject in subjects:
        for key, config in subject.adapters.items():
            if isinstance(config, NeuronsConfig):
                for name, indices in subject.artifact.data.tensors_of(key).items():
                    found.setdefault(name, []).append(indices)
    return NeuronsConfig(), {name: torch.unique(torch.cat(each)) for name, each in found.items()}


@torch.no_grad()
def _constrained(
    subjects: Sequence[NamedSubject], backbone: AbstractBackbone
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    paths = [f"{path}.{name}" for path in backbone.cross_attention_paths() for name in ("to_k", "to_v")]
    base = {path: _weight(backbone.denoiser, path).float() for path in paths}
    context = _features(backbone, neutral_captions(), after="")
    inputs: list[Tensor] = []
    outputs: dict[str, list[Tensor]] = {path: [] for path in paths}
    for subject in subjects:
        with _in(subject, backbone):
            prompt = fill("photo of {subject}", subject.words)
            rows = _features(backbone, [prompt], after=prompt.removesuffix(subject.words))
            own = merged_weights(backbone.denoiser)
        inputs.append(rows)
        for path in paths:
            outputs[path].append(rows @ own.get(path, base[path]).float().T)
    wanted = torch.cat(inputs)
    state = {}
    for path in paths:
        weight = constrained(base[path], context, wanted, torch.cat(outputs[path]))
        state[f"denoiser.{path}.delta"] = (weight - base[path]).cpu().contiguous()
    return CrossAttentionConfig(), state


def _features(backbone: AbstractBackbone, prompts: Sequence[str], *, after: str) -> Tensor:
    """Encoded words `m d`, float32, without the start, the words of `after`, the padding and rows that come twice."""
    states = backbone.encode_prompt(prompts).states.float()
    first = 1 + (backbone.token_count(after) if after.strip() else 0)
    rows = [state[first : 1 + backbone.token_count(prompt)] for state, prompt in zip(states, prompts, strict=True)]
    return torch.unique(torch.cat(rows), dim=0)


@torch.no_grad()
def _fused(
    subjects: Sequence[NamedSubject], backbone: AbstractBackbone, config: SampleConfig | None, reporter: Reporter
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    config = config or _shorter(subjects[0].artifact.sampling)
    weights: list[dict[tuple[str, str], Tensor]] = []
    for subject in subjects:
        with _in(subject, backbone):
            weights.append(_changed(backbone))
    changed = list(dict.fromkeys(key for own in weights for key in own))
    places = {c: [path for component, path in changed if component == c] for c in backbone.components()}
    grams: list[dict[tuple[str, str], Tensor]] = []
    for index, subject in enumerate(subjects):
        with _in(subject, backbone):
            prompts = [fill(prompt, subject.words) for prompt in _PROMPTS]
            grams.append(input_grams(backbone, places, prompts, config))
        reporter.progress("merge", index + 1, len(subjects))
    state: dict[str, Tensor] = {}
    for component, path in changed:
        base = _weight(backbone.components()[component], path)
        matrix = base.float().flatten(1).cpu()
        own = [w[component, path].flatten(1).cpu() if (component, path) in w else matrix for w in weights]
        weight = fused(matrix, own, [gram[component, path] for gram in grams])
        state[f"{component}.{canonical_path(component, path)}.weight"] = weight.view(base.shape).contiguous()
    components: Any = tuple(c for c in backbone.components() if places[c])
    include = tuple(f"^{re.escape(key.partition('.')[2])}$" for key in state)
    return FullConfig(components=components, include=tuple(dict.fromkeys(include))), state


def _changed(backbone: AbstractBackbone) -> dict[tuple[str, str], Tensor]:
    """Weights of the layers that adapters stand in front of, by component and path; token tables are none."""
    return {
        (component, path): weight.float()
        for component, module in backbone.components().items()
        for path, weight in merged_weights(module).items()
        if isinstance(original(module.get_submodule(path)), (nn.Linear, nn.Conv2d))
    }


def _weight(component: nn.Module, path: str) -> Tensor:
    weight = original(component.get_submodule(path)).weight
    assert isinstance(weight, Tensor)
    return weight


def _shorter(config: SampleConfig) -> SampleConfig:
    return dataclasses.replace(config, num_inference_steps=max(2, config.num_inference_steps // 3))


def _data(
    subjects: Sequence[NamedSubject],
    adapters: dict[str, tuple[AdapterConfig, dict[str, Tensor]]],
    method: str,
) -> ArtifactData:
    first = subjects[0].artifact.data
    photos = {
        f"{s.name}/{name}": digest for s in subjects for name, digest in s.artifact.data.training["photos"].items()
    }
    sources = {subject.name: subject.artifact.data.content_hash for subject in subjects}
    return ArtifactData(
        recipe={"id": "merge", "method": method, "subjects": sources, "sampling": first.recipe["sampling"]},
        concept=to_jsonable(joint_concept(subjects)),
        adapters={name: to_jsonable(config) for name, (config, _) in adapters.items()},
        tensors={name: tensors for name, (_, tensors) in adapters.items()},
        base_name=first.base_name,
        base_fingerprint=first.base_fingerprint,
        base_family=first.base_family,
        training={**first.training, "photos": photos, "steps": 0, "losses": []},
    )
