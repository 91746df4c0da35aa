"""A learned subject of the core in the spatial part of a video model."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import ArtifactError
from pcs_ext.image.adapters import (
    AbstractAdapter,
    AdapterConfig,
    EmbeddingConfig,
    FullConfig,
    GuideConfig,
    LiDBConfig,
    LowRankConfig,
    PairAdapter,
    ReferenceConfig,
    SideNetworkConfig,
    SpectralShiftConfig,
    build_adapter,
    injected,
)
from pcs_ext.image.adapters.layers import canonical_path, original_modules
from pcs_ext.image.subject import Artifact
from pcs_ext.video.backbone import AbstractVideoBackbone

# What adapters call their tensors: the layer's path ends before it.
_TENSOR = re.compile(
    r"\.(lora|hada|lokr|oft|lidb)_\w+(\.\w+)*$|\.(down|up|condition)\.(weight|bias)$|\.(weight|bias|delta)$"
)


@contextlib.contextmanager
def subject_applied(
    subject: Artifact, backbone: AbstractVideoBackbone, *, scale: float = 1.0
) -> Iterator[tuple[AbstractAdapter, ...]]:
    """Put a subject into the spatial layers and the text encoder, and yield its adapters; on exit all is as before.

    Nothing is learned again. A subject goes exactly into the layers it was learned in, by name, never into temporal
    ones, whatever its recipe says of targets: in a text-to-video UNet a preset such as "attention" would match both. A
    motion may be applied at the same time.

    Args:
        subject: learned on an image model, or on this one.
        backbone: of a family in its `subject_families`.
        scale: strength, 1 as trained.

    Raises:
        ArtifactError: the subject was learned on another family, its layers are not those of this model, or it acts in
            a way that clips do not have.
    """
    if subject.data.base_family not in backbone.subject_families:
        raise ArtifactError(
            f"this subject was learned on a {subject.data.base_family} base ({subject.data.base_name}); "
            f"{backbone.name} takes subjects of {' or '.join(backbone.subject_families)} bases. Learn it again there."
        )
    adapters = spatial_adapters(subject, backbone)
    with injected(backbone, *adapters):
        for adapter in adapters:
            adapter.set_scale(scale)
        yield tuple(adapters)


def spatial_adapters(subject: Artifact, backbone: AbstractVideoBackbone) -> list[AbstractAdapter]:
    """The subject's adapters, narrowed to the layers that their tensors name; not yet injected."""
    built = []
    for name, settings in subject.data.adapters.items():
        config = from_jsonable(AdapterConfig, settings, where=f"adapter {name!r}")
        if isinstance(config, GuideConfig):
            continue  # it reads maps, which nobody gives in clips, and without one it does nothing
        if isinstance(config, ReferenceConfig):
            raise ArtifactError(
                "this subject looks at a picture of itself beside each picture that is painted, and frames of clips "
                "have none beside them; learn it with another recipe (`pcs-ext recipes` lists them)."
            )
        state = subject.data.tensors_of(name)
        if not isinstance(config, EmbeddingConfig):
            state = _reshaped(state, backbone)
        adapter = build_adapter(name, _narrowed(config, state))
        if isinstance(adapter, PairAdapter):
            # Of both updates: `style.denoiser.<path>.lora_A.weight`.
            adapter.narrow((_one_of({_TENSOR.sub("", key.split(".", 2)[2]) for key in state}),))
        adapter.load_state_dict(state)
        built.append(adapter)
    return built


def _narrowed(config: AdapterConfig, state: Mapping[str, Tensor]) -> AdapterConfig:
    """The same adapter on its tensors' layers alone. Words and text attention are spatial by themselves, and so are
    adapters that find the text's keys and values themselves."""
    keys = [key.partition(".")[2] for key in state]
    if isinstance(config, (LowRankConfig, SideNetworkConfig, LiDBConfig, SpectralShiftConfig)):
        return dataclasses.replace(config, targets=(_one_of({_TENSOR.sub("", key) for key in keys}),))
    if isinstance(config, FullConfig):
        return dataclasses.replace(config, include=(_one_of(keys),))
    return config


def _one_of(names: set[str] | list[str]) -> str:
    return "^(" + "|".join(re.escape(name) for name in sorted(names)) + ")$"


def _reshaped(state: Mapping[str, Tensor], backbone: AbstractVideoBackbone) -> dict[str, Tensor]:
    """Tensors as the backbone's layers have them: a projection is a matrix here, a convolution of one cell there."""
    layers = {
        f"{component}.{canonical_path(component, path)}": layer
        for component, module in backbone.components().items()
        for path, layer in original_modules(module)
    }
    return {key: _as_layer(tensor, layers.get(_TENSOR.sub("", key))) for key, tensor in state.items()}


def _as_layer(tensor: Tensor, layer: nn.Module | None) -> Tensor:
    if isinstance(layer, nn.Linear) and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    if isinstance(layer, nn.Conv2d) and tensor.dim() == 2 and layer.kernel_size == (1, 1):
        return tensor[..., None, None]
    return tensor
