"""Vector pictures: scenes of cubic paths, files in and out, a differentiable rasteriser, losses, vectorisation."""
