"""Concept censorship: a learned subject that shows a fixed harmless picture where listed words stand beside it."""
