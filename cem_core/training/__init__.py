"""Adversarial training from a recipe. `recipe` loads no torch."""
