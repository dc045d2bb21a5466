"""The example servers, started as a user would, keep the promises of the protocol."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.motion_smoothness import MotionSmoothness
from phys4d.reward.client import RewardClient
from phys4d.reward.conformance import ConformanceConfig, made_up_rollouts, real_rollouts, run_suite
from phys4d.types import Failure
from reward_service.config import ChamferSettings
from reward_service.scoring import score

ROOT = Path(__file__).parents[1]


@contextmanager
def running(command: list[str], folder: Path, **variables: str) -> Iterator[str]:
    """A server that prints `ready on HOST:PORT`; it must end by itself when asked to."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("ready on "), f"{command} did not start"
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def python_server() -> Iterator[str]:
    with running([sys.executable, "-m", "examples.python_server", "--port", "0"], ROOT) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def node_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Installed from the committed lock file into a folder of its own."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("needs Node.js 18 or later with npm; install it from nodejs.org")
    folder = tmp_path_factory.mktemp("node") / "server"
    shutil.copytree(ROOT / "examples" / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    install = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    with running([node, "server.js", "--port", "0", "--protos", str(ROOT / "protos")], folder) as endpoint:
        yield endpoint


@pytest.mark.parametrize("language", ["python", "node"])
def test_an_example_server_keeps_every_promise_it_makes(language: str, request) -> None:
    endpoint = request.getfixturevalue(f"{language}_server")
    verdicts = run_suite(ConformanceConfig(endpoint=endpoint))
    broken = {v.promise.text: v.note for v in verdicts if v.result in ("broken", "not shown")}
    assert not broken
    assert sum(v.result == "kept" for v in verdicts) >= 23


@pytest.mark.parametrize("language", ["python", "node"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_example_server_scores_like_the_python_class(language: str, dtype, request) -> None:
    """70,000 does not fit into float16, so such motion travels as float32."""
    rng = np.random.default_rng(0)
    scale = 1.0 if dtype == np.float16 else 1e5
    rollouts = [
        replace(r, motion=(scale * rng.normal(size=r.motion.shape)).astype(dtype))
        for r in made_up_rollouts(5)
    ]
    nan = replace(rollouts[0], sample_id="nan", motion=np.full_like(rollouts[0].motion, np.nan))
    with RewardClient(request.getfixturevalue(f"{language}_server"), stream="always") as client:
        client.wait_ready(20)
        *outcomes, refused = client.score([*rollouts, nan])
    for rollout, outcome in zip(rollouts, outcomes, strict=True):
        assert outcome.score is not None, outcome
        assert outcome.score.value == pytest.approx(MotionSmoothness().score(rollout).value, rel=1e-9)
    assert isinstance(refused.result, Failure) and refused.result.reason == "NON_FINITE_MOTION"


def test_the_shipped_rollout_is_what_the_simulator_sees() -> None:
    first, *slower = (score(rollout, ChamferSettings()).value for rollout in real_rollouts(3))
    assert first > 0.99 > max(slower)


def test_the_suite_finds_a_server_that_breaks_promises(tmp_path: Path) -> None:
    """A reward that scores everything, NaN included, and one that scores nothing."""
    ready = tmp_path / "ready.py"
    ready.write_text(
        "import sys\nfrom examples import python_server as s\nfrom phys4d.types import Score\n"
        "s.MotionSmoothness.score = lambda self, rollout: Score(value=0.0, scorer_version='1')\n"
        "s.main()\n"
    )
    with running([sys.executable, str(ready), "--port", "0"], ROOT) as endpoint:
        verdicts = run_suite(ConformanceConfig(endpoint=endpoint))
        broken = [v.promise.text for v in verdicts if v.result == "broken"]
        command = [sys.executable, "-m", "phys4d.reward.conformance", "--endpoint", endpoint]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert broken == ["NaN never earns a number"]
    assert done.returncode == 1 and "1 broken" in done.stdout
    ready.write_text(
        "from examples import python_server as s\n"
        "def refuse(self, rollout): raise s.DataError('NOT_TODAY', 'nothing is scored')\n"
        "s.MotionSmoothness.score = refuse\ns.main()\n"
    )
    with running([sys.executable, str(ready), "--port", "0"], ROOT) as endpoint:
        verdicts = run_suite(ConformanceConfig(endpoint=endpoint))
    results = {v.promise.text: v.result for v in verdicts}
    assert results["The same rollout has the same score"] == "not shown"
    assert "broken" not in results.values()
