"""`python -m phys4d.models.describe`: figures that can be computed by hand, and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phys4d.models.describe import describe, table, text

ROOT = Path(__file__).parents[3]


def small(preset: str, **changes: object) -> dict:
    return describe(
        preset, **{"frames": None, "height": None, "width": None, "rank": 32, "cost": False, **changes}
    )


def test_the_description_of_a_published_model_holds_its_known_figures() -> None:
    wan = small("wan2.2-5b")
    assert wan["transformer_parameters"] == 4_999_787_712
    assert wan["classes"]["vae"] == "AutoencoderKLWan"
    assert wan["strides"] == {"temporal": 4, "spatial": 16, "pixels_per_token": 32}
    assert wan["video_tokens"] == 31 * 22 * 40
    assert wan["memory_gib"]["transformer_bf16"] == pytest.approx(4_999_787_712 * 2 / 2**30)
    # A pair of factors for each of 8 square layers and 2 of the feed-forward, in 30 blocks.
    assert wan["lora"]["parameters"] == 30 * 32 * (8 * 2 * 3072 + 2 * (3072 + 14336))
    assert (wan["heads"]["upsampling"], wan["heads"]["temporal_stride"]) == (32, 4)
    assert small("wan2.2-5b", frames=49, height=480, width=832)["latents"] == [48, 13, 30, 52]


def test_flops_of_a_tiny_model_are_those_of_its_matrices() -> None:
    """Two per weight and token in every linear layer of a block, and 4 N^2 D in its attention."""
    result = small("tiny-cogvideox", cost=True)
    video, tokens, width, layers = (
        result["video_tokens"],
        result["video_tokens"] + result["text_tokens"],
        128,
        6,
    )
    per_block = 2 * 12 * width**2 * tokens + 4 * tokens**2 * width
    ends = 2 * width * (32 * 4 * video + 64 * result["text_tokens"] + 64 * video)
    modulation = 2 * (layers * 2 * 6 * width * width + 2 * width * width + 2 * width * width)
    assert result["tflop"]["denoiser_call"] * 1e12 == pytest.approx(
        layers * per_block + ends + modulation, rel=1e-6
    )
    # Backward without gradients of the frozen weights costs about one more forward; an adapter of rank r on
    # width D adds up to 2 r / D, thrice: at rank 32 and width 128 that is not little.
    assert 1.9 < result["tflop"]["lora_step"] / result["tflop"]["denoiser_call"] < 3.5
    assert result["tflop"]["lora_step_checkpointed"] > 1.2 * result["tflop"]["lora_step"]
    memory = result["memory_gib"]
    assert 0 < memory["activations_checkpointed"] < 0.5 * memory["activations"]
    assert "tiny-cogvideox" in table([result]).splitlines()[2]
    assert "transformer_parameters" in text(result)


def test_sizes_and_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="num_frames must be 1 more than a multiple of 4, got 50; use 49"):
        small("cogvideox-5b", frames=50)
    with pytest.raises(ValueError, match="did you mean 'tiny-wan'"):
        small("tiny_wan")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phys4d.models.describe", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_prints_json_and_tells_an_unknown_preset_in_one_line() -> None:
    done = run("tiny-wan", "--json")
    assert json.loads(done.stdout)["transformer_parameters"] == 1_765_824
    wrong = run("wan2-5b", "--json")
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == "error: unknown preset 'wan2-5b'; did you mean 'wan2.2-5b'?"
