"""The systems: where each puts a photo into a clip model."""
