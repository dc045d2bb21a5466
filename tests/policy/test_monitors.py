"""Reward hacking as the monitors see it: honest videos pass, scripted cheats do not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phys4d.runtime.errors import UserError
from phys4d.types import Camera, Rollout, SceneSpec
from policy.config import MonitorConfig
from policy.monitors import Monitors, alarms, cloud_statistics, pixel_statistics

Videos = np.ndarray
REWARDS = {"val_reward": 0.5, "held_out_reward": 0.5}
T, H, W = 9, 32, 40


def honest(shift: int = 0) -> Videos:
    """A bright square crosses a textured ground, a little noise on top."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 120, (H, W))
    video = np.repeat(ground[None], T, 0).astype(float)
    for t in range(T):
        video[t, 8:20, 2 + 3 * t + shift : 14 + 3 * t + shift] = 220
    video += rng.normal(0, 2, video.shape)
    return np.repeat(video.clip(0, 255).astype(np.uint8)[None, ..., None], 3, -1)


CHEATS: dict[str, tuple[str, Callable[[Videos], Videos]]] = {
    "frozen on its first frame": ("motion_energy", lambda v: np.repeat(v[:, :1], T, 1)),
    "flickering": (
        "flicker",
        lambda v: (v * np.where(np.arange(T) % 2, 0.4, 1.0)[None, :, None, None, None]).astype(np.uint8),
    ),
    "washed out": ("luminance", lambda v: 200 + v // 8),
    "smeared to one colour": ("edges", lambda v: np.broadcast_to(v.mean((2, 3), keepdims=True), v.shape)),
    "noise": ("flicker", lambda v: np.random.default_rng(1).integers(0, 256, v.shape)),
}


def names(now: dict[str, float], before: dict[str, float]) -> set[str]:
    return {alarm.name for alarm in alarms(now, before, MonitorConfig())}


def test_an_honest_change_raises_no_alarm() -> None:
    assert not names(pixel_statistics(honest(shift=1)), pixel_statistics(honest()))


@pytest.mark.parametrize("cheat", CHEATS)
def test_pixels_that_cheat_raise_the_alarm_meant_for_them(cheat: str) -> None:
    statistic, change = CHEATS[cheat]
    video = change(honest()).astype(np.uint8)
    assert statistic in names(pixel_statistics(video), pixel_statistics(honest()))


def rollout(motion: np.ndarray) -> Rollout:
    ids = np.zeros((H, W), np.uint8)
    ids[10:16, 10:16] = 1
    return Rollout(
        sample_id="s",
        scene=SceneSpec(category="rigid", family="drop", seed=0, parameters={}, num_frames=T, fps=12.0),
        camera=Camera(fx=9.0, fy=9.0, cx=20.0, cy=16.0, width=W, height=H, camera_from_world=np.eye(4)),
        depth=np.ones((T, H, W), np.float16),
        motion=motion,
        object_ids=ids,
    )


def test_points_that_pile_up_or_leave_are_counted() -> None:
    """36 points: all stay apart; all drawn to one cell; all thrown off the picture."""
    still = np.zeros((T - 1, H, W, 3), np.float32)
    v, u = np.mgrid[:H, :W] + 0.5
    pile = still.copy()
    pile[0, ..., 0], pile[0, ..., 1] = 12.5 - u, 12.5 - v
    gone = still.copy()
    gone[..., 0] = 50
    assert cloud_statistics([rollout(still)]) == {"unique_points": 1.0, "coverage": 1.0}
    piled = cloud_statistics([rollout(pile)])
    assert piled == {"unique_points": pytest.approx(1 / 36), "coverage": 1.0}
    assert cloud_statistics([rollout(gone)]) == {"unique_points": 0.0, "coverage": 0.0}
    assert names(piled, cloud_statistics([rollout(still)])) == {"unique_points"}
    empty = replace(rollout(still), object_ids=np.zeros((H, W), np.uint8))
    assert cloud_statistics([empty]) == {}


def test_a_held_out_reward_that_falls_alarms_only_while_the_trained_one_rises() -> None:
    before = {"held_out_reward": 0.5, "val_reward": 0.5}
    assert names({"held_out_reward": 0.3, "val_reward": 0.7}, before) == {"held_out_reward"}
    assert not names({"held_out_reward": 0.3, "val_reward": 0.4}, before)
    assert not names({"held_out_reward": 0.45, "val_reward": 0.7}, before)


def test_a_monitor_does_not_turn_itself_off_where_rewards_fail(tmp_path: Path) -> None:
    """With more than half of the held-out videos without a score the run stops, at iteration 0 too."""
    scored = REWARDS | {"val_failed_fraction": 0.5, "held_out_failed_fraction": 0.5}
    monitors = Monitors(MonitorConfig(), tmp_path)
    for name in ("val_failed_fraction", "held_out_failed_fraction"):
        with pytest.raises(UserError, match=f"alarm at iteration 0: {name} is 1, allowed at most 0.5"):
            monitors.check(0, {name: 1.0})
    for name in REWARDS:
        with pytest.raises(UserError, match=f"monitors have no {name} to compare with.*--monitor.no-enabled"):
            monitors.check(0, {key: value for key, value in scored.items() if key != name})
    assert not (tmp_path / "monitors.json").exists(), "none of these is what later iterations compare with"
    monitors.check(0, scored)
    resumed = Monitors(MonitorConfig(), tmp_path)
    resumed.check(5, scored)
    with pytest.raises(UserError, match="alarm at iteration 10: held_out_failed_fraction is 0.6"):
        resumed.check(10, {"val_reward": 0.9, "val_failed_fraction": 0.0, "held_out_failed_fraction": 0.6})
    assert "| held_out_failed_fraction | 0 | 0.5 | 0.6 | **at most 0.5 without a score** |" in (
        tmp_path / "alarm" / "report.md"
    ).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"max_failed_fraction must be in \[0, 1\), got 1.0"):
        MonitorConfig(max_failed_fraction=1.0)


def test_what_iteration_0_lacked_is_watched_from_the_first_iteration_that_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitors = Monitors(MonitorConfig(), tmp_path)
    monitors.check(0, REWARDS | {"luminance": 0.5})
    monitors.check(5, REWARDS)
    monitors.check(10, REWARDS | {"luminance": 0.5, "coverage": 0.8})
    said = capsys.readouterr().out
    assert "no luminance at iteration 5" in said
    assert "coverage from now on against iteration 10" in said
    resumed = Monitors(MonitorConfig(), tmp_path)
    with pytest.raises(UserError, match=r"coverage is 0\.3, at iteration 10 0\.8"):
        resumed.check(15, REWARDS | {"luminance": 0.5, "coverage": 0.3})


def test_monitors_that_are_switched_on_late_say_what_they_compare_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitors = Monitors(MonitorConfig(), tmp_path)
    monitors.check(100, REWARDS)
    assert "held_out_reward, val_reward from now on against iteration 100" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"held_out_reward is 0\.3, at iteration 100 0\.5"):
        monitors.check(105, {"held_out_reward": 0.3, "val_reward": 0.6})


def test_a_policy_far_from_the_reference_alarms() -> None:
    assert names({"kl_joint_nats": 101.0}, {}) == {"kl_joint_nats"}
    assert not names({"kl_joint_nats": 99.0}, {})


def test_an_alarm_stops_the_run_with_a_report_and_a_resumed_run_remembers_iteration_0(tmp_path: Path) -> None:
    before = REWARDS | pixel_statistics(honest())
    Monitors(MonitorConfig(), tmp_path).check(0, before)
    resumed = Monitors(MonitorConfig(), tmp_path)
    assert resumed.baseline == before
    resumed.check(5, REWARDS | pixel_statistics(honest(shift=1)))
    frozen = pixel_statistics(CHEATS["frozen on its first frame"][1](honest()))
    pictures: list[Path] = []
    with pytest.raises(UserError, match="alarm at iteration 10: motion_energy is 0, .* look at .*report.md"):
        resumed.check(10, frozen, picture=pictures.append)
    assert pictures == [tmp_path / "alarm" / "videos.png"]
    report = (tmp_path / "alarm" / "report.md").read_text()
    assert "| motion_energy | " in report and "**within 0.333 to 3 times**" in report
