"""The words of the world and the colours they stand for."""

CLASSES = ("robot", "dog", "cat", "car", "teapot", "house", "mug", "boat", "rocket", "duck", "bear", "tree")
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.13, 0.13),
    "orange": (0.97, 0.55, 0.10),
    "yellow": (0.96, 0.86, 0.18),
    "green": (0.16, 0.62, 0.24),
    "blue": (0.14, 0.28, 0.85),
    "purple": (0.52, 0.18, 0.70),
    "pink": (0.97, 0.52, 0.72),
    "white": (0.96, 0.96, 0.96),
    "black": (0.11, 0.11, 0.12),
    "brown": (0.48, 0.28, 0.13),
    "gray": (0.50, 0.50, 0.52),
    "cyan": (0.18, 0.80, 0.86),
}
PATTERNS = ("", "striped", "spotted", "checkered", "zigzag")
ACCESSORIES = ("", "wearing a red hat", "wearing a party cone", "wearing a crown", "wearing a blue scarf")
CONTEXTS = (
    "on the beach",
    "in the snow",
    "on the grass",
    "in the desert",
    "at night",
    "in a room",
    "on a wooden table",
    "in the city",
    "under water",
    "in the mountains",
    "on a plain background",
)
STYLES = ("a photo of", "a pencil sketch of", "pixel art of", "an oil painting of", "flat vector art of")
VIEWS = ("front view", "side view", "back view", "overhead view")
MOTIONS = (
    "spinning",
    "jumping",
    "sliding to the left",
    "sliding to the right",
    "rolling over",
    "swaying",
    "while the camera zooms in",
    "while the camera orbits",
)
