"""Benchmarks compare equal work, or refuse to."""

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.__main__ as program
from benchmarks import compare, page, profile, pytorch3d_cpu
from benchmarks.chamfer_gpu import GpuBenchConfig
from benchmarks.distinct_rewards import STEP, DistinctPending
from benchmarks.registry import (
    LINEAR,
    Bounds,
    Comparison,
    Curve,
    CurveTiming,
    Measured,
    Rate,
    Unavailable,
    Work,
    measure,
    measure_curve,
    measure_rate,
    registered,
)
from benchmarks.tiny_models import TinyBenchConfig, affordable_steps
from phys4d.models.registry import TINY
from phys4d.runtime.errors import UserError
from phys4d.runtime.threads import limit_threads
from phys4d.scenes.registry import CATEGORIES
from phys4d.types import Failure, Outcome, Score


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


def test_whoever_begins_takes_turns_and_a_row_ends_when_its_time_is_over() -> None:
    """Warm up, calibrate, then ours-theirs, theirs-ours, ours-theirs; two repeats where there is no time."""
    calls: list[str] = []

    def work(name: str) -> Work:
        return lambda: Measured(float(len(calls.append(name) or calls)), 0.0)

    taking_turns = Comparison(name="x", peer="y", make=lambda: (work("a"), work("b")), rtol=0)
    assert measure(taking_turns, repeats=3).repeats == 3
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert measure(taking_turns, repeats=7, budget_s=0.0).repeats == 2
    rate = Rate(name="r", unit="y", make=lambda: (work("c"), 1))
    assert measure_rate(rate, repeats=7, budget_s=0.0).repeats == 2
    assert measure_curve(growing(ours=1, unit="s"), repeats=7, budget_s=0.0).repeats == 2


def test_a_benchmark_does_not_see_the_threads_that_the_one_before_has_set() -> None:
    import cv2
    import torch

    found = []

    def make() -> tuple[Work, Work]:
        found.append((torch.get_num_threads(), cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"]))
        limit_threads(2)
        cv2.setNumThreads(2)
        return lambda: 1.0, lambda: 1.0

    for _ in range(2):
        measure(Comparison(name="x", peer="y", make=make, rtol=0), repeats=2)
    measure_rate(Rate(name="r", unit="y", make=lambda: (make()[0], 1)), repeats=2)
    limit_threads(1)
    cv2.setNumThreads(1)
    assert found == [(1, 1, "1")] * 3


def growing(*, ours: float, peer: float = 2, bounds: Bounds = LINEAR, unit: str = "bytes") -> Curve:
    """Costs that are powers of the size, as works that know their own cost."""

    def make(size: int) -> dict[str, Work]:
        return {n: lambda e=e: Measured(7.0 * size**e, None) for n, e in (("ours", ours), ("a < b", peer))}

    return Curve(name="grow", x="points", sizes=(2, 4, 8, 16), unit=unit, bounds=bounds, make=make)  # pyright: ignore[reportArgumentType]


def test_powers_of_the_size_are_found_and_what_claims_to_be_linear_is_neither_more_nor_less() -> None:
    found = measure_curve(growing(ours=1), repeats=3)
    assert found.exponents == pytest.approx({"ours": 1, "a < b": 2})
    assert found.values["ours"] == [14, 28, 56, 112] and found.within
    for exponent, bounds in ((1.2, LINEAR), (0.3, LINEAR), (1.4, (0.0, 1.3))):
        assert not measure_curve(growing(ours=exponent, bounds=bounds), repeats=3).within
    assert measure_curve(growing(ours=0.3, bounds=(0.0, 1.3)), repeats=3).within
    assert measure_curve(growing(ours=1), repeats=3, num_sizes=3).sizes == (2, 4, 8)


def test_a_quick_run_leaves_the_largest_sizes_and_a_repeat_out() -> None:
    found = program._measured(growing(ours=1, unit="s"), program.BenchConfig(quick=True))
    assert isinstance(found, CurveTiming)
    assert (found.sizes, found.repeats) == ((2, 4, 8), 2)


def test_a_run_writes_what_it_measured_and_two_runs_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours costs a quarter of the peer's in the first run and half in the second: slower. Rows that cannot be
    measured do not end the run, and what has another peer is another figure."""

    def broken() -> tuple[Work, int]:
        raise RuntimeError("it broke")

    def lacking() -> tuple[Work, int]:
        raise Unavailable("there is no such peer")

    def measured(cost: float) -> Comparison:
        works = (lambda: Measured(cost, 3.0), lambda: Measured(4.0, 3.0))
        return Comparison(name="x", peer="p", make=lambda: works, rtol=0)

    rates = [
        Rate(name="lacking", unit="y", make=lacking),
        Rate(name="broken", unit="y", make=broken),
        Rate(name="r", unit="y", make=lambda: (lambda: Measured(0.5, None, 3e6), 5)),
    ]
    tables = {"rates": rates, "curves": [growing(ours=1)]}
    monkeypatch.setattr(program, "registered", lambda: tables)
    files = []
    for ours in (1.0, 2.0):
        other = replace(measured(1.0), name="z", peer=f"peer of {ours}")
        tables = {**tables, "results": [measured(ours), other]}
        files.append(tmp_path / f"{ours}.json")
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--json", str(files[-1])])
        assert program.main() == 1, "a benchmark failed"
    content = json.loads(files[0].read_text())
    assert content["results"][0]["ratio"] == 4
    assert content["errors"] == [{"name": "broken", "error": "it broke"}]
    (rate,) = content["rates"]
    assert (rate["per_s"], rate["peak_memory_mb"]) == (10, 3)
    assert content["machine"]["num_cpus"] >= 1
    texts = [text.text for text in xml.etree.ElementTree.parse(tmp_path / "1.0.svg").iter() if text.text]
    assert "a < b: exponent 2.00" in texts and "points (bytes)" in texts
    assert re.search(r"^lacking +not measured: there is no such peer$", capsys.readouterr().out, re.MULTILINE)
    assert compare.main([str(files[0]), str(files[1])]) == 1
    told = capsys.readouterr().out
    assert re.search(r"^x +4 +2 +0\.50  slower$", told, re.MULTILINE)
    assert f"only in {files[0]}: z, against peer of 1.0\n" in told
    assert f"only in {files[1]}: z, against peer of 2.0\n" in told
    assert f"failed in {files[1]}: broken: it broke\n" in told
    assert compare.main([str(files[1]), str(files[0])]) == 0
    assert re.search(r"^x .*  faster$", capsys.readouterr().out, re.MULTILINE)
    assert compare.main([str(files[0]), str(files[0])]) == 0
    assert "slower" not in capsys.readouterr().out
    second = json.loads(files[1].read_text())
    second["results"][0]["repeats"] = 2
    second["rates"] = []
    files[1].write_text(json.dumps(second))
    assert compare.main([str(files[0]), str(files[1])]) == 0, "two repeats tell nothing"
    assert f"only in {files[0]}: r\n" in capsys.readouterr().out
    written = tmp_path / "page.md"
    written.write_text("# Title\n\nText.\n\n## Figures\n\nOld ones.\n")
    monkeypatch.setattr(page, "registered", lambda: tables)
    with pytest.raises(UserError, match="1.0.json lacks 2 of 6 rows, among them 'lacking', .* or --force"):
        page.main([str(files[0]), "--page", str(written)])
    quick = tmp_path / "quick.json"
    quick.write_text(json.dumps({**content, "quick": True}))
    with pytest.raises(UserError, match="quick.json is of a quick run, no measurement"):
        page.main([str(quick), "--page", str(written)])
    assert "Old ones" in written.read_text()
    page.main([str(files[0]), "--page", str(written), "--force"])
    text = written.read_text()
    assert text.startswith("# Title\n\nText.\n\n## Figures\n\n") and "Old ones" not in text
    assert (
        "| x | 1e+03 ms | 4e+03 ms | 4.00 | 4.00-4.00 | p |" in text
        and "| r | 10 | 10-10 | 3 MB | y |" in text
    )
    assert "| grow (bytes) | 2-16 points | 1.00 | 0.9-1.1 | a < b 2.00 |" in text and "(page.svg)" in text
    assert "Failed: broken: it broke" in text and (tmp_path / "page.svg").exists()
    with pytest.raises(ValueError, match="has no heading '## Figures'"):
        page.main([str(files[0]), "--page", str(files[1]), "--force"])


def test_a_module_owns_what_it_calls_of_c_and_counts_once_while_it_is_on_the_stack() -> None:
    """a.f (1 s of its own) calls a.g (2 s), which calls C (4 s) and b.h (8 s): own 7 s, with b 15 s."""
    a, b = str(program.__file__), str(compare.__file__)
    f, g, c, h = (a, 1, "f"), (a, 2, "g"), ("~", 0, "c"), (b, 1, "h")
    found = profile.by_module(
        {
            f: (1, 1, 1.0, 15.0, {}),
            g: (1, 1, 2.0, 14.0, {f: (1, 1, 2.0, 14.0)}),
            c: (1, 1, 4.0, 4.0, {g: (1, 1, 4.0, 4.0)}),
            h: (1, 1, 8.0, 8.0, {g: (1, 1, 8.0, 8.0)}),
        }
    )
    assert found == {
        "benchmarks.__main__": profile.ModuleTime(7.0, 15.0),
        "benchmarks.compare": profile.ModuleTime(8.0, 8.0),
    }
    assert profile.module_of(np.__file__) == "numpy" and profile.module_of(json.__file__) == "json"


def test_pytorch3d_without_a_compiler_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch3d_cpu, "IS_INSTALLED", False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match=r"g\+\+ and ninja are needed to compile it"):
        pytorch3d_cpu.nearest()


def test_siblings_of_an_untrained_model_are_made_to_differ_and_failures_stay() -> None:
    future: Future[list[Outcome]] = Future()
    lost = Failure(error_class="INFRA", reason="GONE", message="")
    scores = [Score(value=0.5, scorer_version="1")] * 2
    future.set_result([Outcome(sample_id="", result=r) for r in (scores[0], lost, scores[1])])
    (outcomes,) = DistinctPending([future]).result()
    assert [o.score and o.score.value for o in outcomes] == [0.5, None, 0.5 + 2 * STEP]
    assert outcomes[1].result is lost


def test_files_that_are_not_of_a_run_are_refused(tmp_path: Path) -> None:
    machine = '"machine": {"cpu": "x", "num_cpus": 1, "python": "3", "git_commit": "c"}'
    for text, message in (
        (b"{", "a.json is no JSON"),
        (b"\xff\xfe", "a.json is no JSON"),
        (b"{}", "a.json lacks machine and results"),
        (b'{"machine": null, "results": []}', "machine in .*a.json must hold cpu, .*, got None"),
        (b'{"machine": {}, "results": []}', "machine in .*a.json must hold cpu, .*, got {}"),
        (f'{{{machine}, "results": null}}'.encode(), "results in .*a.json must be a list of rows, got None"),
        (f'{{{machine}, "results": [{{}}]}}'.encode(), "'name' has no default and is missing in row 0 of"),
        (
            f'{{{machine}, "results": [], "errors": [{{"name": 1, "error": ""}}]}}'.encode(),
            "name in row 0 of errors in .*a.json must be str, got 1",
        ),
    ):
        (tmp_path / "a.json").write_bytes(text)
        with pytest.raises(UserError, match=message):
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


def test_every_category_is_timed_at_three_sizes_and_in_the_scorer_and_every_preset_in_each_stage() -> None:
    rates = registered()["rates"]
    names = {item.name for item in rates}
    for category in CATEGORIES:
        assert {f"frames, {category}, {n} x {n}" for n in (64, 128, 512)} | {f"scored, {category}"} <= names
    assert {
        f"training, {p}, {s}, 2 threads" for p in TINY for s in ("base", "stage1", "stage2", "stage3")
    } <= names
    scored = next(item for item in rates if item.name == "scored, rigid")
    assert isinstance(scored, Rate)
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
