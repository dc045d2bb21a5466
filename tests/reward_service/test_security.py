"""Who gets in: TLS, client certificates, tokens; and what is told to whom."""

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from phys4d.reward import wire
from phys4d.reward.calls import status_code
from phys4d.reward.client import RewardClient
from phys4d.reward.endpoints import ClientTls
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.types import Failure
from reward_service.config import TlsSettings
from reward_service.telemetry import ServiceMetrics
from tests.reward_service.certificates import Authority

TOKEN = "open-sesame"
FLAGS = ("--no-scene-chamfer", "--rewards", "rewards_for_tests:Constant")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, run_service) -> Iterator[tuple[str, Path, Authority]]:
    """A service with mTLS, a token, metrics and little room for calls."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder, "ca")
    pair = authority.sign("server")
    (folder / "token").write_text(TOKEN)
    flags = ["--token-file", str(folder / "token"), "--metrics-port", "0"]
    flags += ["--tls.cert-file", str(pair.cert), "--tls.key-file", str(pair.key)]
    flags += ["--tls.client-ca-file", str(authority.file)]
    with run_service("plain", folder, *FLAGS, *flags) as (endpoint, _):
        yield endpoint, folder, authority


def client_tls(authority: Authority, name: str = "client", **options) -> ClientTls:
    pair = authority.sign(name, **options)
    return ClientTls(ca_file=authority.file, cert_file=pair.cert, key_file=pair.key)


def test_a_caller_with_certificate_and_token_is_served(guarded, small_rollouts) -> None:
    endpoint, _, authority = guarded
    for stream in ("always", "never"):
        with RewardClient(endpoint, token=TOKEN, tls=client_tls(authority), stream=stream) as client:
            assert client.wait_ready(20).streams
            assert all(o.score is not None for o in client.score(small_rollouts(2)))


@pytest.mark.parametrize("who", ["plain text", "no certificate", "another authority's", "expired"])
def test_a_caller_without_a_valid_certificate_is_not_connected(
    guarded, small_rollouts, tmp_path: Path, who: str
) -> None:
    endpoint, _, authority = guarded
    if who == "another authority's":
        pair = Authority(tmp_path, "other").sign("client")
        tls = ClientTls(ca_file=authority.file, cert_file=pair.cert, key_file=pair.key)
    else:
        tls = {
            "plain text": None,
            "no certificate": ClientTls(ca_file=authority.file),
            "expired": client_tls(authority, "expired", days=-1),
        }[who]
    with RewardClient(endpoint, token=TOKEN, tls=tls, timeout_s=3, patience_s=0.5) as client:
        with pytest.raises(ConnectionError, match="no reward service"):
            client.wait_ready(1)
        outcome = client.score(small_rollouts(1))[0]
    assert isinstance(outcome.result, Failure) and outcome.result.error_class == "INFRA"


def test_an_expired_server_certificate_is_told(tmp_path: Path, run_service, small_rollouts) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.sign("server", days=-1)
    flags = ("--tls.cert-file", str(pair.cert), "--tls.key-file", str(pair.key))
    with run_service("plain", tmp_path, *FLAGS, *flags) as (endpoint, _):
        tls = ClientTls(ca_file=authority.file)
        with RewardClient(endpoint, tls=tls, timeout_s=3, patience_s=0.5) as client:
            outcome = client.score(small_rollouts(1))[0]
    assert isinstance(outcome.result, Failure) and outcome.result.reason == "UNAVAILABLE"
    assert "certificate" in outcome.result.message.lower()


def stub_of(guarded) -> tuple[grpc.Channel, reward_pb2_grpc.RewardServiceStub]:
    endpoint, _, authority = guarded
    channel = grpc.secure_channel(endpoint, client_tls(authority).credentials())
    return channel, reward_pb2_grpc.RewardServiceStub(channel)


@pytest.mark.parametrize(
    "token", [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"bearer {TOKEN}", TOKEN]
)
def test_a_call_without_the_token_ends_before_its_message_is_read(guarded, token: str | None) -> None:
    """A stream that never says anything is refused at once: the server does not wait for it."""
    channel, stub = stub_of(guarded)
    metadata = [] if token is None else [("authorization", token)]

    def silent() -> Iterator[pb.ScoreStreamRequest]:
        time.sleep(5)
        yield pb.ScoreStreamRequest()

    calls = [
        lambda: stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=20, metadata=metadata),
        lambda: stub.ScoreBatch(pb.ScoreBatchRequest(), timeout=20, metadata=metadata),
        lambda: list(stub.ScoreStream(silent(), timeout=4, metadata=metadata)),
    ]
    with channel:
        for call in calls:
            with pytest.raises(grpc.RpcError, match="bearer token") as info:
                call()
            assert status_code(info.value) == grpc.StatusCode.UNAUTHENTICATED


def test_a_health_check_needs_no_token(guarded) -> None:
    channel, _ = stub_of(guarded)
    with channel:
        for service in ("", "phys4d.reward.v1.RewardService"):
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_methods_are_not_listed_unless_asked_for(guarded) -> None:
    channel, _ = stub_of(guarded)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    with channel, pytest.raises(grpc.RpcError) as info:
        list(stub.ServerReflectionInfo(iter([request]), timeout=20))
    assert status_code(info.value) == grpc.StatusCode.UNIMPLEMENTED


def test_metrics_and_logs_tell_of_calls_and_not_of_tokens(guarded, small_rollouts) -> None:
    folder = guarded[1]
    bad, good = (wire.rollout_to_proto(r) for r in small_rollouts(2, text="for the metrics"))
    bad.tensors[0].crc32c ^= 1
    channel, stub = stub_of(guarded)
    with channel:
        request = pb.ScoreBatchRequest(rollouts=[bad, good], request_id="find-me")
        stub.ScoreBatch(request, timeout=20, metadata=[("authorization", f"Bearer {TOKEN}")])
    log = (folder / "log.txt").read_text()
    where = next(line for line in log.splitlines() if line.startswith("metrics on ")).split()[-1]
    page = urllib.request.urlopen(where, timeout=10).read().decode()
    assert 'phys4d_outcomes_total{class="INFRA",reason="CHECKSUM_MISMATCH",reward="constant"} 1.0' in page
    for phase in ("decode", "queue", "score"):
        assert f'phys4d_phase_seconds_count{{phase="{phase}"}}' in page
    deadline = time.monotonic() + 5
    while "find-me" not in (log := (folder / "log.txt").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    rows = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    row = next(row for row in rows if row.get("request_id") == "find-me")
    assert (row["method"], row["code"], row["num_rollouts"], row["num_scored"]) == ("ScoreBatch", "OK", 2, 1)
    assert TOKEN not in log and TOKEN not in page


def test_metrics_wait_for_the_process_that_is_replaced_to_free_their_port() -> None:
    metrics = ServiceMetrics()
    with socket.socket() as former:
        former.bind(("127.0.0.1", 0))
        former.listen()
        port = former.getsockname()[1]
        metrics.serve_when_free("127.0.0.1", port)
        time.sleep(0.1)
    metrics.buffered_bytes.set(7)
    deadline, page = time.monotonic() + 20, ""
    while not page and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        time.sleep(0.05)
    assert "phys4d_buffered_bytes 7.0" in page


def test_settings_of_tls_come_in_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        TlsSettings(cert_file=tmp_path / "a")
    with pytest.raises(ValueError, match="client_ca_file needs"):
        TlsSettings(client_ca_file=tmp_path / "a")
    with pytest.raises(ValueError, match="belong together"):
        ClientTls(key_file=tmp_path / "a")
