"""A reward that another server scores: this service relays to it."""

from pathlib import Path

from phys4d.reward.client import RewardClient
from phys4d.reward.endpoints import ClientTls
from phys4d.reward.plugin import DataError
from phys4d.types import Failure, Rollout, Score

START_TIMEOUT_S = 60.0


class RemoteReward:
    """Scores on any server that speaks phys4d.reward.v1.

    Its failures stay failures: class DATA with the server's reason, everything else as INFRA.

    Args:
        name: under which name it is offered here.
        endpoint: `host:port`.
        reward: its name there; empty is the server's first.
        timeout_s: time for one rollout, repeats included.
        token_file: file with the bearer token the server asks for; empty shows none.
        ca_file: PEM file of the authority of the server's certificate; empty does not encrypt.
        cert_file, key_file: PEM files of a certificate to show (mTLS) and its private key; empty shows none.

    Raises:
        ConnectionError: the server does not answer within a minute.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        reward: str = "",
        timeout_s: float = 60.0,
        token_file: str = "",
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
    ) -> None:
        self.name = name
        files = [Path(file) if file else None for file in (ca_file, cert_file, key_file)]
        self._client = RewardClient(
            endpoint,
            reward=reward,
            timeout_s=timeout_s,
            token=Path(token_file).read_text(encoding="utf-8").strip() if token_file else None,
            tls=ClientTls.of_files(*files),
        )
        offered = {info.name: info.version for info in self._client.wait_ready(START_TIMEOUT_S).rewards}
        if not offered or (reward and reward not in offered):
            raise ValueError(f"{endpoint} offers {', '.join(offered) or 'nothing'}, no reward {reward!r}")
        self.version = offered[reward] if reward else next(iter(offered.values()))

    def score(self, rollout: Rollout) -> Score:
        """Have one rollout scored."""
        result = self._client.score([rollout])[0].result
        if not isinstance(result, Failure):
            return result
        if result.error_class == "DATA":
            raise DataError(result.reason, result.message)
        raise ConnectionError(f"{self._client.endpoint}: {result.reason}: {result.message}")
