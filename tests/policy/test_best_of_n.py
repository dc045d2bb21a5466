"""Which candidate is picked, by what was trained on."""

import json
from pathlib import Path

import pytest
import torch

from phys4d.runtime.checkpoint import new_checkpoint
from phys4d.runtime.config import to_toml
from phys4d.runtime.errors import UserError
from policy.best_of_n import FOLDER, _equal_compute, _made_for, chosen_latents, pick
from policy.config import RewardConfig, TrainConfig
from policy.inference_config import BestOfNConfig, EvaluateConfig
from policy.stages import is_finished, tell_unfinished

NAN = float("nan")


def test_the_best_candidate_is_that_of_the_rewards_together() -> None:
    """By the weighted sum the large unit wins, normalised each reward counts alike; a missing one never."""
    rewards = torch.tensor([[0.9, 10.0], [0.1, 12.0], [0.8, 11.0], [NAN, 99.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert pick(rewards, weights, "sum_then_normalize") == 1
    assert pick(rewards, weights, "normalize_then_sum") == 2
    assert pick(rewards[3:], weights, "sum_then_normalize") is None
    assert pick(rewards[:1], weights, "normalize_then_sum") == 0


def test_candidates_are_rewarded_as_in_training_by_the_service_given_now() -> None:
    trained = RewardConfig(endpoint="old:1", sources={"a": 1.0, "b": 2.0}, reader="estimator", send_rgb=True)
    used = trained.through(RewardConfig(endpoint="new:2", timeout_s=5.0))
    assert (used.endpoint, used.timeout_s) == ("new:2", 5.0)
    assert (used.sources, used.reader, used.send_rgb) == (trained.sources, "estimator", True)


def test_the_compute_of_a_stage_3_that_has_not_ended_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage 3 of .* has not ended"):
        _equal_compute(BestOfNConfig(run=tmp_path), TrainConfig(), [])


def test_a_stage_3_that_goes_on_is_not_taken_for_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 iterations were finished, 50 were asked for, and the run was killed after 30."""
    stage = tmp_path / "stage3"
    (stage / "lora").mkdir(parents=True)
    (stage / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"of 25")
    assert is_finished(tmp_path, "stage3"), "an adapter without checkpoints is one"
    said = []
    for asked, done, finished in ((25, 25, True), (50, 30, False), (50, 50, True)):
        (stage / "config.toml").write_text(to_toml(TrainConfig(num_iterations=asked)))
        with new_checkpoint(stage / "checkpoints", done):
            pass
        assert is_finished(tmp_path, "stage3") == finished
        assert capsys.readouterr().out == "", "who asks is not talked to"
        tell_unfinished(tmp_path)
        said.append(capsys.readouterr().out)
    told = "has 30 of 50 iterations, so it is left out; finish it with `make rl-train`"
    assert [told in text for text in said] == [False, True, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_iterations": 50},
        {"reward": RewardConfig(sources={"scene_chamfer": 1.0, "surface_chamfer": 1.0})},
        {"reward": RewardConfig(reader="estimator")},
    ],
)
def test_picks_at_another_compute_or_by_another_reward_are_refused(tmp_path: Path, changes: dict) -> None:
    config = EvaluateConfig(run=tmp_path)
    for name in ("stage2/lora", FOLDER, "stage3"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "stage2/lora/pytorch_lora_weights.safetensors").write_bytes(b"first")
    settings = tmp_path / "stage3" / "config.toml"
    settings.write_text(to_toml(TrainConfig()))
    made_for = _made_for(config)
    (tmp_path / FOLDER / "facts.json").write_text(json.dumps(made_for))
    settings.write_text(to_toml(TrainConfig(reward=RewardConfig(endpoint="elsewhere:9000"))))
    assert _made_for(config) == made_for, "the same reward at another place is the same"
    settings.write_text(to_toml(TrainConfig(**changes)))
    with pytest.raises(UserError, match="was made with other settings .stage3 .* run policy.best_of_n"):
        chosen_latents(config, 0, [])


def test_picks_of_another_stage_2_are_refused(tmp_path: Path) -> None:
    config = EvaluateConfig(run=tmp_path)
    lora = tmp_path / "stage2" / "lora" / "pytorch_lora_weights.safetensors"
    lora.parent.mkdir(parents=True)
    lora.write_bytes(b"first")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "facts.json").write_text(json.dumps(_made_for(config)))
    lora.write_bytes(b"trained anew")
    with pytest.raises(UserError, match="was made with other settings .stage2 .* run policy.best_of_n"):
        chosen_latents(config, 0, [])
