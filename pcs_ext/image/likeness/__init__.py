"""Losses on who is seen in the clean picture that a prediction implies."""
