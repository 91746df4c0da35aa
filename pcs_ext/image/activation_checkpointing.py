"""Trade time for memory: activations are computed again in the backward pass instead of being kept."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from pcs_ext.errors import UsageError


@contextlib.contextmanager
def activation_checkpointing(module: nn.Module) -> Iterator[None]:
    """Inside, the blocks of a diffusers or transformers model keep only their inputs; gradients are the same.

    Differs from transformers' own switch, which does nothing for a model in eval mode, as frozen encoders are: the
    blocks are put in train mode themselves, without their children, so that no dropout wakes up.

    Raises:
        UsageError: the model has no blocks that can be recomputed.
    """
    from diffusers.models.modeling_utils import ModelMixin
    from transformers import PreTrainedModel

    if isinstance(module, ModelMixin):
        manager = _diffusers(module)
    elif isinstance(module, PreTrainedModel):
        manager = _transformers(module)
    else:
        raise UsageError(f"cannot recompute activations of a {type(module).__name__}; expected a diffusers or "
                         "transformers model.")  # fmt: skip
    with manager:
        yield


@contextlib.contextmanager
def _diffusers(module: Any) -> Iterator[None]:
    if not module._supports_gradient_checkpointing:
        raise UsageError(f"{type(module).__name__} cannot recompute activations; leave activation checkpointing off.")
    module.enable_gradient_checkpointing()
    try:
        yield
    finally:
        module.disable_gradient_checkpointing()


@contextlib.contextmanager
def _transformers(module: Any) -> Iterator[None]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [child for child in module.modules() if isinstance(child, GradientCheckpointingLayer)]
    if not blocks:
        raise UsageError(f"{type(module).__name__} cannot recompute activations; leave activation checkpointing off.")
    modes = [block.training for block in blocks]
    module.gradient_checkpointing_enable({"use_reentrant": False})
    for block in blocks:
        block.training = True
    try:
        yield
    finally:
        module.gradient_checkpointing_disable()
        for block, mode in zip(blocks, modes, strict=True):
            block.training = mode
