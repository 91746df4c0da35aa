"""Photos stay on the CPU, what a model is shown of them is made where the model is."""

import torch
from torch import Tensor

from pcs_ext.defense.canvas import Canvas, Square
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.objectives import AttentionGain
from pcs_ext.defense.surrogate import Surrogate
from pcs_ext.defense.transforms import Blur, Crop, Flip, Jpeg, Resize
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from tests.defense.test_engine import PROMPT, SEED, frozen, noise_photos
from tests.support.elsewhere import ELSEWHERE, elsewhere, moved


def slopes(backbone: AbstractBackbone) -> list[Tensor]:
    transforms = (Resize(chance=1), Crop(chance=1), Blur(chance=1), Flip(chance=1), Jpeg(chance=1))
    found = []
    for method in (frozen(transforms=transforms), frozen(objective=AttentionGain(denoising_weight=1.0))):
        canvases = [Canvas(photo, method.budget) for photo in noise_photos(2)]
        ascent = Protection(canvases, [Surrogate(backbone, [PROMPT])], method, seed=SEED).ascents[0]
        found += ascent.gradient(canvases, 0)[0]
        assert canvases[0].view(Square(0, 0, 20), 16, canvases[0].delta, backbone.device).device == backbone.device
    return found


def test_gradients_of_a_base_elsewhere_are_those_of_one_on_the_cpu(sd: AbstractBackbone) -> None:
    assert isinstance(sd, AbstractUnetBackbone)
    expected = slopes(sd)
    with elsewhere():
        found = slopes(moved(sd))
        assert sd.device == ELSEWHERE
    assert {slope.device.type for slope in found} == {"cpu"}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert all(float(slope.abs().sum()) > 0 for slope in expected)
