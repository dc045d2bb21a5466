"""Stage 2: LoRA and heads on simulator ground truth with the warp-consistency loss."""
