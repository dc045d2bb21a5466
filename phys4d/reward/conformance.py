"""Which promises of phys4d.reward.v1 a server keeps.

    python -m phys4d.reward.conformance --endpoint 127.0.0.1:9000

Sends a small rollout of the simulator, good, damaged and in parts, and asks for scores of `--reward`. A
promise about scores is not shown where the server scores nothing. Exit code 1: a promise is broken or not
shown.
"""

from dataclasses import dataclass
from pathlib import Path

import grpc

from phys4d.reward.calls import details
from phys4d.reward.endpoints import ClientTls
from phys4d.reward.probe import Probe, Verdict, made_up_rollouts, real_rollouts
from phys4d.reward.promises import PROMISES
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main

__all__ = ["ConformanceConfig", "made_up_rollouts", "main", "real_rollouts", "run_suite"]


@dataclass(frozen=True, kw_only=True)
class ConformanceConfig:
    """Check a reward server."""

    endpoint: str = "127.0.0.1:9000"
    """`host:port`."""
    reward: str = ""
    """Reward to ask for; empty is the server's first."""
    token_file: Path | None = None
    """File with the bearer token, if the server asks for one."""
    ca_file: Path | None = None
    """PEM file of the authority of the server's certificate; none connects without TLS."""
    cert_file: Path | None = None
    """PEM file of a certificate to show (mTLS), with its private key in `key_file`."""
    key_file: Path | None = None
    timeout_s: float = 20.0
    """Seconds for one call."""

    def __post_init__(self) -> None:
        if ":" not in self.endpoint:
            raise ValueError(f"endpoint must be host:port, got {self.endpoint!r}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, got {self.timeout_s}")


def run_suite(config: ConformanceConfig) -> list[Verdict]:
    """Check every promise on a running server.

    Raises:
        UserError: no server answers, or it refuses the token.
    """
    probe = Probe(
        config.endpoint,
        reward=config.reward,
        token=config.token_file.read_text(encoding="utf-8").strip() if config.token_file else "",
        tls=ClientTls.of_files(config.ca_file, config.cert_file, config.key_file),
        timeout_s=config.timeout_s,
    )
    try:
        try:
            probe.info = probe.stub.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=config.timeout_s, metadata=probe.metadata
            )
        except grpc.RpcError as error:
            raise UserError(f"no reward server at {config.endpoint}: {details(error)}") from error
        return [each.judge(probe) for each in PROMISES]
    finally:
        probe.close()


def main() -> None:
    """Command line."""
    verdicts = run_suite(load(ConformanceConfig))
    for verdict in verdicts:
        note = f" ({verdict.note})" if verdict.note else ""
        print(f"{verdict.result:12s} {verdict.promise.text}{note}")
    count = {result: sum(v.result == result for v in verdicts) for result in ("kept", "broken", "not shown")}
    print(f"\n{count['kept']} of {len(verdicts)} promises kept, {count['broken']} broken")
    if count["not shown"]:
        print(
            f"{count['not shown']} not shown: the server must score a rollout for them; try another --reward"
        )
    if count["broken"] or count["not shown"]:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
