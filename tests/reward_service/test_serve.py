"""The Ray Serve application: real cluster, real scorer processes, one of them killed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from phys4d.reward import wire
from phys4d.reward.calls import status_code
from phys4d.reward.client import RewardClient
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Failure, Rollout, Score
from reward_service.config import ChamferSettings
from reward_service.scoring import score
from tests.processes import command_line, descendants

pytestmark = pytest.mark.slow
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service has its files."""
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def service(folder: Path, run_service, lucky_requirements: Path) -> Iterator[tuple[str, int]]:
    (folder / "token").write_text(TOKEN)
    requirements = folder / "requirements.txt"
    requirements.write_text(lucky_requirements.read_text().replace("./", f"{lucky_requirements.parent}/"))
    (folder / "version").write_text("1")
    rewards = [
        "rewards_for_tests:Constant(seconds=0.05)",
        "rewards_for_tests:Crashing",
        "rewards_for_tests:Slow",
        f"rewards_for_tests:Versioned(file={str(folder / 'version')!r})",
        f"rewards_for_tests:Lucky @ {requirements}",
    ]
    # Busy cores take long to replace scorers that calls under way wait for.
    flags = ("--num-replicas", "2", "--drain-s", "60", "--token-file", str(folder / "token"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        with run_service("serve", folder, *flags, "--rewards", *rewards) as (endpoint, pid):
            yield endpoint, pid


def connect(service: tuple[str, int], **options) -> RewardClient:
    return RewardClient(service[0], **{"token": TOKEN, "timeout_s": 60, "max_attempts": 6, **options})


def test_the_scores_are_those_of_the_pure_function(service, make_truth) -> None:
    rollouts = [make_truth(f, sample_id=f) for f in ("drop", "ramp")]
    rollouts.append(replace(rollouts[0], sample_id="still", motion=0 * rollouts[0].motion))
    bad = replace(rollouts[0], sample_id="bad", depth=0 * rollouts[0].depth)
    with connect(service) as client:
        assert client.wait_ready(5).simulator.startswith("mujoco ")
        outcomes = client.score([*rollouts, bad])
    for rollout, outcome in zip(rollouts, outcomes, strict=False):
        assert outcome.score is not None, outcome
        assert outcome.score.value == score(rollout, ChamferSettings()).value
    failure = outcomes[3].result
    assert isinstance(failure, Failure) and failure.reason == "NON_POSITIVE_DEPTH"


def test_streams_and_health_checks_work_through_ray(service, small_rollouts) -> None:
    with connect(service, reward="constant", stream="always") as client:
        outcomes = client.score(small_rollouts(6, text="streamed"))
        assert all(o.score is not None and o.score.value == 1.0 for o in outcomes)
        again = client.score(small_rollouts(6, text="streamed"))
        assert all(o.score is not None and o.score.cached for o in again)
    with connect(service, token="wrong", stream="always") as client, pytest.raises(PermissionError):
        client.score(small_rollouts(1))
    with grpc.insecure_channel(service[0]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_wrong_token_is_told_as_such(service, small_rollouts) -> None:
    with connect(service, token="wrong") as client, pytest.raises(PermissionError, match="token"):
        client.score(small_rollouts(1))


def test_an_unknown_reward_is_told_as_such(service, small_rollouts) -> None:
    with connect(service, reward="beauty") as client, pytest.raises(ValueError, match="unknown reward"):
        client.score(small_rollouts(1))


def test_a_reward_with_packages_of_its_own_is_a_deployment_beside_the_others(service, small_rollouts) -> None:
    with connect(service, reward="lucky") as client:
        score = client.score(small_rollouts(1))[0].score
    assert score is not None and score.value == 7.0


@pytest.mark.parametrize("method", ["GetServerInfo", "ScoreBatch", "ScoreStream"])
def test_hostile_bytes_are_refused_through_ray_too(service, small_rollouts, method: str) -> None:
    """Nobody is scored, and whoever comes next is served."""
    rng = random.Random(0)
    valid = pb.ScoreBatchRequest(rollouts=[wire.rollout_to_proto(small_rollouts(1)[0])]).SerializeToString()
    hostile = [rng.randbytes(rng.randrange(1, 300)) for _ in range(12)]
    hostile += [valid[: rng.randrange(1, len(valid))] for _ in range(8)]
    metadata = [("authorization", f"Bearer {TOKEN}")]
    path = f"/phys4d.reward.v1.RewardService/{method}"
    with grpc.insecure_channel(service[0]) as channel:
        for data in hostile:
            try:
                if method == "ScoreStream":
                    answers = channel.stream_stream(path)(iter([data]), timeout=30, metadata=metadata)
                    answers = [pb.ScoreStreamResponse.FromString(answer) for answer in answers]
                    assert not any(answer.outcome.HasField("score") for answer in answers)
                else:
                    answer = channel.unary_unary(path)(data, timeout=30, metadata=metadata)
                    if method == "ScoreBatch":
                        response = pb.ScoreBatchResponse.FromString(answer)
                        assert not any(o.HasField("score") for o in response.outcomes)
            except grpc.RpcError as error:
                assert status_code(error) == grpc.StatusCode.INVALID_ARGUMENT, error
    with connect(service, reward="constant", max_attempts=1) as client:
        assert client.score(small_rollouts(1, text=f"after {method}"))[0].score is not None


def test_work_beyond_the_budget_fails_and_holds_up_nobody(service, small_rollouts) -> None:
    """Sixteen rollouts of 3 s: those that wait for a scorer when the time is over are dropped.

    Ray does not promise in which order scorers take them.
    """
    with connect(service, reward="slow", timeout_s=8) as client:
        outcomes = client.score(small_rollouts(16, text="3"))
    assert any(o.score is not None for o in outcomes)
    late = [o.result.reason for o in outcomes if isinstance(o.result, Failure)]
    assert set(late) == {"BUDGET_EXCEEDED"} and len(late) >= 8
    start = time.monotonic()
    with connect(service, reward="slow") as client:
        assert client.score(small_rollouts(1, text="0.01"))[0].score is not None
    assert time.monotonic() - start < 10, "8 x 3 s and more were still under way"


def scorer_ids(outcomes) -> set[int]:
    return {int(o.score.components["pid"]) for o in outcomes}


def test_two_scorers_share_the_work(service, small_rollouts) -> None:
    with connect(service, reward="constant") as client:
        assert len(scorer_ids(client.score(small_rollouts(12)))) == 2


def test_a_killed_scorer_loses_nothing(service, small_rollouts) -> None:
    """Rollouts of the dead process come back as INFRA and are sent again; every rollout gets its score."""
    rollouts: list[Rollout] = small_rollouts(16, text="0.5")
    outcomes = {}
    with connect(service, reward="slow", stream="always") as client:
        for outcome in client.score_as_ready(rollouts):
            assert outcome.score is not None and outcome.score.value == 1.0
            if not outcomes:
                # Whoever answered first is in the middle of its next one now.
                time.sleep(0.25)
                os.kill(int(outcome.score.components["pid"]), signal.SIGKILL)
            outcomes[outcome.sample_id] = outcome
        assert outcomes.keys() == {r.sample_id for r in rollouts}
        assert client.num_retried >= 1


def test_a_reward_that_ends_its_process_fails_that_rollout_only(
    service, small_rollouts, tmp_path: Path
) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()
    crash, *others = small_rollouts(3)
    crash = replace(crash, text=str(fuse))
    with connect(service, reward="crashing", max_attempts=1) as client:
        outcome = client.score([crash])[0]
        assert isinstance(outcome.result, Failure)
        assert (outcome.result.error_class, outcome.result.reason) == ("INFRA", "SCORER_DIED")
    with connect(service, reward="crashing") as client:
        assert all(o.score is not None for o in client.score([crash, *others]))


def test_a_killed_ingress_loses_nothing(service, small_rollouts) -> None:
    """Its calls end with an error, are sent again, and are answered by the one that takes its place."""
    ingress = replicas(service, b":Ingress")
    assert len(ingress) == 1
    with connect(service, reward="slow", timeout_s=180, max_attempts=40) as client:
        future = client.submit(small_rollouts(12, text="0.3"))
        time.sleep(0.8)
        os.kill(ingress[0], signal.SIGKILL)
        outcomes = future.result(200)
        assert all(o.score is not None and o.score.value == 1.0 for o in outcomes), outcomes
        assert client.num_retried >= 1


def replicas(service: tuple[str, int], name: bytes) -> list[int]:
    return [pid for pid in descendants(service[1]) if name in command_line(pid)]


def test_health_is_told_as_it_is(service) -> None:
    """While no scorer lives it is not well; when Ray has started others it is."""
    statuses: list[str] = []
    told = threading.Event()

    def kill_scorers() -> None:
        # Again and again: Ray may have replaced one before it misses the other.
        while not told.wait(0.1):
            for scorer in replicas(service, b":Scorer"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(scorer, signal.SIGKILL)

    with grpc.insecure_channel(service[0]) as channel, ThreadPoolExecutor(1) as pool:
        stub, request = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
        watch = stub.Watch(request, timeout=120)
        try:
            for answer in watch:
                statuses.append(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
                if len(statuses) == 1:
                    killing = pool.submit(kill_scorers)
                elif len(statuses) == 2:
                    told.set()
                    killing.result(30)
                else:
                    break
        finally:
            told.set()
    assert statuses == ["SERVING", "NOT_SERVING", "SERVING"]


def test_a_configuration_that_cannot_start_leaves_what_serves(service, folder: Path, small_rollouts) -> None:
    """It is told why, and a scorer that dies afterwards is replaced as before."""
    requirements, log = folder / "requirements.txt", folder / "log.txt"
    good = requirements.read_text()
    requirements.write_text("--no-index\nno-such-package-anywhere\n")
    os.kill(service[1], signal.SIGHUP)
    deadline = time.monotonic() + 120
    while "configuration 1 is not served" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.2)
    assert "cannot install" in log.read_text()
    requirements.write_text(good)
    victims = replicas(service, b":Scorer1")
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    with connect(service, reward="lucky", max_attempts=100) as client:
        assert all(o.score is not None for o in client.score(small_rollouts(8, text="after")))
    assert victims and set(victims).isdisjoint(replicas(service, b":Scorer1"))


def test_replicas_are_replaced_under_load_without_an_error(service, small_rollouts) -> None:
    """After SIGHUP every process is a new one, and no call noticed: two callers, nothing sent twice."""
    replaced = threading.Event()

    def stream_until_replaced() -> int:
        number = 0
        with connect(service, reward="slow", stream="always", max_attempts=1) as client:
            while not replaced.is_set():
                number += 1
                outcomes = client.score(small_rollouts(3, text=f"0.1{number:04d}"))
                assert all(o.score is not None for o in outcomes), outcomes
            assert client.num_retried == 0
        return number

    def score_until_replaced(reward: str) -> None:
        with connect(service, reward=reward, max_attempts=1) as client:
            before = scorer_ids(client.score(small_rollouts(8, text="before")))
            deadline, number, num_new = time.monotonic() + 180, 0, 0
            started.wait()
            while num_new < 5 and time.monotonic() < deadline:
                number += 1
                outcomes = client.score(small_rollouts(6, text=f"load {number}"))
                assert all(o.score is not None for o in outcomes), outcomes
                num_new = num_new + 1 if scorer_ids(outcomes).isdisjoint(before) else 0
            assert num_new == 5
            assert client.num_retried == 0

    started = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        streaming = pool.submit(stream_until_replaced)
        replacing = [pool.submit(score_until_replaced, reward) for reward in ("constant", "lucky")]
        try:
            started.wait(60)
            os.kill(service[1], signal.SIGHUP)
            for done in replacing:
                done.result(200)
        finally:
            replaced.set()
        assert streaming.result(60) > 1


def test_a_new_version_is_never_taken_for_the_old_one(service, folder: Path, small_rollouts) -> None:
    """After SIGHUP new clients learn of it; who knew the old version gets no score instead of another's."""

    def versions(text: str) -> set[str]:
        with connect(service, reward="versioned") as client:
            results = [outcome.result for outcome in client.score(small_rollouts(2, text=text))]
        return {r.scorer_version if isinstance(r, Score) else r.reason for r in results}

    assert versions("before") == {"1"}
    with connect(service, reward="versioned") as client:
        assert all(o.score is not None for o in client.score(small_rollouts(2, text="known")))
        (folder / "version").write_text("2")
        os.kill(service[1], signal.SIGHUP)
        deadline = time.monotonic() + 180
        while (seen := versions(f"{time.monotonic()}")) != {"2"}:
            assert seen <= {"1", "2", "OTHER_VERSION"}
            assert time.monotonic() < deadline, seen
        failures = [outcome.result for outcome in client.score(small_rollouts(2, text="after"))]
    assert [f.reason for f in failures if isinstance(f, Failure)] == ["OTHER_VERSION"] * 2


def test_calls_under_way_end_before_a_service_that_is_asked_to_stop(service, small_rollouts) -> None:
    """The last test of this service: it ends with all its processes, and nothing was sent twice."""
    started = {service[1], *descendants(service[1])}
    assert len(started) > 6
    with connect(service, reward="slow", max_attempts=1) as client:
        client.wait_ready(30)
        future = client.submit(small_rollouts(2, text="2.5"))
        time.sleep(1.0)
        os.kill(service[1], signal.SIGTERM)
        assert all(o.score is not None for o in future.result(60))
        assert client.num_retried == 0
    deadline = time.monotonic() + 60
    while (alive := [p for p in started if command_line(p)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive


def refused(*flags: str) -> str:
    """The last line of a service that does not start."""
    command = [sys.executable, "-m", "reward_service.serve", "--port", "0", "--no-scene-chamfer", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 2
    return result.stderr.splitlines()[-1]


def test_scorers_that_do_not_start_are_one_line() -> None:
    target = "examples.motion_smoothness:MotionSmoothness(scale_px=-1)"
    assert "scale_px must be positive" in refused("--rewards", target)


def test_more_gpus_than_there_are_are_refused_instead_of_waited_for() -> None:
    target = "examples.motion_smoothness:MotionSmoothness"
    last = refused("--rewards", target, "--num-gpus", "64", "--num-replicas", "2")
    assert "need 128 GPUs, Ray found" in last
    assert "lower num_gpus" in last
