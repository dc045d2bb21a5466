"""When checkpoints are written."""

from pathlib import Path

import pytest
import torch

from phys4d.runtime.errors import UserError
from phys4d.training import StageRun, check_finished


def test_checkpoints_that_take_two_seconds_are_200_seconds_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def slow_save(state: object, path: Path) -> None:
        Path(path).write_bytes(b"state")
        clock[0] += 2.0

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(torch, "save", slow_save)
    with StageRun.open(tmp_path, "kind = 'small'\n") as run:
        times = []
        for second in range(0, 1000, 10):
            clock[0] = max(clock[0], float(second))
            if run.is_time_to_save(60.0):
                times.append(second)
                run.save("heads", second, {})
    # The first one after the 60 s asked for, the others after 2 s / 1 %.
    assert times == [60, 270, 480, 690, 900]


def test_a_stage_that_failed_keeps_its_checkpoints_and_a_finished_one_does_not(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), StageRun.open(tmp_path, "kind = 'small'\n") as run:
        run.log(0, loss=1.0)
        run.save("heads", 1, {"step": 1})
        run.log(1, loss=0.5)
        raise RuntimeError
    with StageRun.open(tmp_path, "kind = 'small'\n") as run:
        assert run.restore("heads") == {"step": 1}
        assert run.restore("other") is None
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists()


def test_a_stage_goes_on_from_what_it_began_from_only(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "index.json"
    published = tmp_path / "published"
    published.mkdir()
    model.mkdir()
    # A published model is linked part by part.
    (model / "transformer").symlink_to(published, target_is_directory=True)
    with pytest.raises(FileNotFoundError, match="no safetensors file in .*model"):
        StageRun.open(tmp_path / "stage1", "", sources={"base model": model})
    (published / "model.safetensors").write_bytes(b"weights")
    data.write_text("{}")
    stage, sources = tmp_path / "stage1", {"base model": model, "data": data}
    with pytest.raises(RuntimeError), StageRun.open(stage, "", sources=sources) as run:
        run.save("heads", 1, {"step": 1})
        raise RuntimeError
    with pytest.raises(
        UserError, match=r"stage1 was begun and interrupted; finish it with `python -m pretrain.train --run "
    ):
        check_finished(stage, "pretrain.train")
    (published / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(
        UserError, match=r"trained from something else \(base model differ\); remove .*stage1"
    ):
        StageRun.open(stage, "", sources=sources)
    (published / "model.safetensors").write_bytes(b"weights")
    with StageRun.open(stage, "", sources=sources) as run:
        assert run.restore("heads") == {"step": 1}
    check_finished(stage, "pretrain.train")


def test_a_stage_that_is_begun_again_is_unfinished_before_its_first_checkpoint(tmp_path: Path) -> None:
    with StageRun.open(tmp_path, "one = 1\n"):
        pass
    with pytest.raises(RuntimeError), StageRun.open(tmp_path, "one = 2\n"):
        raise RuntimeError
    with pytest.raises(UserError, match="was begun and interrupted"):
        check_finished(tmp_path, "sft.train")
