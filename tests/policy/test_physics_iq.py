"""Any model's videos come out as the benchmark wants them."""

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from phys4d.metrics.physics_iq.prompts import COLUMNS
from phys4d.metrics.physics_iq.videos import inspect_clip, read_frames
from phys4d.models.registry import FULL, TINY, load_model, meta_model, tiny_model
from phys4d.runtime.config import load
from policy.inference_config import PhysicsIqConfig
from policy.physics_iq import generate

PRESETS = Path(__file__).parents[2] / "policy" / "presets" / "physics_iq"
NAMES = ("0001_perspective-left_trimmed-ball.mp4", "0002_perspective-center_trimmed-ball.mp4")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PhysicsIqConfig:
    """An untrained model, and two videos to make from an orange picture."""
    folder = tmp_path_factory.mktemp("physics-iq")
    tiny_model("tiny-wan", ["a ball falls"], width=32, num_layers=2).save(folder / "model")
    (folder / "frames").mkdir()
    with open(folder / "texts.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name in NAMES:
            video_id, view, scenario = name.removesuffix(".mp4").split("_")
            writer.writerow([f"{video_id}_{view}_take-1_{scenario}.mp4", "A ball falls.", "Solid", name])
            picture = np.full((96, 128, 3), (40, 150, 240), np.uint8)
            path = folder / "frames" / f"{video_id}_switch-frames_anyFPS_{view}_{scenario}.jpg"
            assert cv2.imwrite(str(path), picture)
    return PhysicsIqConfig(
        model=str(folder / "model"), descriptions=folder / "texts.csv", switch_frames=folder / "frames",
        width=32, height=32, num_steps=1, num_runs=2, out=folder / "out", partial=True, num_threads=1,
    )  # fmt: skip


def test_videos_are_what_the_benchmark_reads_and_a_stopped_run_goes_on(config: PhysicsIqConfig) -> None:
    runs = generate(config)
    assert [run.name for run in runs] == ["run_01", "run_02"]
    for run in runs:
        assert sorted(path.name for path in run.iterdir()) == list(NAMES)
        assert [inspect_clip(path, fps=8) for path in sorted(run.iterdir())] == [(32, 32)] * 2
    first, again = (np.stack(list(read_frames(run / NAMES[0], fps=8))) for run in runs)
    assert len(first) == 40 and (first != again).any(), "runs differ in their noise"

    kept = (runs[0] / NAMES[1]).stat().st_mtime_ns
    (runs[0] / NAMES[0]).unlink()
    generate(config)
    assert (runs[0] / NAMES[1]).stat().st_mtime_ns == kept, "what is there stays"
    made_again = np.stack(list(read_frames(runs[0] / NAMES[0], fps=8)))
    # Where a sum's last bit turns a rounding, the encoder spreads it over a block.
    assert np.abs(made_again.astype(int) - first).mean() < 0.5 < np.abs(again.astype(int) - first).mean() / 4


def test_videos_of_other_weights_or_settings_do_not_mix_into_a_folder(
    config: PhysicsIqConfig, tmp_path: Path
) -> None:
    """A stage that was trained on since has its old name."""
    once = replace(config, num_runs=1, out=tmp_path / "out")
    generate(once)
    with pytest.raises(ValueError, match=r"were made otherwise \(num_steps 1 -> 2\); remove it or choose"):
        generate(replace(once, num_steps=2))
    other = load_model(config.model)
    next(other.transformer.parameters()).data.add_(0.1)
    other.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"were made otherwise \(weights [0-9a-f]{16} -> [0-9a-f]{16}\)"):
        generate(replace(once, model=str(tmp_path / "model")))
    (tmp_path / "out" / "made_by.json").unlink()
    with pytest.raises(ValueError, match="nothing says what made .*mp4; remove"):
        generate(once)


def test_other_descriptions_do_not_mix_into_a_folder(config: PhysicsIqConfig, tmp_path: Path) -> None:
    text = config.descriptions.read_text().replace("A ball falls.", "A ball rises.")
    (tmp_path / "other.csv").write_text(text)
    generate(replace(config, num_runs=1))
    with pytest.raises(ValueError, match=r"prompts\.jsonl is of other descriptions"):
        generate(replace(config, descriptions=tmp_path / "other.csv"))


def test_every_preset_asks_its_model_for_5_s_of_a_size_that_it_makes() -> None:
    presets = {path.stem: load(PhysicsIqConfig, path, args=[]) for path in PRESETS.glob("*.toml")}
    assert set(presets) == set(TINY) | set(FULL)
    for name, preset in presets.items():
        made = preset.num_frames or 5 * preset.fps + 1
        assert made >= 5 * preset.fps
        meta_model(name).latent_shape(made, preset.height, preset.width)
