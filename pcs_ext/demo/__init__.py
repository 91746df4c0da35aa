"""The demonstration: learn a bundled toy from five photos and show, on one page, what came of it."""
