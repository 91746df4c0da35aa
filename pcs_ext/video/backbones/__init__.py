"""Families of video models."""
