"""Stage 1: depth and motion heads on pseudo-labels over the frozen transformer, and the tiny base model."""
