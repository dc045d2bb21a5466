"""What a service on Ray does before Ray has to do with it."""

import logging
from dataclasses import replace

import pytest

from reward_service.config import ServiceConfig
from reward_service.serve import Served, needed


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_replicas": 3}, "CPU"),
        ({"max_replicas": 3}, "CPU"),
        ({"num_gpus": 0.25}, "GPU"),
    ],
)
def test_a_configuration_that_the_cluster_has_no_room_for_is_refused(
    changes: dict, what: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would wait for more cores without end, and nothing that comes after it would be heard."""
    served: list[ServiceConfig] = []
    monkeypatch.setattr("reward_service.serve._run", lambda config, number, port: served.append(config))
    config = ServiceConfig(num_replicas=2)
    read = [replace(config, **changes), replace(config, num_replicas=1)]
    service = Served(config, 9000, lambda: read.pop(0), needed(config))
    with caplog.at_level(logging.ERROR):
        service.renew()
    assert f"more {what} than" in caplog.text and "restart the service" in caplog.text
    assert not served, "what was served goes on as it is"
    service.renew()
    assert [config.num_replicas for config in served] == [1]


@pytest.mark.parametrize(
    ("scorers", "share", "gpus"), [(2, 0, 0), (3, 2, 6), (3, 0.6, 3), (10, 0.1, 1), (5, 0.25, 2)]
)
def test_no_share_of_a_gpu_is_taken_from_two(scorers: int, share: float, gpus: int) -> None:
    assert needed(ServiceConfig(num_replicas=scorers, num_gpus=share))["GPU"] == gpus
