"""The embedded base: a procedural world whose truth is known, and the small models trained on it."""
