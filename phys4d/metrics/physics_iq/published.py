"""Published Physics-IQ scores of image-to-video models, to stand beside ours; none was measured here."""

PAPER = "Phys4D's table; its parts and its scores do not agree under the official formula"
BOARD = "public Physics-IQ board"

PUBLISHED: tuple[dict[str, str], ...] = (
    {"model": "CogVideoX", "metric": "Physics-IQ", "before": "18.8", "after": "30.2", "source": PAPER},
    {"model": "WAN2.2", "metric": "Physics-IQ", "before": "16.8", "after": "25.6", "source": PAPER},
    {"model": "Open-Sora", "metric": "Physics-IQ", "before": "14.5", "after": "22.4", "source": PAPER},
    {
        "model": "CogVideoX-5B",
        "metric": "Physics-IQ Original",
        "before": "32.3",
        "after": "",
        "source": BOARD,
    },
    {
        "model": "CogVideoX-5B",
        "metric": "Physics-IQ Verified",
        "before": "31.8 \N{PLUS-MINUS SIGN} 1.5",
        "after": "",
        "source": BOARD,
    },
    {
        "model": "Wan2.2-5B",
        "metric": "Physics-IQ Verified",
        "before": "27.7 \N{PLUS-MINUS SIGN} 0.9",
        "after": "",
        "source": BOARD,
    },
)
"""Of each model its score as it is and, where given, after the paper's post-training."""
