"""Benchmarks compare equal work, or refuse to."""

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest

import benchmarks.__main__ as program
from benchmarks import compare, policy_table
from benchmarks.chamfer_gpu import GpuBenchConfig
from benchmarks.registry import (
    RATES,
    Comparison,
    Curve,
    Measured,
    Rate,
    Work,
    measure,
    measure_curve,
    measure_rate,
)
from benchmarks.tiny_models import TinyBenchConfig, affordable_steps
from phys4d.scenes.registry import CATEGORIES


def test_a_slower_peer_shows_as_a_ratio_above_one() -> None:
    """The peer sleeps 10 ms longer than nothing; its ratio is in the thousands."""

    def peer() -> float:
        time.sleep(0.01)
        return 1.0

    timing = measure(Comparison(name="x", peer="sleep", make=lambda: (lambda: 1.0, peer), rtol=0), repeats=3)
    assert timing.ratio > 10 and timing.theirs >= 0.01 and timing.ratio_range[0] <= timing.ratio


def test_results_that_differ_are_refused() -> None:
    wrong = Comparison(name="sum", peer="math", make=lambda: (lambda: 1.0, lambda: 1.5), rtol=1e-6)
    with pytest.raises(ValueError, match="sum: results differ by up to 0.5 from math"):
        measure(wrong, repeats=3)


def growing(*, ours: float, peer: float, expected: float) -> Curve:
    """Costs that are powers of the size, as works that know their own cost."""

    def make(size: int) -> dict[str, Work]:
        return {n: lambda e=e: Measured(7.0 * size**e, None) for n, e in (("ours", ours), ("a < b", peer))}

    return Curve(name="grow", x="points", sizes=(2, 4, 8, 16), unit="bytes", exponent=expected, make=make)


def test_powers_of_the_size_are_found_and_those_too_steep_are_told() -> None:
    found = measure_curve(growing(ours=1, peer=2, expected=1.0), repeats=3)
    assert found.exponents == pytest.approx({"ours": 1, "a < b": 2})
    assert found.values["ours"] == [14, 28, 56, 112] and found.within
    assert not measure_curve(growing(ours=1.2, peer=2, expected=1.0), repeats=3).within
    assert measure_curve(growing(ours=1, peer=2, expected=1.0), repeats=3, num_sizes=3).sizes == (2, 4, 8)


def test_a_run_writes_what_it_measured_and_two_runs_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours costs a quarter of the peer's in the first run and half in the second: slower."""
    monkeypatch.setattr(program, "register_all", lambda: None)
    monkeypatch.setattr(program, "CURVES", [growing(ours=1, peer=2, expected=1.0)])
    rate = Rate(name="r", unit="y", make=lambda: (lambda: Measured(0.5, None), 5))
    monkeypatch.setattr(program, "RATES", [rate])
    files = []
    for ours in (1.0, 2.0):
        works = (lambda c=ours: Measured(c, 3.0), lambda: Measured(4.0, 3.0))
        comparison = Comparison(name="x", peer="p", make=lambda works=works: works, rtol=0)
        monkeypatch.setattr(program, "COMPARISONS", [comparison])
        files.append(tmp_path / f"{ours}.json")
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--json", str(files[-1])])
        program.main()
    content = json.loads(files[0].read_text())
    assert content["results"][0]["ratio"] == 4 and content["rates"][0]["per_s"] == 10
    assert content["machine"]["num_cpus"] >= 1
    texts = [text.text for text in xml.etree.ElementTree.parse(tmp_path / "1.0.svg").iter() if text.text]
    assert "a < b: exponent 2.00" in texts and "points (bytes)" in texts
    capsys.readouterr()
    assert compare.main([str(files[0]), str(files[1])]) == 1
    assert re.search(r"^x +4 +2 +0\.50  slower$", capsys.readouterr().out, re.MULTILINE)
    assert compare.main([str(files[1]), str(files[0])]) == 0
    assert re.search(r"^x .*  faster$", capsys.readouterr().out, re.MULTILINE)
    assert compare.main([str(files[0]), str(files[0])]) == 0
    assert "slower" not in capsys.readouterr().out


def test_files_that_are_not_of_a_run_are_refused(tmp_path: Path) -> None:
    for text, message in (("{", "is no JSON"), ("{}", "lacks machine and results")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            compare.main([str(tmp_path / "a.json"), str(tmp_path / "a.json")])
    with pytest.raises(ValueError, match="no file .*none.json; write it with: make bench"):
        compare.main([str(tmp_path / "none.json"), str(tmp_path / "a.json")])


def test_training_steps_fill_the_budget_that_autoencoder_and_latents_leave() -> None:
    assert affordable_steps(360.0, 60.0, 0.1) == 3000
    with pytest.raises(ValueError, match="60 CPU seconds are too few: 60 went to the autoencoder"):
        affordable_steps(60.0, 59.95, 0.1)
    with pytest.raises(ValueError, match="unknown tiny preset 'tiny-wam'; did you mean 'tiny-wan'"):
        TinyBenchConfig(only="tiny-wam")


def test_a_rate_counts_units_and_not_calls() -> None:
    """A call sleeps 20 ms and does 5 units: 250 a second, or fewer on a busy machine."""
    timing = measure_rate(Rate(name="x", unit="y", make=lambda: (lambda: time.sleep(0.02), 5)), repeats=3)
    assert 25 < timing.per_s <= 250
    assert timing.per_s_range[0] <= timing.per_s <= timing.per_s_range[1]


def test_every_category_is_timed_at_three_sizes_and_in_the_scorer() -> None:
    program.register_all()
    names = {item.name for item in RATES}
    for category in CATEGORIES:
        assert {f"frames, {category}, {n} x {n}" for n in (64, 128, 512)} | {f"scored, {category}"} <= names
    scored = next(item for item in RATES if item.name == "scored, rigid")
    work, units = scored.make()
    assert units == 1
    _, truth = work()  # pyright: ignore[reportGeneralTypeIssues]
    assert truth.points_m.shape[0] == 9


def test_tuning_a_gpu_on_a_machine_without_one_ends_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chamfer_gpu"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: no NVIDIA GPU here; run this on a machine with one (CPU: python -m benchmarks)\n"
    )


@pytest.mark.gpu
def test_tuning_a_gpu_writes_its_name_and_the_fastest_tile(tmp_path: Path) -> None:
    flags = ["--batch", "1", "--frames", "3", "--points", "200", "--repeats", "3", "--out"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chamfer_gpu", *flags, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(next(tmp_path.glob("chamfer-*.json")).read_text())
    assert result["device"] and result["deviation"] < 1e-4
    assert str(result["best_tile"]) in result["tile_ms"]


def test_a_median_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats must be at least 3 for a median, got 2"):
        GpuBenchConfig(repeats=2)


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
