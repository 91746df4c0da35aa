"""Vector art and 360 degree panoramas of a learned subject."""
