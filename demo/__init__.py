"""The platform's main job on real images, from a clean checkout to a prediction: `python -m demo`."""
