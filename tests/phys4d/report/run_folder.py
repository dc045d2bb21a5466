"""Makes a run folder like that of a real run, with a ball that falls and bounces; used by the report's tests.

`python tests/phys4d/report/run_folder.py FOLDER` makes one to look at.
"""

import json
import sys
from pathlib import Path

import numpy as np

from phys4d.runtime.run import RunFolder

PUBLISHED = [
    {
        "model": "A model",
        "given": "first frame",
        "metric": "Physics-IQ Original",
        "before": "1.0",
        "after": "2.0",
        "source": "a test",
    },
    {
        "model": "Another",
        "given": "first frame",
        "metric": "Physics-IQ Verified",
        "before": "31.8 ± 1.5",
        "after": "",
        "source": "a test",
    },
]
FAMILIES = ("drop", "collision", "ramp", "tower", "projectile", "drop")
ERRORS = {"base": 0.231, "stage1": 0.231, "stage2": 0.142, "stage3": 0.104, "constant_velocity": 0.31}


def ball_video(gravity: float, seed: int, num_frames: int = 9, size: int = 64) -> dict[str, np.ndarray]:
    """RGB, depth (m, NaN in the sky) and motion of a ball before a textured wall."""
    draws = np.random.default_rng(seed)
    wall = draws.integers(60, 90, (size, size, 3))
    v, u = np.mgrid[:size, :size] + 0.5
    rgb, depth, centres = [], [], []
    speed_u, height_0 = draws.uniform(2.0, 4.0), draws.uniform(8, 14)
    for t in range(num_frames):
        height = height_0 + gravity * t**2
        floor = size - 14.0
        height = floor - (height - floor) * 0.6 if height > floor else height
        centre = (12 + speed_u * t, height)
        centres.append(centre)
        inside = (u - centre[0]) ** 2 + (v - centre[1]) ** 2 < 64
        frame = wall.copy()
        frame[inside] = (214, 96, 58)
        frame[size - 6 :] = (120, 110, 96)
        rgb.append(frame)
        surface = np.where(inside, 2.0, 4.0 + 0.01 * u)
        surface[:4] = np.nan
        depth.append(surface)
    motion = np.zeros((num_frames - 1, size, size, 3), np.float32)
    for t in range(num_frames - 1):
        inside = (u - centres[t][0]) ** 2 + (v - centres[t][1]) ** 2 < 64
        motion[t][inside, 0] = centres[t + 1][0] - centres[t][0]
        motion[t][inside, 1] = centres[t + 1][1] - centres[t][1]
    return {"rgb": np.array(rgb, np.uint8), "depth": np.array(depth, np.float32), "motion": motion}


def ball_clouds(gravities: dict[str, float], num_frames: int = 9) -> dict[str, np.ndarray]:
    """A ball and a box in metres, camera frame; the ball falls with each stage's own gravity."""
    draws = np.random.default_rng(0)
    ball = draws.standard_normal((120, 3))
    ball *= 0.2 / np.linalg.norm(ball, axis=1, keepdims=True)
    box = draws.uniform(-0.15, 0.15, (80, 3)) + np.array([0.8, 0.6, 3.0])
    times = np.arange(num_frames)[:, None] / 12.0

    def points(gravity: float) -> np.ndarray:
        centre = np.concatenate(
            [-0.6 + times, -0.5 + 0.5 * gravity * 9.81 * times**2, 2.6 + 0 * times], axis=1
        )
        return np.concatenate([ball + centre[:, None], np.repeat(box[None], num_frames, 0)], axis=1)

    u, v = np.meshgrid(np.linspace(-2, 2, 40), np.linspace(0, 1.4, 20))
    floor = np.stack([u, 0.8 + 0 * u, 2.5 + v], -1).reshape(-1, 3)
    index = np.repeat(np.array([0, 1], np.uint8), [120, 80])
    truth = points(gravities["truth"])
    arrays = {
        "background_m": floor, "background_rgb": np.full(floor.shape, 120, np.uint8), "object_index": index,
        "object_rgb": np.where(index[:, None] == 0, [214, 96, 58], [70, 120, 200]).astype(np.uint8),
        "truth_m": truth,
    }  # fmt: skip
    for stage in ("stage2", "stage3"):
        found = points(gravities[stage])
        gap = np.linalg.norm(found - truth, axis=-1)
        present = np.ones(gap.shape, bool)
        present[-1, :10] = False
        arrays |= {f"{stage}_m": found, f"{stage}_present": present}
        arrays[f"{stage}_error_m"] = np.stack([gap[:, index == o].mean(1) for o in (0, 1)], 1)
    return arrays


def write_stages(folder: Path) -> None:
    """Metrics like those of the four stages."""
    draws = np.random.default_rng(0)

    def noisy(value: float) -> float:
        return float(value * (1 + 0.08 * draws.standard_normal()))

    with RunFolder.open(folder / "base", "width = 128\n[denoiser]\nnum_steps = 420\n", resume=False) as run:
        for step in range(0, 300, 5):
            parts = {
                "autoencoder_l1": noisy(0.3 / (1 + step / 30)),
                "autoencoder_mse": noisy(0.1 / (1 + step / 20)),
            }
            run.log(step, **parts, autoencoder_loss=sum(parts.values()), autoencoder_grad_norm=noisy(1.0))
        for step in range(0, 420, 5):
            loss = noisy(1.1 / (1 + step / 60))
            run.log(step, base_velocity=loss, base_loss=loss, base_grad_norm=noisy(0.5))
    for stage, shift in (("stage1", 1.0), ("stage2", 0.6)):
        with RunFolder.open(folder / stage, f'seed = 0\nname = "{stage}"\n', resume=False) as run:
            run.log(0, val_depth_l1_m=0.21 * shift, val_motion_epe_px=3.1 * shift, val_diffusion=0.41)
            for step in range(0, 180, 10):
                parts = {
                    name: noisy(shift * size / (1 + step / 50))
                    for name, size in (("depth", 0.4), ("motion", 1.2), ("warp", 0.08))
                }
                run.log(step, **parts, loss=sum(parts.values()), grad_norm=noisy(0.7))
            run.log(180, val_depth_l1_m=0.09 * shift, val_motion_epe_px=1.3 * shift, val_diffusion=0.37)
    with RunFolder.open(folder / "stage3", "[rollout]\ngroup_size = 8\n", resume=False) as run:
        for step in range(60):
            held_out = {"val_reward": -0.3 + 0.003 * step, "val_component_chamfer_m": 0.2 - 0.002 * step}
            reward = -0.35 + 0.22 * (1 - np.exp(-step / 20)) + 0.012 * draws.standard_normal()
            run.log(step, loss=noisy(1e-4), reward_mean=reward, reward_group_std=noisy(0.06),
                    reward_component_chamfer_m=noisy(-reward * 0.8),
                    reward_component_motion_px=noisy(-reward * 9),
                    kl=noisy(2e-4 * (1 + step)), ratio_max=1 + noisy(0.01), clip_fraction=noisy(0.1),
                    failed_fraction=0.0 if step % 9 else 0.0125, wait_s=noisy(0.9), iteration_s=noisy(6.2),
                    grad_norm=noisy(0.2), **(held_out if step % 10 == 0 else {}))  # fmt: skip


def write_evaluation(folder: Path, num_scenes: int = 6) -> None:
    """Results of all stages with three seeds, and the videos of some scenes."""
    draws = np.random.default_rng(1)
    rows, scenes = [], []
    for reader in ("heads", "estimator"):
        for metric, unit, scale in (
            ("trajectory_error", "m", 1.0), ("final_trajectory_error", "m", 1.9), ("chamfer_4d", "m", 0.6),
            ("physics_score", "", -3.0),
        ):  # fmt: skip
            for stage, error in ERRORS.items():
                if stage == "base" and reader == "heads":
                    continue
                value = error * scale if scale > 0 else 1 + error * scale
                seeds = [value * (1 + 0.02 * draws.standard_normal()) for _ in range(3)]
                row = {"stage": stage, "reader": reader, "metric": metric, "unit": unit, "num_scenes": 64}
                row |= {"mean": float(np.mean(seeds)), "seeds": seeds if stage != "constant_velocity" else []}
                rows.append(row | {"higher_is_better": scale < 0})
    comparisons = [
        {"before": "stage2", "after": "stage3", "reader": reader, "metric": "trajectory_error",
         "mean_difference": -0.038, "ci95": ci95, "p_value": 0.001, "p_holm": 0.002, "num_scenes": 64}
        for reader, ci95 in (("heads", [-0.051, -0.024]), ("estimator", [-0.051, 0.004]))
    ]  # fmt: skip
    gravity = {"truth": 0.62, "base": 0.1, "stage1": 0.1, "stage2": 0.4, "stage3": 0.57}
    for index, family in enumerate(FAMILIES[:num_scenes]):
        place = folder / "evaluation" / "scenes" / f"{index:06d}"
        place.mkdir(parents=True)
        files = {}
        for stage, g in gravity.items():
            arrays = ball_video(g, seed=index)
            if stage == "base":
                arrays = {"rgb": arrays["rgb"]}
            np.savez_compressed(place / f"{stage}.npz", **arrays)
            files[stage] = str((place / f"{stage}.npz").relative_to(folder / "evaluation"))
        np.savez_compressed(place / "clouds.npz", **ball_clouds(gravity))
        clouds = str((place / "clouds.npz").relative_to(folder / "evaluation"))
        caption = f"an orange ball <{family}> falls & bounces"
        entry = {"id": f"{index:06d}", "family": family, "caption": caption, "files": files}
        scenes.append(entry | {"fps": 12.0, "clouds": clouds, "objects": ["ball", "box"]})
    failures = [scenes[-1] | {"stage": "stage3", "error_m": 0.31}]
    (folder / "evaluation" / "results.json").write_text(
        json.dumps(
            {
                "rows": rows,
                "comparisons": comparisons,
                "scenes": scenes,
                "failures": failures,
                "published": PUBLISHED,
                "config": "num_scenes = 64\nnum_seeds = 3\n",
            }
        )
    )


def write_run(folder: Path, num_scenes: int = 6) -> Path:
    """A whole run."""
    folder.mkdir(parents=True)
    write_stages(folder)
    write_evaluation(folder, num_scenes)
    return folder


if __name__ == "__main__":
    print(write_run(Path(sys.argv[1])))
