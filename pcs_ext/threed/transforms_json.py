"""Posed pictures in and out as `transforms.json`; see the core."""

from pcs_ext.image.transforms_json import check_aspect, read_aspects, read_transforms, write_transforms

__all__ = ["check_aspect", "read_aspects", "read_transforms", "write_transforms"]
