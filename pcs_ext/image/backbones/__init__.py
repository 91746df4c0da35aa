"""Backbone families: Stable Diffusion 1.x/2.x, SDXL. Flow matching is in `image.flow`."""
