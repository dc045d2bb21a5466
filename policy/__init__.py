"""Stage 3: reinforcement learning of the video policy from a simulator's reward."""
