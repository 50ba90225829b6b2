"""Backbones, their heads and weights, and what of them learns."""
