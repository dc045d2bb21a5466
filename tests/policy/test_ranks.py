"""Several processes of a run learn what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from policy.ranks import Ranks
from tests.processes import ROOT, rank_environments


def launch(number: int, out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Run the case in so many processes, as `accelerate launch` would."""
    children = []
    for ranks in rank_environments(number):
        alone = {"ACCELERATE_USE_CPU": "true"}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(ranks if number > 1 else alone)}
        command = [sys.executable, str(Path(__file__).with_name("ranks_case.py")), str(out)]
        children.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE))
    for child in children:
        _, complaint = child.communicate(timeout=300)
        assert child.returncode == 0, complaint.decode()[-2000:]
    return torch.load(out)


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """T18 and T19: rewards, gradient, weights and statistics are those of a single process."""
    one, two = (launch(number, tmp_path / f"{number}.pt") for number in (1, 2))
    for name in one:
        for key, expected in one[name].items():
            found = torch.as_tensor(two[name][key])
            expected = torch.as_tensor(expected)
            size = float(expected[expected.isfinite()].abs().max())
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * size, equal_nan=True)
        assert one[name]["gradient"].abs().max() > 0


def test_videos_that_do_not_divide_among_processes_are_refused() -> None:
    ranks = Ranks.alone()
    assert ranks.share(6) == slice(0, 6)
    ranks.num, ranks.index = 4, 1
    assert ranks.share(8) == slice(2, 4)
    with pytest.raises(ValueError, match="6 videos cannot be shared by 4 processes; make rollout"):
        ranks.share(6)
