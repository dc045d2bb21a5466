"""The reward service: what it costs to have rewards in other processes, and what that buys.

All servers here are real ones, started as children of the benchmark; their result caches are off.
"""

import http.client
import importlib.metadata
import itertools
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.registry import Measured, Work, compare, curve, rate
from phys4d.reward import wire
from phys4d.reward.calls import CallPlan, Cancellation, score_batch, score_stream
from phys4d.reward.client import RewardClient
from phys4d.reward.endpoints import Endpoint
from phys4d.types import Camera, Outcome, Rollout, SceneSpec

GRPC = f"grpcio {importlib.metadata.version('grpcio')}"
MUJOCO = f"mujoco {importlib.metadata.version('mujoco-core')}"
ROOT = Path(__file__).parents[1]
GLIBC_DEFAULTS = {"MALLOC_ARENA_TEST": "8"}
"""Changes nothing but that the server leaves malloc as it comes; see `phys4d.runtime.malloc`."""
PROBE = ("--no-scene-chamfer", "--rewards", "benchmarks.probe_reward:Probe")


class Server:
    """A server that ends with the benchmark."""

    def __init__(self, *flags: str, environment: Mapping[str, str] = {}, program: str = "plain") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reward-bench-")
        ready = Path(self._folder.name) / "ready"
        command = [sys.executable, "-m", f"reward_service.{program}", "--port", "0"]
        command += ["--ready-file", str(ready)]
        command += ["--cache-size", "0", "--log-level", "WARNING", *flags]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        self.pid = process.pid
        self._end = weakref.finalize(self, _end, process)
        deadline = time.monotonic() + 120
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ValueError(f"the server of the benchmark did not start: {' '.join(command)}")
            time.sleep(0.05)
        self.endpoint = ready.read_text().strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


def made_up(num_frames: int, width: int, height: int) -> Rollout:
    """Noise in the size of a rollout."""
    rng = np.random.default_rng(0)
    return Rollout(
        sample_id="bench",
        scene=SceneSpec(
            category="rigid", family="drop", seed=0, parameters={}, num_frames=num_frames, fps=12.0
        ),
        camera=Camera(
            fx=width, fy=width, cx=width / 2, cy=height / 2, width=width, height=height,
            camera_from_world=np.eye(4),
        ),
        depth=rng.uniform(1, 8, (num_frames, height, width)).astype(np.float16),
        motion=rng.normal(size=(num_frames - 1, height, width, 3)).astype(np.float16),
        object_ids=np.ones((height, width), np.uint8),
    )  # fmt: skip


def value(outcome: Outcome) -> float:
    """Its score; a failure ends the benchmark."""
    if outcome.score is None:
        raise ValueError(f"the server of the benchmark failed: {outcome.result}")
    return outcome.score.value


def against_unary(peers_environment: Mapping[str, str]) -> tuple[Work, Work]:
    """49 frames of 416 x 312 in float16, packed beforehand; streamed, and unary to another server."""
    servers = [Server(*PROBE, "--num-replicas", "1", environment=env) for env in ({}, peers_environment)]
    endpoints = [Endpoint(server.endpoint, None) for server in servers]
    packed = wire.pack_rollout(made_up(49, 416, 312))

    def send(call, endpoint: Endpoint) -> float:
        plan = CallPlan(
            reward="",
            metadata=[],
            request_id="",
            deadline=time.monotonic() + 60,
            reserve_s=1.0,
            cancellation=Cancellation(),
        )
        outcomes: list[Outcome] = []
        call(endpoint, [packed], plan, outcomes.append)
        return value(outcomes[0])

    def ours(_=servers) -> object:
        return send(score_stream, endpoints[0])

    return ours, lambda: send(score_batch, endpoints[1])


@compare(
    "50 MB rollout in 1 MiB chunks, everything but the reward",
    peer=f"{GRPC}, one unary message, glibc's malloc as it comes",
)
def streamed() -> tuple[Work, Work]:
    """What streaming and our malloc settings buy together."""
    return against_unary(GLIBC_DEFAULTS)


@compare(
    "50 MB rollout in 1 MiB chunks, malloc alike", peer=f"{GRPC}, one unary message, our malloc settings"
)
def streamed_alike() -> tuple[Work, Work]:
    """The share of streaming in it."""
    return against_unary({})


@curve(
    "rollout through the service, all but the reward",
    x="KB",
    sizes=(100, 1000, 10_000, 50_000),
    unit="s",
    bounds=(0.0, 1.1),
)
def around_the_reward(size: int) -> dict[str, Work]:
    """49 frames, packed and streamed by the client: the last value is the overhead of a 50 MB rollout."""
    server = Server(*PROBE, "--num-replicas", "1")
    client, side = RewardClient(server.endpoint), round(math.sqrt(1000 * size / 387))
    rollout = made_up(49, side, side)

    def ours(_=server) -> object:
        return value(client.score([rollout])[0])

    return {"ours": ours}


@compare("50 MB rollout to a service on Ray, all but the reward", peer="the plain server")
def on_ray() -> tuple[Work, Work]:
    """Below 1: what the way to a scorer through Ray costs a large rollout. It buys scorers that come and go,
    on many machines."""
    servers = [Server(*PROBE, "--num-replicas", "1", program=program) for program in ("serve", "plain")]
    clients, rollout = [RewardClient(server.endpoint) for server in servers], made_up(49, 359, 359)

    def ours(_=servers) -> object:
        return value(clients[0].score([rollout])[0])

    return ours, lambda: value(clients[1].score([rollout])[0])


@curve(
    "memory of the server before a slow scorer",
    x="MB sent",
    sizes=(64, 128, 256),
    unit="bytes",
    bounds=(-0.5, 0.5),
)
def memory_held(size: int) -> dict[str, Work]:
    """Most that the server grows while rollouts of 1 MB are scored in 20 ms each; a stream may hold 4 MiB.

    The rest is the window of HTTP/2, which grows up to some 10 MB.
    """
    slow = "benchmarks.probe_reward:Probe(seconds=0.02)"
    flags = ("--no-scene-chamfer", "--rewards", slow, "--num-replicas", "1")
    server = Server(*flags, "--limits.max-stream-bytes", str(4 << 20))
    client = RewardClient(server.endpoint, stream="always", max_request_bytes=1 << 30, timeout_s=300)
    rollout = made_up(49, 52, 50)
    first = [replace(rollout, sample_id=f"first {number}") for number in range(8)]

    def ours() -> object:
        client.score(first)
        before, most = resident_bytes(server.pid), 0
        future = client.submit([replace(rollout, sample_id=f"{number}") for number in range(size)])
        while not future.done():
            most = max(most, resident_bytes(server.pid) - before)
            time.sleep(0.01)
        return Measured(max(most, 1), [value(o) for o in future.result()])

    return {"ours": ours}


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@compare("tiny rollout through the service", peer="flow_grpo's way: HTTP and pickle, http.server of Python")
def against_pickle() -> tuple[Work, Work]:
    """9 frames of 64 x 48. The peer checks nothing, and scores in the process that listens."""
    server = Server(*PROBE, "--num-replicas", "1")
    client = RewardClient(server.endpoint)
    rollout = made_up(9, 64, 48)
    command = [sys.executable, "-m", "benchmarks.pickle_server"]
    peer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    weakref.finalize(server, _end, peer)
    assert peer.stdout is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(peer.stdout.readline()))

    def ours(_=server) -> object:
        return value(client.score([rollout])[0])

    def theirs() -> object:
        connection.request("POST", "/", pickle.dumps(rollout))
        return pickle.loads(connection.getresponse().read())

    return ours, theirs


def truth(size: int) -> Rollout:
    """What the simulator itself sees of a drawn scene."""
    from phys4d.scenes.annotations import annotate
    from phys4d.scenes.registry import sample_scene

    scene, trajectory = sample_scene("rigid", "tower", 0)
    camera = scene.camera(size, size)
    seen = annotate(scene, trajectory, camera)
    return Rollout(
        sample_id="truth",
        scene=scene.spec,
        camera=camera,
        depth=np.nan_to_num(seen.depth, nan=10.0).astype(np.float16),
        motion=seen.motion.astype(np.float16),
        object_ids=seen.object_ids[0],
    )


NUMBERS = itertools.count(1)
"""Of scenes that were never scored here."""


def anew(rollout: Rollout) -> Rollout:
    """The same scene under another seed, which no cache of scenes knows."""
    number = next(NUMBERS)
    return replace(rollout, sample_id=f"{number}", scene=replace(rollout.scene, seed=number))


def scored(name: str, phase: str) -> None:
    """Register how many rollouts a second one core scores, or does one phase of."""

    @rate(f"{name}, 64 x 64, {phase or 'all of it'}", unit="rollouts")
    def scoring() -> tuple[Work, int]:
        from reward_service.config import ChamferSettings, SurfaceSettings
        from reward_service.scoring import RolloutChamfer, SceneChamfer
        from reward_service.surface import SurfaceChamfer

        chamfer = ChamferSettings()
        rewards = SceneChamfer(chamfer), RolloutChamfer(chamfer), SurfaceChamfer(chamfer, SurfaceSettings())
        reward = {each.name: each for each in rewards}[name]
        rollout = truth(64)
        # With its search for velocities one takes seconds.
        count = 1 if name == RolloutChamfer.name else 8

        def work() -> object:
            scores = [reward.score(anew(rollout)) for _ in range(count)]
            values = [score.value for score in scores]
            return Measured(sum(score.phases_s[phase] for score in scores), values) if phase else values

        return work, count


for each in ("scene_chamfer", "rollout_chamfer", "surface_chamfer"):
    for part in ("", "simulate", "lift", "chamfer"):
        scored(each, part)


def through_the_service(count: int) -> tuple[Work, Work]:
    """9 frames of 64 x 64, simulated anew each time; one scorer. Above 1 / 1.15 it costs below 15 %."""
    from reward_service.config import ChamferSettings
    from reward_service.scoring import score

    server = Server("--num-replicas", "1")
    client, rollout, settings = RewardClient(server.endpoint), truth(64), ChamferSettings()

    def ours(_=server) -> object:
        return [value(o) for o in client.score([anew(rollout) for _ in range(count)])]

    return ours, lambda: [score(anew(rollout), settings).value for _ in range(count)]


@compare("scene_chamfer of one scene through the service", peer="the same pure function in this process")
def overhead_of_one() -> tuple[Work, Work]:
    """A call for each rollout."""
    return through_the_service(1)


@compare("scene_chamfer of 8 scenes through the service", peer="the same pure function in this process")
def overhead() -> tuple[Work, Work]:
    """A call for all."""
    return through_the_service(8)


@compare("scene_chamfer of 16 scenes by two scorers", peer="one scorer of the same service")
def two_scorers() -> tuple[Work, Work]:
    """Two cores at least; above 1.7 on idle ones."""
    servers = [Server("--num-replicas", str(count)) for count in (2, 1)]
    clients, rollout = [RewardClient(server.endpoint) for server in servers], truth(64)

    def score(client: RewardClient) -> object:
        return [value(o) for o in client.score([anew(rollout) for _ in range(16)])]

    def ours(_=servers) -> object:
        return score(clients[0])

    return ours, lambda: score(clients[1])


@compare("rollout_chamfer's 32 simulations of 3 frames at once", peer=f"{MUJOCO}, mj_step in a Python loop")
def many_velocities() -> tuple[Work, Work]:
    """One thread each; more threads add on idle cores."""
    import mujoco

    from phys4d import scenes
    from phys4d.scenes import simulation
    from reward_service.nearest import roll_out

    scene = scenes.build(scenes.sample_spec("rigid", "collision", 1))
    steps = simulation.frame_steps(scene)[:4]
    qvels = scene.qvel * np.linspace(0.5, 1.5, 32)[:, None]
    datas = [mujoco.MjData(scene.model)]

    def theirs() -> object:
        paths = []
        for qvel in qvels:
            data = replace(scene, qvel=qvel).initial_state()
            path = []
            for step in range(1, steps[-1] + 1):
                mujoco.mj_step(scene.model, data)
                if step in steps:
                    path.append(data.qpos.copy())
            paths.append(path)
        return paths

    return lambda: roll_out(scene, qvels, steps, datas), theirs
