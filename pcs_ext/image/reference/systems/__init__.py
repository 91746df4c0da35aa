"""The systems: where each puts pictures into a base."""
