"""The physically valid trajectory nearest to a generated motion: velocities estimated, then simulated.

The scene gives all but the velocities at time 0. With q_i(t) the points of frame 0 carried along the
generated motion, and p_i(t; v) the same points in a simulation that starts with generalised velocities v,

    v* = argmin_v  sum_{t = 1..K} sum_i rho(|p_i(t; v) - q_i(t)|),   rho(r) = s^2 / 2 log(1 + (r / s)^2)

over the first K frames after frame 0, with Cauchy's rho (s = 5 cm) so that points that got lost do not
decide. Levenberg-Marquardt with forward differences through the simulator, so gravity, contact and friction
between the frames count: all velocities are tried at once on `mujoco.rollout`'s threads. It starts from the
velocities that carry the points from frame 0 to 1 without forces, or from rest where that is nearer, and
fits frame 1, then 1 and 2, and so on: before an impact the residuals are smooth in v. What no point tells of
stays at rest.
"""

from dataclasses import dataclass, replace

import mujoco
import mujoco.rollout
import numpy as np
from jaxtyping import Bool, Float64

from phys4d.geometry.camera import world_from_camera
from phys4d.reward.plugin import DataError
from phys4d.scenes import simulation
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.registry import CATEGORIES
from phys4d.scenes.trajectory import Trajectory
from reward_service.truth import FirstFrame, resimulate

MAX_VELOCITIES = 64
MAX_FIT_STEPS = 1000
NUM_ITERATIONS = 6
"""At most, for each number of frames."""
DIFFERENCE = 0.02
"""Step of the differences in m/s or rad/s."""
DAMPINGS = (1e-4, 1e-2, 1.0, 100.0)
SCALE_M = 0.05
MAX_SPEED = 200.0
"""Of each velocity tried, m/s or rad/s."""
STEPS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Nearest:
    """The estimate."""

    qvel: Float64[np.ndarray, " nv"]
    trajectory: Trajectory
    residual_m: float
    """Root mean square distance between both points over the frames of the fit, each at most 0.15 m."""


def nearest_trajectory(
    first: FirstFrame,
    points_m: Float64[np.ndarray, "frames points 3"],
    present: Bool[np.ndarray, "frames points"],
    *,
    num_frames: int,
    num_threads: int = 1,
) -> Nearest:
    """Estimate the initial velocities, and simulate the scene with them. Threads do not change the result.

    Args:
        points_m: the scene's points carried along the generated motion, camera frame.
        present: False where a point was lost.
        num_frames: frames after frame 0 to fit.

    Raises:
        DataError: the scene's category starts from more than velocities of a few bodies, its frames are too
            far apart, or the trajectory is not physical.
    """
    scene = first.scene
    category = CATEGORIES[scene.spec.category]
    if category.simulate is not simulation.simulate or not 0 < scene.model.nv <= MAX_VELOCITIES:
        raise DataError(
            "NO_ROLLOUT_MODE",
            f"initial velocities are estimated for bodies and joints, at most {MAX_VELOCITIES} of them; "
            f"this {scene.spec.category} scene has {scene.model.nv} and more to its state; use scene_chamfer",
        )
    steps = simulation.frame_steps(scene)[: num_frames + 1]
    if steps[-1] > MAX_FIT_STEPS:
        raise DataError(
            "FRAMES_TOO_FAR_APART",
            f"the first {num_frames} frames take {steps[-1]} steps, at most {MAX_FIT_STEPS} are fitted",
        )
    fit = _Fit(first, points_m[1 : len(steps)], present[1 : len(steps)], steps, num_threads)
    qvel = fit.solve()
    trajectory = resimulate(replace(scene, qvel=qvel))
    return Nearest(qvel=qvel, trajectory=trajectory, residual_m=fit.residual_m(qvel))


class _Fit:
    """Points over the first frames as a function of the velocities at time 0."""

    def __init__(
        self,
        first: FirstFrame,
        points_m: np.ndarray,
        present: np.ndarray,
        steps: list[int],
        num_threads: int,
    ) -> None:
        self._scene = first.scene
        self._steps = steps
        self._target = world_from_camera(points_m, first.camera)
        self._present = present
        self._object = first.object_index
        centred = first.points.point_m - first.position_m[self._object]
        self._in_body = np.einsum("pi,pij->pj", centred, first.rotation[self._object])
        self._datas = [mujoco.MjData(first.scene.model) for _ in range(num_threads)]

    def solve(self) -> Float64[np.ndarray, " nv"]:
        """Levenberg-Marquardt; every step is the best of several dampings."""
        starts = np.stack([self._without_forces(), np.zeros(self._scene.model.nv)])
        for num_frames in range(1, len(self._target) + 1):
            losses, residuals = self._losses(starts, num_frames)
            best = int(losses.argmin())
            starts = self._descend(starts[best], losses[best], residuals[best], num_frames)[None]
        return starts[0]

    def _descend(
        self, qvel: np.ndarray, loss: float, residual: np.ndarray, num_frames: int
    ) -> Float64[np.ndarray, " nv"]:
        size = len(qvel)
        for _ in range(NUM_ITERATIONS):
            _, moved = self._losses(qvel + DIFFERENCE * np.eye(size), num_frames)
            jacobian = ((moved - residual) / DIFFERENCE).reshape(size, -1).T
            weight = np.repeat(self._weight(residual), 3)
            normal = (jacobian * weight[:, None]).T @ jacobian
            slope = (jacobian * weight[:, None]).T @ residual.ravel()
            damped = [
                normal + damping * np.diag(np.diag(normal) + 1e-3 * normal.max() + 1e-9)
                for damping in DAMPINGS
            ]
            trials = np.stack([qvel - np.linalg.solve(matrix, slope) for matrix in damped])
            trials = np.clip(trials, -MAX_SPEED, MAX_SPEED)
            losses, residuals = self._losses(trials, num_frames)
            best = int(losses.argmin())
            if not losses[best] < 0.999 * loss:
                break
            qvel, loss, residual = trials[best], losses[best], residuals[best]
        return qvel

    def residual_m(self, qvel: np.ndarray) -> float:
        """See `Nearest.residual_m`."""
        _, residuals = self._losses(qvel[None], len(self._target))
        distance = np.minimum(np.linalg.norm(residuals[0], axis=-1), 3 * SCALE_M)[self._present]
        return float(np.sqrt(np.mean(distance**2))) if distance.size else 0.0

    def _without_forces(self) -> np.ndarray:
        """Velocities that carry the points from frame 0 to frame 1 in a straight line."""
        model = self._scene.model
        start = self._scene.initial_state().qpos
        moved = np.tile(start, (model.nv + 1, 1))
        for row, unit in zip(moved[1:], np.eye(model.nv), strict=True):
            mujoco.mj_integratePos(model, row, unit, DIFFERENCE)
        points = self._points(moved)
        jacobian = ((points[1:] - points[0]) / DIFFERENCE)[:, self._present[0]].reshape(model.nv, -1).T
        change = (self._target[0] - points[0])[self._present[0]].ravel()
        time_s = self._steps[1] * self._scene.spec.timestep_s
        # The cut-off keeps velocities at rest that hardly move a point.
        qvel = (
            np.linalg.lstsq(jacobian, change / time_s, rcond=1e-3)[0] if change.size else np.zeros(model.nv)
        )
        return np.clip(qvel, -MAX_SPEED, MAX_SPEED)

    def _losses(self, qvels: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Loss and residuals (frames, points, 3) of each row; infinite where a simulation is not finite."""
        qpos = roll_out(self._scene, qvels, self._steps[: num_frames + 1], self._datas)
        finite = np.isfinite(qpos).all((1, 2))
        qpos[~finite] = self._scene.initial_state().qpos
        points = self._points(qpos.reshape(-1, qpos.shape[-1]))
        residuals = points.reshape(*qpos.shape[:2], -1, 3) - self._target[:num_frames]
        residuals = np.where(self._present[None, :num_frames, :, None], residuals, 0.0)
        squared = np.square(residuals).sum(-1) / SCALE_M**2
        return np.where(finite, np.log1p(squared).sum((1, 2)), np.inf), residuals

    @staticmethod
    def _weight(residual: np.ndarray) -> np.ndarray:
        """Cauchy weight of each point and frame."""
        return 1 / (1 + np.square(residual).sum(-1).ravel() / SCALE_M**2)

    def _points(self, qpos: np.ndarray) -> Float64[np.ndarray, "rows points 3"]:
        """The scene's points at generalised positions, world."""
        no_speed = np.zeros((len(qpos), self._scene.model.nv))
        poses = simulation.trajectory_of(self._scene, np.zeros(len(qpos)), qpos, no_speed)
        turned = np.einsum("npij,pj->npi", poses.rotation[:, self._object], self._in_body)
        return turned + poses.position_m[:, self._object]


def roll_out(
    scene: BuiltScene, qvels: Float64[np.ndarray, "rows nv"], steps: list[int], datas: list[mujoco.MjData]
) -> Float64[np.ndarray, "rows frames nq"]:
    """Generalised positions at `steps[1:]` of simulations that start with different velocities.

    Each is what `simulation.simulate` gives for it, bit for bit, on any number of threads, as long as the
    last frame is at most 256 steps away; beyond, the solver's warm start is lost every 256 steps.

    Args:
        datas: one for each thread.
    """
    model, kind = scene.model, mujoco.mjtState.mjSTATE_FULLPHYSICS
    states = np.empty((len(qvels), mujoco.mj_stateSize(model, kind)))
    warm = np.empty((len(qvels), model.nv))
    for row, qvel in enumerate(qvels):
        data = replace(scene, qvel=qvel).initial_state()
        mujoco.mj_getState(model, data, states[row], kind)
        warm[row] = data.qacc_warmstart
    place = 1  # After the time.
    qpos = np.empty((len(qvels), len(steps) - 1, model.nq))
    frames = np.asarray(steps[1:])
    done, last = 0, steps[-1]
    while done < last:
        count = min(STEPS_AT_ONCE, last - done)
        found, _ = mujoco.rollout.rollout(
            model, datas, states, nstep=count, initial_warmstart=warm if done == 0 else None
        )
        path = np.asarray(found)
        for frame in np.flatnonzero((frames > done) & (frames <= done + count)):
            qpos[:, frame] = path[:, frames[frame] - done - 1, place : place + model.nq]
        states, done = path[:, -1], done + count
    return qpos
