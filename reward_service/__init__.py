"""The reward service: re-simulates scenes and scores generated videos against them."""
