"""Measures of a learned subject: fidelity, prompt following, diversity, drift and copying, each with its encoder."""
