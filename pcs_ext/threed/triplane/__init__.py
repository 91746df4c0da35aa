"""A 3D-aware generator on three planes, trained on stylised views that a diffusion model makes."""
