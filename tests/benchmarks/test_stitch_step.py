"""The released listing's sequence and ours must end in the same canvas, or their times say nothing."""

import torch

from benchmarks.stitch_step import listing, ours
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.svg.panorama.stitch import periodic


def test_both_ways_end_in_the_same_canvas(sd: AbstractBackbone) -> None:
    canvas = periodic(torch.randn(1, 4, 8, 32, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        theirs, mine = listing(sd, canvas), ours(sd, canvas)
    assert (theirs - canvas).abs().max() > 1e-2, "no step was taken"
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
