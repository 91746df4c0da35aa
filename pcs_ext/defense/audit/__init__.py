"""Audit of learned files from strangers: what is in them, and whether words switch what they paint."""
