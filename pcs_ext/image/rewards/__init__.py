"""Learning from what judges say of the pictures that the model makes."""
