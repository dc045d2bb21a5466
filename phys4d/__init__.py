"""Phys4D: post-train video diffusion models into physics-consistent 4D world models."""

__version__ = "0.1.0"
