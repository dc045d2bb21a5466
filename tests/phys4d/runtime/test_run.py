"""A run folder belongs to one run, says what ran, and keeps every number logged before a kill."""

import importlib.util
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from phys4d.runtime.errors import UserError
from phys4d.runtime.run import RunFolder, read_metrics

CONFIG = "steps = 4\n[rollout]\ngroup_size = 8\n"

LOG_AND_HANG = """
import sys, time
from phys4d.runtime.run import RunFolder
run = RunFolder.open(sys.argv[1], sys.argv[2], resume=False)
for step in range(5):
    run.log(step, loss=1.0 / (step + 1))
print("logged", flush=True)
time.sleep(600)
"""


@pytest.fixture
def busy(tmp_path: Path):
    """A live process that holds `tmp_path / "run"` and has logged steps 0 to 4."""
    child = subprocess.Popen(
        [sys.executable, "-c", LOG_AND_HANG, str(tmp_path / "run"), CONFIG], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "logged\n"
    yield child
    child.kill()
    child.wait()


def test_a_second_run_in_the_folder_is_refused_and_told_who_holds_it(
    tmp_path: Path, busy: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(
        UserError, match=rf"in use by another run \(process {busy.pid} on .*take another name"
    ):
        RunFolder.open(tmp_path / "run", CONFIG, resume=True)


def test_after_a_kill_the_folder_is_free_and_every_logged_step_is_there(
    tmp_path: Path, busy: "subprocess.Popen[str]"
) -> None:
    busy.send_signal(signal.SIGKILL)
    busy.wait()
    with RunFolder.open(tmp_path / "run", CONFIG, resume=True) as run:
        run.log(5, loss=0.1)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[5]["elapsed_s"] >= rows[4]["elapsed_s"]
    sessions = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert len(sessions["earlier_sessions"]) == 1


def test_a_line_cut_short_by_a_kill_is_ignored_and_then_dropped(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG, resume=False) as run:
        run.log(0, loss=1.0)
    metrics = tmp_path / "metrics.jsonl"
    with metrics.open("a") as stream:
        stream.write('{"step": 1, "lo')
    assert [row["step"] for row in read_metrics(metrics)] == [0]
    with RunFolder.open(tmp_path, CONFIG, resume=True) as run:
        run.log(1, loss=0.5)
    assert [row["loss"] for row in read_metrics(metrics)] == [1.0, 0.5]


def test_a_broken_line_in_the_middle_is_refused_by_number(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is no JSON"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_not_a_number_stays_valid_json(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG, resume=False) as run:
        run.log(0, loss=math.nan, kl=math.inf)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word))["loss"] is None
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl")[0]["loss"])


def test_rewinding_forgets_what_a_resumed_run_will_log_again(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG, resume=False) as run:
        for step in range(6):
            run.log(step, loss=math.nan if step == 1 else 1.0)
        run.rewind(3)
        run.log(4, loss=2.0)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]


def test_a_folder_with_a_run_is_taken_only_to_resume(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, resume=False).close()
    with pytest.raises(UserError, match="already holds a run; pass --resume"):
        RunFolder.open(tmp_path, CONFIG, resume=False)


def test_resuming_with_another_configuration_is_refused_unless_the_key_may_change(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, resume=False).close()
    longer = CONFIG.replace("steps = 4", "steps = 9")
    with pytest.raises(UserError, match="another configuration .steps: 4 -> 9"):
        RunFolder.open(tmp_path, longer, resume=True)
    RunFolder.open(tmp_path, longer, resume=True, may_change=["steps"]).close()
    moved = f"{longer}[files]\n'host:1' = 'here'\n"
    with pytest.raises(UserError, match="files.host:1: None -> 'here'"):
        RunFolder.open(tmp_path, moved, resume=True, may_change=["steps"])
    RunFolder.open(tmp_path, moved, resume=True, may_change=["steps", "files"]).close()
    longer = moved
    with pytest.raises(UserError, match="rollout.group_size: 8 -> 2"):
        RunFolder.open(tmp_path, longer.replace("8", "2"), resume=True, may_change=["steps"])


def test_a_stage_that_restarts_forgets_its_metrics_and_may_be_configured_anew(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        run.log(0, loss=1.0)
    with RunFolder.open(tmp_path, CONFIG.replace("4", "9"), restart=True) as run:
        run.log(0, loss=0.5)
    assert [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0.5]


def test_provenance_says_what_ran(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, resume=False).close()
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert facts["argv"] == sys.argv
    assert facts["packages"]["numpy"] and facts["num_cpus"] >= 1
    assert facts["git_commit"] is None or len(facts["git_commit"]) == 40
    assert (tmp_path / "config.toml").read_text() == CONFIG


WANDB = """
import json
calls = open(__file__ + ".calls", "a")
class Error(Exception): pass
class Run:
    define_metric = lambda self, name, step_metric: print(name, step_metric, file=calls)
    log = lambda self, data: print(json.dumps(data), file=calls)
    finish = lambda self: print("finish", file=calls, flush=True)
def init(project, dir, id, name, config, resume):
    print(project, id, name, json.dumps(config), resume, file=calls)
    return Run()
"""
"""What the project uses of wandb, which writes down how it was called."""


def test_scalars_go_to_weights_and_biases_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    folder = tmp_path / "mine" / "stage1"
    for step in (0, 1):
        with RunFolder.open(folder, "steps = 4\n", resume=step > 0, wandb_project="physics") as run:
            run.log(step, loss=0.5)
    monkeypatch.delitem(sys.modules, "wandb")
    begun = f'physics {(folder / "wandb-id").read_text()} mine/stage1 {{"steps": 4}} allow\n* step\n'
    calls = (tmp_path / "wandb.py.calls").read_text()
    assert calls == "".join(f'{begun}{{"step": {step}, "loss": 0.5}}\nfinish\n' for step in (0, 1))


def test_weights_and_biases_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb-project is 'physics', but wandb is not installed"):
        RunFolder.open(tmp_path, "", wandb_project="physics")
    monkeypatch.undo()
    RunFolder.open(tmp_path, "", restart=True).close()
