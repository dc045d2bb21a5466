"""The plain server and the client, over real connections."""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from phys4d.reward import wire
from phys4d.reward.client import RewardClient
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.scenes.registry import CATEGORIES
from phys4d.types import Failure, Outcome
from reward_service.config import ChamferSettings
from reward_service.scoring import score, version_of

REWARDS = ("Constant", "Slow", "Raising", "NotANumber", "PlainFloat", "Flaky", "BadlyTyped")
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, run_service) -> Iterator[str]:
    targets = [f"rewards_for_tests:{name}" for name in REWARDS]
    targets.append("examples.motion_smoothness:MotionSmoothness(scale_px=0.5)")
    limits = ["--limits.max-tensor-bytes", str(1 << 20), "--limits.max-request-bytes", str(4 << 20)]
    limits += ["--limits.max-rollouts", "32"]
    with run_service("plain", tmp_path_factory.mktemp("plain"), "--rewards", *targets, *limits) as (where, _):
        yield where


@pytest.fixture
def connect(endpoint: str) -> Iterator[Callable[..., RewardClient]]:
    clients: list[RewardClient] = []

    def make(**options) -> RewardClient:
        clients.append(RewardClient(endpoint, **{"timeout_s": 20, "max_attempts": 3, **options}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def failure(outcome: Outcome) -> Failure:
    assert isinstance(outcome.result, Failure), outcome
    return outcome.result


def call(endpoint: str, request: pb.ScoreBatchRequest) -> pb.ScoreBatchResponse:
    with grpc.insecure_channel(endpoint) as channel:
        return reward_pb2_grpc.RewardServiceStub(channel).ScoreBatch(request, timeout=10)


def test_the_server_tells_what_it_offers(connect) -> None:
    info = connect().wait_ready(5)
    assert [r.name for r in info.rewards][:4] == [
        "scene_chamfer",
        "rollout_chamfer",
        "surface_chamfer",
        "constant",
    ]
    assert info.simulator.startswith("mujoco ")
    offered = {c.name: c for c in info.categories}
    assert {"drop", "collision", "ramp", "tower", "projectile"} <= set(offered["rigid"].families)
    assert {name: c.engine for name, c in offered.items()} == {n: c.engine() for n, c in CATEGORIES.items()}
    assert info.limits.max_rollouts == 32


def test_a_score_over_the_wire_is_the_score_in_process(connect, make_truth) -> None:
    rollouts = [make_truth(f, sample_id=f) for f in ("drop", "tower", "projectile")]
    rollouts.append(replace(rollouts[0], sample_id="still", motion=0 * rollouts[0].motion))
    outcomes = connect().score(rollouts)
    assert [o.sample_id for o in outcomes] == ["drop", "tower", "projectile", "still"]
    for rollout, outcome in zip(rollouts, outcomes, strict=True):
        local = score(rollout, ChamferSettings())
        assert outcome.score is not None
        assert outcome.score.value == local.value
        assert outcome.score.components == local.components
        assert outcome.score.simulator == local.simulator and outcome.score.scorer_version == version_of(
            ChamferSettings()
        )
        assert 0 < outcome.score.scoring_s < 5


def test_one_bad_rollout_does_not_spoil_the_others(connect, make_truth) -> None:
    good = make_truth("drop", sample_id="good")
    depth = np.asarray(good.depth, np.float32)
    depth[2, 3, 4] = np.nan
    short = replace(good, sample_id="short", motion=good.motion[:-1])
    unknown = replace(good, sample_id="unknown", scene=replace(good.scene, family="juggling"))
    client = connect()
    outcomes = client.score([short, replace(good, sample_id="nan", depth=depth), good, unknown])
    assert [failure(o).reason for o in (*outcomes[:2], outcomes[3])] == [
        "WRONG_SHAPE",
        "NON_FINITE_DEPTH",
        "UNKNOWN_FAMILY",
    ]
    assert all(failure(o).error_class == "DATA" for o in (*outcomes[:2], outcomes[3]))
    assert "1 values" in failure(outcomes[1]).message and "juggling" in failure(outcomes[3]).message
    assert outcomes[2].score is not None
    assert client.num_retried == 0


def test_a_rollout_damaged_on_the_way_is_told_apart(endpoint: str, small_rollouts) -> None:
    messages = [wire.rollout_to_proto(r) for r in small_rollouts(3)]
    messages[0].tensors[0].data = b"?" + messages[0].tensors[0].data[1:]
    messages[1].tensors[0].byte_size += 1
    response = call(endpoint, pb.ScoreBatchRequest(rollouts=messages, reward="constant"))
    first, second, third = (wire.outcome_from_proto(o) for o in response.outcomes)
    assert (failure(first).reason, failure(first).error_class) == ("CHECKSUM_MISMATCH", "INFRA")
    assert (failure(second).reason, failure(second).error_class) == ("WRONG_SIZE", "DATA")
    assert third.score is not None
    assert [o.attempt for o in response.outcomes] == [1, 1, 1]


@pytest.mark.parametrize(
    ("reward", "word"),
    [("raising", "ZeroDivisionError"), ("not_a_number", "finite"), ("plain_float", "float")],
)
def test_a_reward_with_a_bug_gives_failures_and_never_a_number(connect, small_rollouts, reward, word) -> None:
    outcomes = connect(reward=reward, max_attempts=1).score(small_rollouts(2))
    assert {failure(o).reason for o in outcomes} == {"REWARD_RAISED"}
    assert word in failure(outcomes[0]).message


def test_a_badly_typed_score_fails_alone_or_counts_as_the_number_it_is(connect, small_rollouts) -> None:
    words = ["good", "array", "version", "component", "phase", "text", "derived", "surrogate", "reason"]
    rollouts = [replace(r, text=w) for r, w in zip(small_rollouts(len(words)), words, strict=True)]
    outcomes = connect(reward="badly_typed", max_attempts=1).score(rollouts)
    found = {w: o.score.value if o.score else failure(o).reason for w, o in zip(words, outcomes, strict=True)}
    bad = dict.fromkeys(("version", "component", "phase", "text"), "REWARD_RAISED")
    good = dict.fromkeys(("good", "array", "derived"), 0.5)
    assert found == {**good, **bad, "surrogate": "BAD_OUTCOME", "reason": "7"}


def test_failures_that_may_pass_are_sent_again(connect, small_rollouts, tmp_path: Path) -> None:
    client = connect(reward="flaky")
    assert all(o.score is not None for o in client.score(small_rollouts(5, text=str(tmp_path))))
    assert client.num_retried == 5


def test_what_takes_longer_than_the_budget_fails_and_the_rest_is_kept(connect, small_rollouts) -> None:
    fast, slow = small_rollouts(2)
    start = time.monotonic()
    outcomes = connect(reward="slow", timeout_s=1.5).score([replace(fast, text="0"), replace(slow, text="3")])
    assert time.monotonic() - start < 2.0
    assert outcomes[0].score is not None
    assert (failure(outcomes[1]).reason, failure(outcomes[1]).error_class) == ("BUDGET_EXCEEDED", "INFRA")


def test_the_same_rollout_sent_twice_has_the_same_value(connect, make_truth) -> None:
    client, rollout = connect(), make_truth("collision")
    first, second = client.score([rollout])[0].score, client.score([rollout])[0].score
    assert first is not None and second is not None
    assert (first.value, first.components) == (second.value, second.components)


def test_a_long_list_goes_in_several_calls(connect, small_rollouts) -> None:
    rollouts = small_rollouts(100)
    size = wire.rollout_to_proto(rollouts[0]).ByteSize()
    outcomes = connect(reward="constant", max_request_bytes=10 * size).score(rollouts)
    assert [o.sample_id for o in outcomes] == [r.sample_id for r in rollouts]
    assert all(o.score is not None for o in outcomes)


def test_calls_under_way_end_before_a_service_that_is_asked_to_stop(
    tmp_path: Path, run_service, small_rollouts
) -> None:
    """Nothing is sent twice; whoever comes later is not served."""
    flags = ("--no-scene-chamfer", "--rewards", "rewards_for_tests:Slow")
    service = run_service("plain", tmp_path, *flags)
    with service as (endpoint, pid), RewardClient(endpoint, max_attempts=1, timeout_s=60) as client:
        client.wait_ready(30)
        future = client.submit(small_rollouts(2, text="1.5"))
        time.sleep(0.7)
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        with RewardClient(endpoint, timeout_s=20, patience_s=0.0) as late:
            assert failure(late.score(small_rollouts(1, text="0"))[0]).reason == "UNAVAILABLE"
        assert all(o.score is not None for o in future.result(60)) and client.num_retried == 0
        # Until it has ended: the fixture asks once more.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_scoring_runs_beside_the_caller(connect, small_rollouts) -> None:
    client = connect(reward="slow")
    future = client.submit(small_rollouts(1, text="0.5"))
    assert not future.done()
    assert future.result(5)[0].score is not None


def test_threads_share_a_client(connect, small_rollouts) -> None:
    client = connect(reward="constant")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: client.score(small_rollouts(4)), range(16)))
    assert all(o.score is not None for result in results for o in result)


def test_a_custom_reward_is_asked_for_by_name(connect, make_truth) -> None:
    still = replace(make_truth("drop"), motion=0 * make_truth("drop").motion)
    outcome = connect(reward="motion_smoothness").score([still, replace(make_truth("drop"), sample_id="b")])
    assert outcome[0].score is not None and outcome[1].score is not None
    assert outcome[0].score.value == 1.0 > outcome[1].score.value > 0
    assert outcome[1].score.components["mean_change_px"] > 0


def test_calls_beyond_the_limits_are_refused_as_a_whole(
    endpoint, connect, small_rollouts, make_truth
) -> None:
    many = [wire.rollout_to_proto(r) for r in small_rollouts(40)]
    with pytest.raises(grpc.RpcError, match="40 rollouts, at most 32"):
        call(endpoint, pb.ScoreBatchRequest(rollouts=many, reward="constant"))
    with pytest.raises(ValueError, match="unknown reward 'beauty'; on offer: scene_chamfer, rollout_chamfer"):
        connect(reward="beauty").score(small_rollouts(1))
    big = make_truth("drop", size=160)
    assert failure(connect().score([big])[0]).reason == "TOO_LARGE"


def test_a_rollout_too_large_for_a_request_is_not_sent(connect, small_rollouts) -> None:
    outcome = connect(max_request_bytes=100).score(small_rollouts(1))[0]
    assert failure(outcome).reason == "TOO_LARGE" and "max_request_bytes" in failure(outcome).message


def test_what_cannot_be_packed_is_a_failure_of_that_rollout(connect, small_rollouts) -> None:
    good, bad = small_rollouts(2)
    bad = replace(bad, object_ids=np.ones((6, 8), np.int64))
    outcomes = connect(reward="constant").score([bad, good])
    assert failure(outcomes[0]).reason == "NOT_SENDABLE" and outcomes[1].score is not None


def test_two_rollouts_of_one_name_are_refused(connect, small_rollouts) -> None:
    with pytest.raises(ValueError, match="unique"):
        connect().score(small_rollouts(1) * 2)


def test_only_callers_with_the_token_are_served(tmp_path: Path, run_service, small_rollouts) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    flags = ("--no-scene-chamfer", "--rewards", "rewards_for_tests:Constant", "--token-file", str(token_file))
    with run_service("plain", tmp_path, *flags) as (endpoint, _):
        with RewardClient(endpoint, token=TOKEN) as client:
            assert client.wait_ready(5).simulator == ""
            assert client.score(small_rollouts(1))[0].score is not None
        for token in (None, "open-sesam", TOKEN.upper()):
            with RewardClient(endpoint, token=token, max_attempts=1) as client:
                with pytest.raises(PermissionError, match="token"):
                    client.wait_ready(5)
                with pytest.raises(PermissionError, match="token"):
                    client.score(small_rollouts(1))


def test_a_service_killed_under_way_gives_failures_and_not_exceptions(
    tmp_path: Path, run_service, small_rollouts
) -> None:
    flags = ("--no-scene-chamfer", "--rewards", "rewards_for_tests:Constant(seconds=0.3)")
    service = run_service("plain", tmp_path, *flags, exit_code=-signal.SIGKILL)
    with service as (endpoint, pid), RewardClient(endpoint, timeout_s=3) as client:
        future = client.submit(small_rollouts(20))
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        outcomes = future.result(10)
    assert {failure(o).error_class for o in outcomes} == {"INFRA"} and len(outcomes) == 20


def test_a_service_that_is_down_is_a_clear_error(small_rollouts) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
    with RewardClient(endpoint, timeout_s=60, patience_s=0.5) as client:
        with pytest.raises(
            ConnectionError, match=rf"no reward service at {endpoint}.*make serve.*waited 0.5 s"
        ):
            client.wait_ready(0.5)
        start = time.monotonic()
        outcomes = client.score(small_rollouts(3))
        assert time.monotonic() - start < 5
    assert {(failure(o).error_class, failure(o).reason) for o in outcomes} == {("INFRA", "UNAVAILABLE")}


def test_another_grpc_service_is_told_apart() -> None:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with (
        RewardClient(f"127.0.0.1:{port}") as client,
        pytest.raises(ConnectionError, match="no Phys4D reward"),
    ):
        client.wait_ready(30)
    server.stop(None)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--num-replica", "2"], "--num-replicas"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--rewards", "examples.nothing:Here"], "examples.nothing"),
        (["--chamfer.tau-m", "-1"], "tau_m must be above 0"),
        (["--token-file", "/nowhere/token"], "/nowhere/token"),
        (["--no-scene-chamfer"], "no reward to offer"),
    ],
)
@pytest.mark.parametrize("program", ["plain", "serve"])
def test_a_bad_setting_is_one_line_and_exit_code_2(program: str, flags: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", f"reward_service.{program}", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("program", ["plain", "serve"])
def test_a_taken_port_is_one_line_and_exit_code_2(program: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        command = [sys.executable, "-m", f"reward_service.{program}", "--port", port]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "--port 0" in result.stderr and result.stderr.splitlines()[-1].startswith("error: ")


def test_a_client_refuses_settings_without_sense() -> None:
    with pytest.raises(ValueError, match="host:port"):
        RewardClient("localhost")
    with pytest.raises(ValueError, match="max_attempts"):
        RewardClient("localhost:1", max_attempts=0)
    with pytest.raises(ValueError, match="ASCII"):
        RewardClient("localhost:1", token="Öffne dich")
