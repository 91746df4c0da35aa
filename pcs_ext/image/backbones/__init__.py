"""Backbone families: Stable Diffusion 1.x/2.x, SDXL; flow-matching families get a file of their own here."""
