"""The service of a run: who starts it again, and what other services are shown."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from policy.config import RewardConfig
from policy.service import LocalService, reward_service, security
from tests.processes import ROOT, command_line, descendants


def test_a_dead_service_is_started_again_once_however_many_sources_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service, starts = LocalService(RewardConfig()), []
    service._child = SimpleNamespace(poll=lambda: 1)  # pyright: ignore

    def start() -> None:
        starts.append(1)
        time.sleep(0.05)
        service._child = SimpleNamespace(poll=lambda: None)  # pyright: ignore

    monkeypatch.setattr(service, "start", start)
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(service.restart_if_dead)
    assert len(starts) == 1


def test_a_dead_service_is_started_again_though_nobody_waits_for_it_and_not_after_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("policy.service.WATCH_EVERY_S", 0.01)
    services: list[LocalService] = []

    def start(self: LocalService) -> None:
        """A process that ends at once the first two times."""
        services.append(self)
        seconds = 0 if len(services) < 3 else 600
        command = [sys.executable, "-c", f"import time; time.sleep({seconds})"]
        self._child = subprocess.Popen(command, start_new_session=True)

    monkeypatch.setattr(LocalService, "start", start)
    with reward_service(RewardConfig()):
        deadline = time.monotonic() + 30
        while len(services) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    child = services[0]._child
    assert child is not None and child.poll() is not None, "the third ends with the block"
    time.sleep(0.1)
    assert len(services) == 3


@pytest.mark.slow
def test_a_killed_trainer_leaves_no_service_behind() -> None:
    """Its parent gets SIGKILL; the service and all below it end."""
    code = (
        "import time\nfrom policy.config import RewardConfig\nfrom policy.service import LocalService\n"
        "service = LocalService(RewardConfig(num_replicas=1))\nservice.start()\n"
        "print('pid', service._child.pid, flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    service = next(int(line.split()[1]) for line in parent.stdout if line.startswith("pid"))
    started = {service, *descendants(service)}
    assert len(started) > 4
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while (alive := [pid for pid in started if command_line(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive


def test_each_service_is_shown_its_own_token_and_no_other(tmp_path: Path) -> None:
    for name in ("ours", "theirs", "authority"):
        (tmp_path / name).write_text(f"{name}\n")
    config = RewardConfig(
        endpoint="a:1",
        token_file=tmp_path / "ours",
        sources={"x": 1.0, "x@b:2": 1.0, "x@c:3": 1.0},
        token_files={"b:2": tmp_path / "theirs"},
        ca_files={"b:2": tmp_path / "authority"},
    )
    assert security(config, "a:1") == {"token": "ours"}
    shown = security(config, "b:2")
    assert shown["token"] == "theirs" and shown["tls"].ca_file == tmp_path / "authority"
    assert security(config, "c:3") == {}
    with pytest.raises(ValueError, match="token_files names d:4, which no source is on; name NAME@d:4"):
        RewardConfig(sources={"x@b:2": 1.0}, token_files={"d:4": tmp_path / "theirs"})
