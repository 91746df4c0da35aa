"""Posed pictures in and out as `transforms.json`; see the core."""

from pcs_ext.image.transforms_json import read_transforms, write_transforms

__all__ = ["read_transforms", "write_transforms"]
