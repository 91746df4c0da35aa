"""A stranger's file in a base, as numbers only: of the file's own settings its layers' strength alone is followed."""

import contextlib
import re
from collections.abc import Iterator

import torch
from torch import nn

from pcs_ext.defense.audit.contents import Contents, LearnedRows
from pcs_ext.defense.audit.foreign import told
from pcs_ext.defense.audit.layers import LayerChange, finite
from pcs_ext.errors import ArtifactError
from pcs_ext.image.adapters import EmbeddingAdapter, EmbeddingConfig, injected
from pcs_ext.image.adapters.layers import canonical_path, original_modules
from pcs_ext.image.backbone import AbstractBackbone


def stand_in(index: int) -> str:
    """The placeholder that stands for the file's learned token number `index` in the audit's prompts."""
    return f"<audited-{index}>"


@contextlib.contextmanager
def applied(contents: Contents, backbone: AbstractBackbone) -> Iterator[None]:
    """The base with the file's rows and weight changes in it; afterwards it is as before, bit for bit.

    Raises:
        ArtifactError: they do not fit this base, or give it numbers that are not finite.
    """
    placed = places(contents, backbone)
    adapters = [_adapter(index, token) for index, token in enumerate(contents.tokens)]
    before: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for layer, module, name in placed:
            weight = module._parameters[name]
            assert weight is not None
            before.append((module, name, weight))
            changed = (weight.detach().float() + layer.delta(weight)).to(weight.dtype)
            module._parameters[name] = nn.Parameter(finite(changed, layer.name), requires_grad=False)
        with injected(backbone, *adapters):
            yield
    finally:
        for module, name, weight in reversed(before):
            module._parameters[name] = weight


def places(contents: Contents, backbone: AbstractBackbone) -> list[tuple[LayerChange, nn.Module, str]]:
    """Each change with the module and the name of the weight it belongs to.

    Raises:
        ArtifactError: a change belongs to nothing in this base; the message names up to three.
    """
    known = _weights(backbone)
    found, lost = [], []
    for layer in contents.layers:
        name = layer.name if layer.form == "weight" else f"{layer.name}.weight"
        candidates = [layer.component] if layer.component else list(backbone.components())
        place = next((known[c, _flat(c, name)] for c in candidates if (c, _flat(c, name)) in known), None)
        if place is None:
            lost.append(f"{layer.component or '?'}.{layer.name}")
        else:
            found.append((layer, *place))
    if lost:
        named = ", ".join(told(name) for name in lost[:3])
        raise ArtifactError(
            f"{len(lost)} of {len(contents.layers)} changed layers are not in {backbone.name} (such as "
            f"{named}); the file was made for another base. Give that one with --base."
        )
    return found


def _weights(backbone: AbstractBackbone) -> dict[tuple[str, str], tuple[nn.Module, str]]:
    """Component and path, dots as underscores -> module and name of the weight."""
    return {
        (component, _flat(component, f"{path}.{name}")): (module, name)
        for component, root in backbone.components().items()
        for path, module in original_modules(root)
        for name in module._parameters
    }


def _flat(component: str, path: str) -> str:
    """One spelling for all formats: kohya writes underscores for dots."""
    return re.sub(r"[._]", "_", canonical_path(component, path.replace("text_model_", "text_model.", 1)))


def _adapter(index: int, token: LearnedRows) -> EmbeddingAdapter:
    count = len(next(iter(token.rows.values())))
    adapter = EmbeddingAdapter(f"audited{index}", EmbeddingConfig(placeholder=stand_in(index), num_vectors=count))
    state = {f"{name}.{part}": rows for name, rows in token.rows.items() for part in ("weight", "initial")}
    adapter.load_state_dict(state)
    return adapter


@torch.no_grad()
def ordinary_prompts_change(contents: Contents) -> bool:
    """Whether prompts that do not call the subject can change at all: not with learned tokens alone."""
    return bool(contents.layers)
