"""The look before a run, and the reward that it must hold out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.models.heads import GeometryHeads
from phys4d.models.protocol import Conditioning
from phys4d.runtime.errors import UserError
from policy.config import MemoryConfig
from policy.monitors import Monitors
from policy.preflight import note_skipped, preflight
from policy.reading import Reader
from tests.policy.small_trainer import CONFIG, make_trainer, nearness


def test_a_sound_run_passes_the_look_before_it_and_is_left_as_it_was(tmp_path: Path) -> None:
    trainer = make_trainer()
    before, state = [p.detach().clone() for p in trainer.parameters], torch.get_rng_state()
    checks = preflight(trainer, tmp_path)
    names = ["conditioning", "replay", "ratio", "gradient", "memory", "reward", "monitors"]
    assert [c.name for c in checks] == names
    told = "the reward of these videos is the same by either reader, so none may be held out"
    assert checks[-1].found == told, "it sees pixels"
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert json.loads((tmp_path / "preflight.json").read_text())["checks"][3]["passed"]
    note_skipped(tmp_path)
    assert json.loads((tmp_path / "preflight.json").read_text())["skipped"]


def test_each_fault_is_found_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="pre-flight failed .reward: the same rollout earns 1.0 and then 2.0"):
        preflight(make_trainer(CONFIG, "fickle"), tmp_path)
    with pytest.raises(UserError, match="reward: no score of silent: DATA NOT_APPLICABLE"):
        preflight(make_trainer(CONFIG, "brightness", "silent"), tmp_path)

    trainer = make_trainer()
    unused = torch.nn.Parameter(torch.zeros(2, 2))
    trainer.model.transformer.register_parameter("unused", unused)
    trainer.parameters.append(unused)
    with pytest.raises(UserError, match=r"gradient: reaches \d+ of \d+ adapter matrices, not unused"):
        preflight(trainer, tmp_path)

    rollout = replace(CONFIG.rollout, group_size=3_000_000)
    with pytest.raises(UserError, match="memory: .* MiB beside weights .* MiB free.*--skip-preflight"):
        preflight(make_trainer(replace(CONFIG, rollout=rollout)), tmp_path)

    trainer = make_trainer(replace(CONFIG, memory=MemoryConfig(cache=tmp_path / "cache")))
    encode_text = trainer.model.encode_text
    monkeypatch.setattr(
        trainer.model, "encode_text", lambda texts: (e := encode_text(texts)) + 1e-6 * torch.randn_like(e)
    )
    with pytest.raises(UserError, match="conditioning: another hash when encoded again"):
        preflight(trainer, tmp_path)
    monkeypatch.setattr(trainer.model, "encode_text", lambda texts: -encode_text(texts))
    with pytest.raises(UserError, match="conditioning: sampling saw one that differs"):
        preflight(trainer, tmp_path)
    trainer = make_trainer()
    with monkeypatch.context() as patch:
        # The prompts in turn, where the siblings of each should be next to one another.
        patch.setattr(Conditioning, "repeat", lambda c, times: c.select(torch.arange(len(c)).repeat(times)))
        with pytest.raises(UserError, match="conditioning: siblings are not sampled from their own prompt"):
            preflight(trainer, tmp_path)

    trainer = make_trainer()
    trainer.watcher = None
    with pytest.raises(UserError, match="monitors: no depth estimator in .*estimator to read a held-out"):
        preflight(trainer, tmp_path)

    trainer = make_trainer()
    trainer.parameters[1].data.fill_(torch.nan)
    with pytest.raises(UserError, match="replay: log-probabilities differ by nan; ratio: 1 to within nan"):
        preflight(trainer, tmp_path)

    trainer = make_trainer()
    predict, seen = trainer.model.predict, [0.0]

    def drifting(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 0.05
        out = predict(*args, **kwargs)
        return replace(out, velocity_BCThw=out.velocity_BCThw + seen[0])

    monkeypatch.setattr(trainer.model, "predict", drifting)
    with pytest.raises(UserError, match="replay: log-probabilities differ by .*ratio: 1 to within"):
        preflight(trainer, tmp_path)


def test_the_held_out_reward_is_read_otherwise_and_without_what_takes_pixels_alone(tmp_path: Path) -> None:
    """`dimness` is the same whoever reads the geometry, and would hide what the other reward loses."""
    trainer = make_trainer(CONFIG, "nearness", "dimness")
    other = GeometryHeads(**(trainer.model.head_sizes | {"channels": 16})).eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trainer.watcher = Reader(trainer.model, other, None)
    assert preflight(trainer, tmp_path)[-1].found == "a held-out reward watches, of nearness"
    latents, conditioning, prompts = videos = trainer.held_out_videos()
    earned = [
        np.mean(nearness([], [r.depth for r in reader.rollouts(latents, conditioning, prompts, ["a", "b"])]))
        for reader in (trainer.watcher, trainer.reader)
    ]
    seen = trainer.watch(videos)["held_out_reward"]
    assert seen == pytest.approx(earned[0]) and abs(seen - earned[1]) > 0.001
    alone = make_trainer(CONFIG, "dimness")
    assert preflight(alone, tmp_path)[-1].found == "all rewards take pixels alone, so none is held out"
    assert "held_out_reward" not in alone.watch(alone.held_out_videos())
    record = {"val_reward": 1.0}
    Monitors(CONFIG.monitor, tmp_path, has_held_out_reward=alone.has_held_out_reward).check(0, record)
    with pytest.raises(UserError, match="monitors have no held_out_reward"):
        Monitors(CONFIG.monitor, tmp_path).check(0, record)


def test_held_out_videos_tell_the_mean_of_each_reward() -> None:
    trainer = make_trainer(CONFIG, "brightness", "dimness")
    seen = trainer.evaluate()
    first, second = seen["val_reward_brightness"], seen["val_reward_dimness"]
    assert first + second == pytest.approx(1000.0) and 0 < first < 1
    assert seen["val_reward"] == pytest.approx(first + second)
    alone = make_trainer()
    assert "val_reward_brightness" not in alone.evaluate()
    assert alone.trained_reward({"val_reward": 0.5}) == 0.5


def test_the_held_out_reward_is_beside_what_takes_depth_and_motion() -> None:
    """A price on pixels that grows must not hide that the trained reward rises."""
    trainer = make_trainer(CONFIG, "nearness", "dimness")
    seen = {"val_reward": -1.0, "val_reward_nearness": 0.5, "val_reward_dimness": -1.5}
    assert trainer.trained_reward(seen) == 0.5
    assert trainer.trained_reward({"val_failed_fraction": 1.0}) is None
