"""Cameras; they live in the core, which learns from posed photos."""

from pcs_ext.image.cameras import Cameras, Rays, Vector, orbit, rays, ring

__all__ = ["Cameras", "Rays", "Vector", "orbit", "rays", "ring"]
