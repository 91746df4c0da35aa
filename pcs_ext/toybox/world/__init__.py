"""A procedural 3D world of toys: scenes as values, rendered by analytic ray casting, captioned from a grammar."""
