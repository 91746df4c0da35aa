"""The shared core: teach an image diffusion model a subject, sample it, measure it, export it."""
