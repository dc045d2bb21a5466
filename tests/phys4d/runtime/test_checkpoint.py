"""Checkpoints are whole, and only the last few are kept."""

from pathlib import Path

import pytest

from phys4d.runtime import checkpoint


def save(folder: Path, step: int, text: str = "weights", keep: int = 2) -> None:
    with checkpoint.new_checkpoint(folder, step, keep=keep) as path:
        (path / "policy").mkdir()
        (path / "policy" / "lora.bin").write_text(text)


def test_the_last_k_are_kept_and_the_highest_step_is_the_latest(tmp_path: Path) -> None:
    for step in (5, 10, 100, 20):
        save(tmp_path, step)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-000020", "step-000100"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000100"


def test_a_folder_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    (tmp_path / "step-abc").mkdir()
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "missing") is None


@pytest.mark.parametrize("harm", ["cut", "remove", "manifest"])
def test_an_incomplete_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    weights = tmp_path / "step-000002" / "policy" / "lora.bin"
    if harm == "cut":
        weights.write_text("wei")
    elif harm == "remove":
        weights.unlink()
    else:
        (tmp_path / "step-000002" / checkpoint.MANIFEST).unlink()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000001"
    assert "ignoring checkpoint" in capsys.readouterr().err


def test_a_failed_save_leaves_the_earlier_checkpoint_of_that_step(tmp_path: Path) -> None:
    save(tmp_path, 1, "old")
    with pytest.raises(OSError, match="full"), checkpoint.new_checkpoint(tmp_path, 1) as path:
        (path / "lora.bin").write_text("half")
        raise OSError("full")
    assert (tmp_path / "step-000001" / "policy" / "lora.bin").read_text() == "old"


def test_keeping_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1"):
        save(tmp_path, 1, keep=0)
