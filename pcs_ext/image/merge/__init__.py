"""Several learned subjects in one artifact."""

from pcs_ext.image.merge.combine import Method, merge

__all__ = ["Method", "merge"]
