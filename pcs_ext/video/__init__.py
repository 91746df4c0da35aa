"""Appearance and motion customization of video diffusion models."""
