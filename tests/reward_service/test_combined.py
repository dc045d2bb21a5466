"""Rewards made of rewards, and rewards of another server, over TLS with a token."""

from dataclasses import replace
from pathlib import Path

import pytest

from phys4d.reward.conformance import ConformanceConfig, run_suite
from phys4d.reward.plugin import DataError
from policy.config import RewardConfig
from policy.service import reward_client
from reward_service.combined import NamedReward, WeightedSum
from reward_service.config import ServiceConfig
from reward_service.health import HealthConfig, check
from reward_service.remote import RemoteReward
from reward_service.rewards import make_rewards
from tests.reward_service.certificates import Authority

TESTS = "tests.reward_service.rewards_for_tests"
SMOOTH = "examples.motion_smoothness:MotionSmoothness(scale_px=0.5)"


def test_a_sum_is_its_parts_times_their_weights_and_fails_with_them(small_rollouts) -> None:
    parts = [("three", f"{TESTS}:Constant(value=3.0)", 0.5), ("smooth", SMOOTH, -2.0)]
    reward = WeightedSum(parts)
    (rollout,) = small_rollouts(1)
    score = reward.score(rollout)
    # Motion that does not change is perfectly smooth.
    assert score.value == 0.5 * 3.0 - 2.0 * 1.0
    assert score.components["three"] == 3.0 and score.components["smooth"] == 1.0
    assert (
        score.scorer_version == reward.version != WeightedSum([*parts[:1], ("smooth", SMOOTH, 1.0)]).version
    )
    with pytest.raises(DataError, match="marks no pixel"):
        reward.score(replace(rollout, object_ids=0 * rollout.object_ids))
    with pytest.raises(ZeroDivisionError):
        WeightedSum([*parts, ("bug", f"{TESTS}:Raising", 0.0)]).score(rollout)
    with pytest.raises(ValueError, match="one name each"):
        WeightedSum([parts[0], parts[0]])
    with pytest.raises(ValueError, match="weight of three must be finite"):
        WeightedSum([("three", parts[0][1], float("nan"))])


def test_built_in_rewards_are_parts_with_settings_of_their_own(make_truth) -> None:
    parts = [("scene", "scene_chamfer", 1.0), ("surface", "surface_chamfer", 0.5)]
    settings = {"chamfer": {"fit_frames": 4}, "surface": {"max_rays": 1000}}
    score = WeightedSum(parts, **settings).score(make_truth("drop"))
    assert score.value == score.components["scene"] + 0.5 * score.components["surface"] > 1.4
    assert {"scene.cd_frame_m", "surface.surface_cd_m"} <= set(score.components)
    other = WeightedSum(parts, chamfer={"fit_frames": 4})
    assert score.scorer_version == WeightedSum(parts, **settings).version != other.version
    with pytest.raises(ValueError, match="floor_m must be at least 0 and below tau_m"):
        WeightedSum(parts, surface={"floor_m": 0.5})


def test_one_class_can_be_offered_under_two_names() -> None:
    targets = [
        f"reward_service.combined:NamedReward(name={n!r}, target={SMOOTH!r})" for n in ("fine", "coarse")
    ]
    rewards = make_rewards(ServiceConfig(scene_chamfer=False, rewards=tuple(targets)))
    assert list(rewards) == ["fine", "coarse"]
    assert all(isinstance(reward, NamedReward) for reward in rewards.values())


def test_a_remote_reward_a_health_check_and_a_trainer_reach_a_server_with_token_and_tls(
    tmp_path: Path, run_service, small_rollouts
) -> None:
    authority = Authority(tmp_path, "authority")
    pair, token = authority.sign("server"), tmp_path / "token"
    token.write_text("open-sesame\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("sesame")
    flags = ["--no-scene-chamfer", "--rewards", SMOOTH, f"{TESTS}:Raising", "--token-file", str(token)]
    flags += ["--tls.cert-file", str(pair.cert), "--tls.key-file", str(pair.key)]
    flags += ["--tls.client-ca-file", str(authority.file)]
    mine = authority.sign("client")
    with run_service("plain", tmp_path, *flags) as (endpoint, _):
        files = {"ca_file": authority.file, "cert_file": mine.cert, "key_file": mine.key}
        security = {"token_file": str(token), **{name: str(file) for name, file in files.items()}}
        reward = RemoteReward("smooth_there", endpoint, reward="motion_smoothness", **security)
        (rollout,) = small_rollouts(1)
        assert reward.score(rollout).value == 1.0 and reward.version == "1+0.5px"
        with pytest.raises(DataError, match="marks no pixel") as told:
            reward.score(replace(rollout, object_ids=0 * rollout.object_ids))
        assert told.value.reason == "NO_VISIBLE_OBJECT"
        broken = RemoteReward("broken", endpoint, reward="raising", timeout_s=2.0, **security)
        with pytest.raises(ConnectionError, match="REWARD_RAISED"):
            broken.score(rollout)
        with pytest.raises(ValueError, match="no reward 'absent'"):
            RemoteReward("absent", endpoint, reward="absent", **security)

        check(HealthConfig(endpoint=endpoint, **files))
        verdicts = run_suite(ConformanceConfig(endpoint=endpoint, token_file=token, **files))
        assert not [verdict for verdict in verdicts if verdict.result == "broken"]
        with pytest.raises(ConnectionError, match="is not well"):
            check(HealthConfig(endpoint=endpoint, timeout_s=2.0))

        trainer = RewardConfig(endpoint=endpoint, token_file=token, **files)
        with reward_client(trainer) as client:
            assert client.score([rollout])[0].score is not None
        with pytest.raises(PermissionError), reward_client(replace(trainer, token_file=wrong)):
            pass
        # A new token, and a new certificate of another authority, hold as soon as they are in the files.
        other = Authority(tmp_path, "other")
        renewed = other.sign("renewed")
        token.write_text("abracadabra\n")
        pair.cert.write_bytes(renewed.cert.read_bytes())
        pair.key.write_bytes(renewed.key.read_bytes())
        with reward_client(replace(trainer, ca_file=other.file)) as client:
            assert client.score([rollout])[0].score is not None


def test_settings_of_a_trainers_connection_belong_together(tmp_path: Path) -> None:
    for wrong, told in (
        ({"token_file": tmp_path}, "belong to reward.endpoint"),
        ({"endpoint": "a:1", "cert_file": tmp_path}, "one of them is missing"),
        ({"endpoint": "a:1", "cert_file": tmp_path, "key_file": tmp_path}, "name reward.ca_file too"),
    ):
        with pytest.raises(ValueError, match=told):
            RewardConfig(**wrong)
