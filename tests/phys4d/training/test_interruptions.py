"""A training that was killed, stopped or spread over processes ends with the weights of one that was not."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from phys4d.runtime.errors import UserError
from phys4d.runtime.run import read_metrics
from phys4d.training import StageRun

ROOT = Path(__file__).parents[3]
JOB = Path(__file__).with_name("small_job.py")
NUM_STEPS = 40
train = runpy.run_path(str(JOB))["train"]


def start(folder: Path, *flags: str) -> "subprocess.Popen[str]":
    return program(JOB, str(folder), str(NUM_STEPS), *flags)


def program(script: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(folder: Path, least_step: int, child: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not any(int(p.name[5:]) >= least_step for p in folder.glob("checkpoints/second/step-*")):
        assert child.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[torch.Tensor]]:
    """A run without interruption and its weights."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(folder, NUM_STEPS)


def test_a_run_killed_and_then_terminated_ends_with_the_same_bits(
    tmp_path: Path, whole: tuple[Path, list[torch.Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    killed = start(tmp_path, "0.05")
    wait_for(tmp_path, 5, killed)
    killed.kill()
    killed.wait()
    terminated = start(tmp_path, "0.05")
    wait_for(tmp_path, 12, terminated)
    terminated.send_signal(signal.SIGTERM)
    output, complaint = terminated.communicate(timeout=240)
    assert terminated.returncode == 128 + signal.SIGTERM
    assert "second: going on after step" in output
    last = complaint.strip().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM after step") and "same command" in last
    last_step = max(int(p.name[5:]) for p in tmp_path.glob("checkpoints/second/step-*"))
    assert f"step {last_step} of second" in last and last_step < NUM_STEPS

    with pytest.raises(UserError, match=r"was started with another configuration \(kind: 'small' -> 'other'"):
        StageRun.open(tmp_path, "kind = 'other'\n")
    resumed = train(tmp_path, NUM_STEPS)
    assert f"second: going on after step {last_step} of {NUM_STEPS}" in capsys.readouterr().out
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(resumed, whole[1], strict=True))
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (tmp_path, whole[0])]
    assert [{k: v for k, v in row.items() if k != "elapsed_s"} for row in rows[0]] == [
        {k: v for k, v in row.items() if k != "elapsed_s"} for row in rows[1]
    ]
    assert [row["step"] for row in rows[0] if "val_norm" in row] == [0, 7, 14, 21, 28, 35, 40]
    assert not (tmp_path / "checkpoints").exists()


def on_two_processes(script: Path, *arguments: str, **environment: str) -> None:
    """Run a program as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        program(script, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **names, **environment)
        for rank in range(2)
    ]
    complaints = [child.communicate(timeout=300)[1] for child in ranks]
    assert [child.returncode for child in ranks] == [0, 0], complaints


def test_two_processes_learn_what_one_learns(tmp_path: Path, whole: tuple[Path, list[torch.Tensor]]) -> None:
    """Two micro-batches on two processes: the sum of two gradients has no order, so even the bits agree."""
    on_two_processes(JOB, str(tmp_path), str(NUM_STEPS))
    for ours, theirs in zip(torch.load(tmp_path / "weights.pt"), whole[1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_frozen_weights_split_by_fsdp_give_the_same_gradients(tmp_path: Path) -> None:
    """The script asserts that they are split; float32 sums of another order differ in the last digits."""
    step = JOB.with_name("sharded_step.py")
    on_two_processes(step, str(tmp_path / "split.pt"), ACCELERATE_USE_FSDP="true")
    assert program(step, str(tmp_path / "whole.pt")).wait(300) == 0
    for split, whole in zip(*(torch.load(tmp_path / f"{n}.pt") for n in ("split", "whole")), strict=True):
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_ray_train_learns_what_one_process_learns(
    tmp_path: Path, whole: tuple[Path, list[torch.Tensor]]
) -> None:
    """A local cluster of two CPU workers."""
    on_ray = JOB.with_name("ray_job.py")
    child = program(on_ray, str(tmp_path), str(NUM_STEPS))
    _, complaint = child.communicate(timeout=400)
    assert child.returncode == 0, complaint[-3000:]
    for ours, theirs in zip(torch.load(tmp_path / "run/weights.pt"), whole[1], strict=True):
        assert torch.equal(ours, theirs)
