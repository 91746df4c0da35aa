"""What a rendering costs, by hand."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FeatureFieldAdapter, FeatureFieldConfig
from pcs_ext.image.feature_nerf import Rendering
from pcs_ext.image.terms import RenderingConfig, RenderingTerm, Step
from pcs_ext.image.types import Batch


def test_colours_silhouette_and_background_by_hand(sd) -> None:
    adapter = FeatureFieldAdapter("view", FeatureFieldConfig(caption="<subject>"))
    images, masks = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    images[1, :, :, :2] = 1.0  # white on the left, gray on the right
    masks[1, :, :2, :2] = 1  # the subject: upper left
    batch = Batch(images=images, captions=("", ""), masks=masks)
    rendering = Rendering(
        features=torch.zeros(1, 4, 8),
        colors=torch.tensor([[[0.8, 0.8, 0.8], [0, 0, 0], [0, 0, 0], [0, 0, 0]]]),
        opacity=torch.tensor([[0.9, 0.3, 0.0, 0.6]]),
    )
    adapter.rendered = {"block": (rendering, torch.tensor([1]), (2, 2))}
    step = Step(
        backbone=sd, batch=batch, conditioning=sd.encode_prompt(["", ""]), adapters={"view": adapter}, maps=None,
        generator=torch.Generator(),
    )  # fmt: skip
    weights = RenderingConfig(color=5.0, silhouette=10.0, background=100.0)
    expected = 5 * 0.2**2 + 10 * 0.1 + 100 * (0.3 + 0.0 + 0.6) / 3
    torch.testing.assert_close(RenderingTerm(weights)(step), torch.tensor(expected))
    adapter.rendered = {}
    assert RenderingTerm(weights)(step) == 0
    with pytest.raises(ConfigError, match="0 or more"):
        RenderingConfig(color=-1.0)
    step.adapters.clear()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="an adapter of kind feature_field"):
        RenderingTerm(weights)(step)
