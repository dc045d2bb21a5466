"""The page is self-contained, says the numbers of the run, and names what is missing instead of failing."""

import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phys4d.report import scenes
from phys4d.report.page import write_report
from phys4d.report.read import read_run

VOID = {"br", "hr", "img", "input", "link", "meta", "circle", "line", "path", "polygon"}


class Page(html.parser.HTMLParser):
    """Collects text and checks that tags nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.references: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == [], f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"stray </{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def report(folder: Path) -> tuple[str, Page]:
    source = write_report(folder).read_text(encoding="utf-8")
    return source, Page(source)


def edit_results(folder: Path, **values: object) -> None:
    path = folder / "evaluation" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def row(stage: str, seeds: list[float], **others: object) -> dict[str, object]:
    values = {
        "stage": stage,
        "reader": "heads",
        "metric": "trajectory_error",
        "unit": "m",
        "mean": sum(seeds) / len(seeds),
    }
    return values | {"seeds": seeds, "higher_is_better": False, "num_scenes": 64} | others


def test_the_page_needs_nothing_outside_itself(run_folder: Path) -> None:
    source, page = report(run_folder)
    assert not re.search(r"https?:|//cdn|@import|url\((?!data:)", source)
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert "default-src 'none'" in source


def test_the_page_tells_the_numbers_of_the_evaluation(run_folder: Path) -> None:
    rows = [
        row("stage1", [0.21, 0.20, 0.22]),
        row("stage2", [0.151, 0.149, 0.150]),
        row("stage3", [0.100, 0.104, 0.096]),
        row("constant_velocity", [0.312]),
    ]
    edit_results(run_folder, rows=rows, comparisons=[])
    _, page = report(run_folder)
    assert "Held-out trajectory error fell 52 % from 0.210 m (stage 1) to 0.100 m (stage 3)" in page.text
    assert "Stage 3 is better than stage 2: 0.100 ± 0.004 against 0.150 ± 0.001 m." in page.text
    assert "The difference is larger than the scatter of the seeds." in page.text
    assert "0.210 ± 0.010" in page.text and "0.312" in page.text and "64 held-out scenes" in page.text


def test_a_worse_last_stage_is_called_worse(run_folder: Path) -> None:
    edit_results(run_folder, rows=[row("stage2", [0.10, 0.11]), row("stage3", [0.13, 0.14])], comparisons=[])
    source, page = report(run_folder)
    assert "Held-out trajectory error rose 29 % from" in page.text
    assert "Stage 3 is not better than stage 2" in page.text
    assert 'class="worse"' in source


def test_a_change_within_the_scatter_of_the_seeds_is_called_none(run_folder: Path) -> None:
    edit_results(run_folder, rows=[row("stage2", [0.10, 0.11]), row("stage3", [0.12, 0.10])], comparisons=[])
    source, page = report(run_folder)
    assert "Held-out trajectory error did not change beyond the scatter of the seeds: 0.105 m" in page.text
    assert "within the scatter of the seeds" in page.text
    assert 'class="worse"' not in source and 'class="better"' not in source


def test_a_paired_difference_decides_where_there_is_one(run_folder: Path) -> None:
    _, page = report(run_folder)
    assert (
        "the difference is −0.0380 m, 95 % interval −0.0510 to −0.0240, which leaves out zero." in page.text
    )
    assert "Stage 2 to Stage 3 −0.0380 −0.0510 to −0.0240 0.0020 better 64" in page.text
    assert "Stage 2 to Stage 3 −0.0380 −0.0510 to 0.00400 0.0020 not told apart 64" in page.text


def test_one_seed_has_no_spread(run_folder: Path) -> None:
    edit_results(run_folder, rows=[row("stage2", [0.2]), row("stage3", [0.1])], comparisons=[])
    _, page = report(run_folder)
    assert "One seed only, so the scatter is unknown." in page.text


def test_cards_beyond_the_budget_are_left_out_and_counted(run_folder: Path) -> None:
    """The first scene is always shown."""
    run = read_run(run_folder)
    assert scenes.section(run, 10_000_000).count("<article") == 2
    small = scenes.section(run, 1)
    assert small.count("<article") == 1 and "1 more scene is left out to keep this page small" in small
    assert "1 more scene is left out" in scenes.failures(run, 1)


def test_every_stage_and_scene_is_shown(run_folder: Path) -> None:
    source, page = report(run_folder)
    for title in ("Base", "Stage 1", "Stage 2", "Stage 3", "Simulator", "Constant velocity"):
        assert title in page.text
    assert source.count('class="scene"') == 2 + 1, "two scenes and one of them again as a failure"
    assert source.count("data:image/webp;base64,") == 2 * (5 + 4 + 4) + 6
    assert "an orange ball <drop> falls & bounces" in page.text
    assert "Component: Chamfer" in page.text and "group_size = 8" in page.text


def test_scores_of_the_literature_are_marked_and_stand_beside_ours(run_folder: Path) -> None:
    parts = {"s_iou": 0.31, "ws_iou": 0.22, "st_iou": 0.13, "mse": 0.014}
    scores = {
        "original": {"score": 21.5, "score_std": 0.6, **parts},
        "verified": {"score": 24.25, "score_std": 0.8},
        "fps": 8, "num_runs": 4, "complete": False,
    }  # fmt: skip
    (run_folder / "physics_iq").mkdir()
    (run_folder / "physics_iq" / "stage3.json").write_text(json.dumps(scores))
    _, page = report(run_folder)
    assert "Stage 3 0.310 0.220 0.130 0.0140 21.5 ± 0.6 24.2 ± 0.8 4 runs, 8 fps; not all videos" in page.text
    assert "Published, not measured here A model first frame – – – – 1.0 → 2.0 – a test" in page.text
    assert "Another first frame – – – – – 31.8 ± 1.5 a test" in page.text
    (run_folder / "physics_iq" / "stage3.json").write_text("{}")
    assert "A model" in report(run_folder)[1].text


def test_best_of_n_is_a_column_and_says_what_it_cost(run_folder: Path) -> None:
    edit_results(run_folder, rows=[row("stage2", [0.2]), row("best_of_n", [0.1]), row("external", [0.3])])
    (run_folder / "best_of_n").mkdir()
    (run_folder / "best_of_n" / "facts.json").write_text('{"num_candidates": 12}')
    _, page = report(run_folder)
    assert "Held-out metric Stage 2 Best of N external" in page.text
    assert "Num candidates 12" in page.text and "num_seeds = 3" in page.text


def changed(metric: str, reader: str, change: float, margin: float) -> dict[str, object]:
    interval = [change - margin, change + margin]
    values = {"before": "stage2", "after": "stage3", "metric": metric, "reader": reader, "num_scenes": 64}
    return values | {"mean_difference": change, "ci95": interval, "p_value": 0.5, "p_holm": 1.0}


@pytest.mark.parametrize(
    ("estimated", "in_pixels", "words"),
    [
        ((-0.05, 0.02), (-0.4, 0.2), ("fine", "fine")),
        ((-0.01, 0.02), (0.1, 0.2), ("watch", "watch")),
        ((0.05, 0.02), (-0.4, 0.2), ("alarm", "fine")),
    ],
)
def test_a_gain_that_only_the_heads_see_raises_a_flag(
    run_folder: Path, estimated: tuple[float, float], in_pixels: tuple[float, float], words: tuple[str, str]
) -> None:
    comparisons = [
        changed("4D Chamfer", "heads", -0.05, 0.02),
        changed("4D Chamfer", "estimator", *estimated),
        changed("trajectory error", "rgb", *in_pixels),
    ]
    edit_results(run_folder, comparisons=comparisons)
    source, _ = report(run_folder)
    readings = source.partition("Does it show where nothing was trained on it?")[2].partition("</table>")[0]
    assert tuple(re.findall(r'class="state (\w+)"', readings)) == words


def test_each_of_several_rewards_has_a_chart_beside_their_sum(run_folder: Path) -> None:
    """What is logged for each of them is drawn once, with its held-out values; counts are no rewards."""
    names = ("reward_first", "reward_little_change")
    rows = [
        {"step": s, "reward_mean": -0.2, "reward_group_std": 0.1, "val_reward": -0.2, "reward_outages": 0.0}
        | dict.fromkeys((*names, *(f"val_{name}" for name in names)), 0.01 * s)
        for s in range(6)
    ]
    text = "".join(json.dumps(values) + "\n" for values in rows)
    (run_folder / "stage3" / "metrics.jsonl").write_text(text)
    source, _ = report(run_folder)
    titles = ("Reward: the first of the service", "Reward: Little change", "Weighted sum of rewards (band")
    for title in titles:
        assert source.count(f">{title}") == 1, title
    assert ">Val reward first" not in source and ">Reward first<" not in source
    assert ">Reward outages" in source
    # The sum stands still; the first reward rises from 0 to .05 in training and on held-out prompts alike.
    watched = source.partition("What must stay as it is while the reward rises")[2].partition("</table>")[0]
    assert "training&#x27;s rises (by 0.05" in watched or "training's rises (by 0.05" in watched


def test_a_component_that_drifts_while_the_reward_rises_raises_a_flag(run_folder: Path) -> None:
    """Points lost rise from 0.01 to 0.3, the depth scale falls from 1 to 0.6, the gain stays."""
    rows = [
        {"step": s, "reward_mean": 0.3 + 0.01 * s, "val_reward": 0.3 - 0.01 * s, "failed_fraction": 0.0,
         "val_component_missing_fraction": 0.01 + 0.015 * s, "val_component_alignment_scale": 1 - 0.02 * s,
         "val_component_gain": 0.1}
        for s in range(21)
    ]  # fmt: skip
    text = "".join(json.dumps(values) + "\n" for values in rows)
    (run_folder / "stage3" / "metrics.jsonl").write_text(text)
    source, _ = report(run_folder)
    watched = source.partition("What must stay as it is while the reward rises")[2].partition("</table>")[0]
    assert re.findall(r'class="state (\w+)"', watched) == ["alarm", "fine", "alarm", "alarm", "fine"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("stage3", "Not trained yet; run: make rl-train"),
        ("base", "Not trained yet; run: make base"),
        ("evaluation", "not evaluated yet; run: make evaluate"),
        ("evaluation/scenes/000000", "No such file or directory"),
        ("stage2/metrics.jsonl", "metrics.jsonl: No such file or directory"),
        ("stage2/provenance.json", "provenance.json: No such file or directory"),
        ("stage2/config.toml", "No such file or directory"),
    ],
)
def test_a_missing_part_is_named(run_folder: Path, missing: str, words: str) -> None:
    path = run_folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, page = report(run_folder)
    assert words in page.text


@pytest.mark.parametrize(
    ("broken", "content", "words"),
    [
        ("evaluation/results.json", b"{", "results.json is unreadable"),
        ("evaluation/results.json", b"[]", "results.json is unreadable"),
        (
            "evaluation/results.json",
            b'{"rows": [{"stage": "base"}], "scenes": []}',
            "results.json lacks 'reader'",
        ),
        ("evaluation/results.json", b'{"rows": [], "scenes": []}', "results.json holds no rows"),
        ("evaluation/scenes/000000/stage3.npz", b"PK\x03\x04 cut short", "zip"),
        ("evaluation/scenes/000000/stage3.npz", b"", "No data left in file"),
        ("stage3/metrics.jsonl", b'{"step": 0, "loss": 1.0}\n{"step": 1, "lo', "Loss"),
        ("stage3/metrics.jsonl", b"broken\n{}\n", "line 1 is no JSON"),
        ("stage3/metrics.jsonl", b"", "Nothing logged yet."),
        ("stage3/metrics.jsonl", b'{"step": 0, "reward_mean": null}\n', "Nothing logged yet."),
    ],
)
def test_a_broken_part_is_named(run_folder: Path, broken: str, content: bytes, words: str) -> None:
    (run_folder / broken).write_bytes(content)
    _, page = report(run_folder)
    assert words in page.text


def test_other_results_are_shown_or_named_beside_a_good_evaluation(run_folder: Path) -> None:
    """Another split, videos that were scored in part, and two files that cannot be read."""
    external, scores = run_folder / "external", run_folder / "physics_iq"
    for folder in (external, scores, run_folder / "evaluation-held-out"):
        folder.mkdir()
    rows = [row("Sora", [0.4], reader="estimator")]
    left_out = {"000003": "000003.mp4 runs at 24 fps", "000004": "no 000004.mp4"}
    (external / "Sora.json").write_text(json.dumps({"name": "Sora", "rows": rows, "left_out": left_out}))
    (external / "Pika.json").write_text('{"rows": [{}]}')
    elsewhere = {"rows": [row("Luma", [0.123])], "left_out": {"000009": "no 000009.mp4"}}
    for split in ("held-out", "val"):
        (run_folder / f"external-{split}").mkdir()
        (run_folder / f"external-{split}" / "Luma.json").write_text(json.dumps(elsewhere))
    (scores / "stage3.json").write_text("{")
    split = {"rows": [row("stage2", [0.77]), row("stage3", [0.66])], "scenes": []}
    (run_folder / "evaluation-held-out" / "results.json").write_text(json.dumps(split))
    _, page = report(run_folder)
    assert "Sora (partial)" in page.text
    assert "Sora is partial: 2 left out, the first: 000003.mp4 runs at 24 fps" in page.text
    assert "external/Pika.json lacks 'stage'" in page.text
    assert "physics_iq/stage3.json is unreadable" in page.text
    main, held_out, val = re.split("Scenes of the split held-out|Scenes of the split val", page.text)
    assert "0.770" in held_out and "0.660" in held_out
    assert "Luma" not in main.partition("is partial")[0] and "Luma is partial: 1 left out" in page.text
    assert all("Luma (partial)" in text and "0.123" in text for text in (held_out, val))


def test_who_read_depth_and_motion_stands_at_the_column(run_folder: Path) -> None:
    results = json.loads((run_folder / "evaluation" / "results.json").read_text())
    readers = {"base": "estimator", "stage3": "heads"}
    edit_results(run_folder, scenes=[scene | {"readers": readers} for scene in results["scenes"]])
    _, page = report(run_folder)
    assert "Base, read by estimators" in page.text and "Stage 3, read by" not in page.text


def test_text_of_the_run_cannot_break_out_of_the_page(run_folder: Path) -> None:
    attack = "</style><script>alert(1)</script>\"'"
    results = json.loads((run_folder / "evaluation" / "results.json").read_text())
    results["scenes"][0] |= {"caption": attack, "family": attack}
    results["rows"][0] |= {"metric": attack, "unit": attack, "reader": attack}
    (run_folder / "evaluation" / "results.json").write_text(json.dumps(results))
    (run_folder / "stage3" / "config.toml").write_text(f"x = '''{attack}'''")
    source, _ = report(run_folder)
    assert source.count("<script>") == 1 and "<script>alert" not in source


def test_the_gallery_of_scenes_is_linked_where_it_was_drawn(run_folder: Path) -> None:
    assert "scenes/index.html" not in report(run_folder)[0]
    (run_folder / "report" / "scenes").mkdir(parents=True)
    (run_folder / "report" / "scenes" / "index.html").write_text("")
    assert '<a href="scenes/index.html">' in report(run_folder)[0]


def test_the_program_writes_the_page_and_names_it(run_folder: Path) -> None:
    command = [sys.executable, "-m", "phys4d.report", "--run", str(run_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and Path(done.stdout.strip()) == run_folder / "report" / "index.html"


def test_a_missing_run_is_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "phys4d.report", "--run", str(tmp_path / "tiny")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == f"error: no run folder {tmp_path / 'tiny'}; make one with: make rl-train RUN=tiny\n"


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_opens_the_file_runs_the_clock_and_complains_about_nothing(
    run_folder: Path, tmp_path: Path
) -> None:
    """1.9 s of virtual time are 11 ticks of the 6 Hz clock: 9 frames, then 7 ticks of rest on the last."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=1900", "--dump-dom",
        f"file://{write_report(run_folder)}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr
    assert re.search(r'<section id="videos" style="--frame: ?[1-8];?"', done.stdout)
    assert re.search(r"frame [2-9] of 9, 0\.\d\d s", done.stdout)
