"""From a learned subject to 3D assets by distillation."""
