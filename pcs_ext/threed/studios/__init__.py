"""The suite's guidance inside other 3D trainers, by their own extension points. Nothing imports these rooms."""
