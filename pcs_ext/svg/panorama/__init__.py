"""360 degree panoramas: equirectangular pictures sampled in windows, projected, marked for viewers."""
