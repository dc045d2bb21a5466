"""Tables of several seeds: kept, refused where made otherwise, and paired."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import kept, policy_table, stages
from phys4d.runtime.errors import UserError


@pytest.mark.parametrize("split", ["test", "held-out"])
def test_the_policy_table_reads_what_its_programs_wrote_and_refuses_what_others_did(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs are stood in for by one that writes what they write last; a second time nothing is run."""
    for part in policy_table.PARTS:
        (tmp_path / "tiny-wan" / part / "lora").mkdir(parents=True)
    adapter = tmp_path / "tiny-wan/stage2/lora/pytorch_lora_weights.safetensors"
    adapter.touch()
    ran: list[str] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        flags, program = dict(zip(command[3::2], command[4::2], strict=True)), command[2]
        ran.append(program)
        name = "evaluation" if split == "test" else f"evaluation-{split}"
        last = {"policy.train": "stage3/lora/pytorch_lora_weights.safetensors"}
        last["policy.best_of_n"] = "best_of_n/latents.safetensors"
        last["policy.evaluate"] = f"{name}/results.json"
        path = Path(flags["--run"]) / last[program]
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"stage": "stage3", "reader": "heads", "metric": "4D Chamfer", "mean": 1.0}]
        path.write_text(json.dumps({"rows": rows}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(kept, "subprocess", SimpleNamespace(run=run))
    flags = ["--runs", str(tmp_path), "--out", str(tmp_path / "out"), "--presets", "tiny-wan", "--seeds", "0"]
    flags += ["--held-out", f"data/rigid/{split}"]
    for more in (["--no-best-of-n"], ["--no-best-of-n"], [], [], ["--no-best-of-n"]):
        monkeypatch.setattr("sys.argv", ["policy_table", *flags, *more])
        policy_table.main()
    without, added = ["policy.train", "policy.evaluate"], ["policy.best_of_n", "policy.evaluate"]
    assert ran == without + added, "what best-of-N adds is measured again, and nothing else is done twice"
    assert json.loads((tmp_path / "out/results.json").read_text())["tiny-wan"]
    monkeypatch.setattr("sys.argv", ["policy_table", *flags, "--train-flags=--num-iterations 2"])
    with pytest.raises(UserError, match="choose another --out"):
        policy_table.main()
    adapter.write_bytes(b"of another stage 2")
    monkeypatch.setattr("sys.argv", ["policy_table", *flags])
    with pytest.raises(UserError, match="choose another --out"):
        policy_table.main()


def test_the_policy_table_pairs_seeds_and_knows_which_way_is_better() -> None:
    """Errors 3, 5 against 2, 3: ahead by 1 and 2, mean 1.5, s.e. .5; of a score 10, 20 against 13, 21."""
    chamfer, score = ("heads", "4D Chamfer"), ("rgb", "share of physical variance")
    seeds = [
        {("stage2", *chamfer): a, ("stage3", *chamfer): b, ("stage2", *score): c, ("stage3", *score): d}
        for a, b, c, d in ((3.0, 2.0, 10.0, 13.0), (5.0, 3.0, 20.0, 21.0))
    ]
    rows = {(row["metric"], row["stage"]): row for row in policy_table.summary(seeds)}
    before = rows["4D Chamfer m", "stage 2"]
    assert (before["mean"], before["ahead"]) == (4.0, 1.5)
    assert before["standard_errors"] == pytest.approx(3.0)
    assert before["std"] == pytest.approx(2**0.5)
    assert rows["Physics-IQ style %", "stage 2"]["standard_errors"] == pytest.approx(2.0)
    assert len(rows) == 4, "what was not measured has no row"
    assert policy_table.summary(seeds[:1])[0]["standard_errors"] is None
    shown = policy_table.text("tiny-wan", policy_table.summary(seeds), 2).splitlines()
    assert shown[3].split() == ["4D", "Chamfer", "m", "stage", "2", "4.0000", "1.4142", "+1.5000", "+3.0"]


def test_a_table_of_other_flags_or_another_base_does_not_take_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished is neither run again nor taken for another; a program writes what stages end with."""
    starts = ("val_", "val_noisy_", "baseline_val_", "baseline_val_noisy_")
    row = {f"{start}{column}": 1.0 for start in starts for column in stages.COLUMNS}
    ran: list[str] = []

    def program(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command[2])
        stage = Path(command[command.index("--run") + 1]) / (
            "stage1" if "--baseline" in command else "stage2"
        )
        stage.mkdir()
        (stage / "heads.safetensors").touch()
        (stage / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(kept, "subprocess", SimpleNamespace(run=program))
    for base in ("base", "other"):
        (tmp_path / base / "base" / "model").mkdir(parents=True)

    def table(*flags: str, base: str = "base") -> None:
        given = ["--base", str(tmp_path / base), "--out", str(tmp_path / "out"), "--seeds", "0"]
        monkeypatch.setattr(sys, "argv", ["stages", *given, *flags])
        stages.main()

    table()
    table()
    assert ran == ["pretrain.train", "sft.train", "sft.train"]
    with pytest.raises(UserError, match=r"stage2 was made with .*, asked is .*num-steps 3;"):
        table("--sft-flags=--optimiser.num-steps 3")
    with pytest.raises(UserError, match=r"seed-0/base is .*/base/base, not .*/other/base; remove it"):
        table(base="other")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["config"]["preset"] == "tiny-wan" and results["config"]["seeds"] == [0]
    assert results["seeds"]["0"]["stage 2, after"]["abs_rel_metric"] == 1.0
    (tmp_path / "base" / "base").rename(tmp_path / "moved")
    (tmp_path / "other" / "base").rename(tmp_path / "base" / "base")
    table()
    assert len(ran) == 3, "a link that dangled for a while is no obstacle"
