"""The copying check: copies are found, honest new pictures are not."""

import pytest
import torch
from torch.nn import functional

from pcs_ext.image.evaluate.copying import check_copying
from pcs_ext.image.evaluate.encoders import load_image_encoder


@pytest.fixture
def encoder(vit_folder):
    return load_image_encoder(vit_folder)


def _pictures(count: int, seed: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("with_truth", [True, False])
def test_copies_are_flagged_and_new_pictures_are_not(encoder, with_truth):
    references, fresh = _pictures(5, seed=0), _pictures(4, seed=1)
    noise = torch.randn(references[2].shape, generator=torch.Generator().manual_seed(2))
    copies = [references[1], (references[2] + 0.02 * noise).clamp(-1, 1), references[3].flip(-1)]
    generated = torch.cat([fresh, torch.stack(copies)])
    report = check_copying(generated, references, encoder, truth=_pictures(8, seed=3) if with_truth else None)
    assert report.copied == (4, 5, 6)
    assert report.n == 7
    assert report.honest == ("novel views" if with_truth else "other references")


def test_what_the_truth_itself_does_is_no_copy(encoder):
    references = _pictures(5, seed=0)
    near = (references * 0.5 + 0.5 * _pictures(5, seed=1)).clamp(-1, 1)
    assert check_copying(near, references, encoder, truth=near).copied == ()


def test_one_reference_alone_gives_no_limit(encoder):
    with pytest.raises(AssertionError, match="at least two references"):
        check_copying(_pictures(2, seed=1), _pictures(1, seed=0), encoder)
