"""Score folders of generated videos against the benchmark's takes, in parallel processes."""

import csv
import io
import itertools
import multiprocessing
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial as with_arguments
from pathlib import Path
from typing import Any

import cv2

from phys4d.metrics.physics_iq.agreement import agreement
from phys4d.metrics.physics_iq.clips import Clip, read_clip
from phys4d.metrics.physics_iq.folders import (
    NUM_SCENARIOS,
    VIEWS,
    Refusal,
    Takes,
    find_generated,
    find_runs,
    find_takes,
    refusal_of,
)
from phys4d.metrics.physics_iq.score import ViewResult, original_score, verified_parts, verified_score
from phys4d.metrics.physics_iq.videos import ClipError, inspect_clip
from phys4d.runtime.errors import UserError
from phys4d.runtime.progress import progress
from phys4d.runtime.threads import limit_threads

NUM_CLAIM_RUNS = 4


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One folder of generated videos."""

    folder: Path
    views: tuple[ViewResult, ...]
    refusals: tuple[Refusal, ...]
    """What `--partial` left out of this run, the benchmark's own files included."""
    size: tuple[int, int]
    """Width and height of its videos in pixels."""
    real_size: tuple[int, int]
    """Of the benchmark's."""


def score_runs(
    real: Path,
    generated: Sequence[Path],
    *,
    fps: int,
    partial: bool = False,
    workers: int = 0,
    stored_masks: bool = False,
    real_masks: Path | None = None,
) -> list[RunResult]:
    """Score runs; the files of the benchmark are read once for all of them.

    Args:
        real: testing folder of the benchmark at this frame rate.
        generated: folders of videos named by id, or folders of such folders.
        partial: leave out what is refused, and say so in `refusals`; else any refusal is an error.
        workers: processes; 0 is one per core. Each holds three clips, 1 GB for 5 s of 3840x2160 at 30 fps.
        stored_masks: masks go through a lossy file, as in the benchmark's tool.
        real_masks: the benchmark's folder of such files of its own videos; masks of generated ones are then
            stored as well.

    Raises:
        ValueError: a file or a folder is refused, named in the message, or nothing is left to score.
    """
    if not 1 <= fps <= 60:
        raise ValueError(f"fps must be a whole number in 1 to 60, got {fps}")
    folders = find_runs(generated)
    if not folders:
        raise ValueError("no folder of generated videos was given")
    if real_masks is not None and not real_masks.is_dir():
        raise ValueError(f"--real-masks {real_masks} is no folder; it is video-masks/real/{fps}FPS")
    takes, real_refusals = find_takes(real, fps, real_masks)
    found = [find_generated(folder, takes) for folder in folders]
    work = [
        _Work(
            takes=pair,
            generated=tuple(videos.get(pair.video_id) for videos, _ in found),
            fps=fps,
            stored_masks=stored_masks or real_masks is not None,
        )
        for pair in takes
    ]
    refused = [[*real_refusals, *run] for _, run in found]
    if not partial:
        _refuse(refused)
    inspected = _inspect(work, len(folders))
    if not partial:
        _refuse(inspected.refusals)
    for run, more in zip(refused, inspected.refusals, strict=True):
        run += more
    work = inspected.work
    views: list[list[ViewResult]] = [[] for _ in folders]
    bar = progress(total=len(work) * len(folders), desc="Physics-IQ", unit="video")
    for outcome in _compare_all(work, workers):
        if not partial:
            _refuse(outcome.refusals)
        for run, (result, run_refusals) in enumerate(zip(outcome.results, outcome.refusals, strict=True)):
            refused[run] += run_refusals
            if result is not None:
                views[run].append(result)
        bar.update(len(folders))
    bar.close()
    for folder, run_views, run_refusals in zip(folders, views, refused, strict=True):
        if not run_views:
            raise UserError(f"nothing of {folder} can be scored; first reason: {run_refusals[0].reason}")
    return [
        RunResult(
            folder=folder,
            views=tuple(sorted(run_views, key=lambda v: v.video_id)),
            refusals=tuple(run_refusals),
            size=size,
            real_size=inspected.real_size,
        )
        for folder, run_views, run_refusals, size in zip(
            folders, views, refused, inspected.sizes, strict=True
        )
    ]


@dataclass(frozen=True, kw_only=True)
class _Work:
    takes: Takes
    generated: tuple[Path | None, ...]
    fps: int
    stored_masks: bool


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    results: list[ViewResult | None]
    refusals: list[list[Refusal]]


def compare_view(takes: Takes, generated: Clip, take_1: Clip, take_2: Clip) -> ViewResult:
    """The metrics of one view."""
    return ViewResult(
        scenario=takes.scenario,
        view=takes.view,
        video_id=takes.video_id,
        model=agreement(take_1, generated),
        variance=agreement(take_1, take_2),
    )


def _compare(work: _Work) -> _Outcome:
    """One view of all runs; what cannot be read becomes a refusal of the runs it belongs to."""
    cv2.setNumThreads(1)
    takes, path = work.takes, work.takes.take_1
    read = with_arguments(read_clip, fps=work.fps, stored_masks=work.stored_masks)
    num_runs = len(work.generated)
    try:
        take_1 = read(path, mask=takes.mask_1)
        shrunk = (take_1.bgr.shape[2], take_1.bgr.shape[1])
        path = takes.take_2
        take_2 = read(path, shrunk=shrunk, mask=takes.mask_2)
    except ClipError as error:
        return _Outcome(results=[None] * num_runs, refusals=[[refusal_of(path, error)]] * num_runs)
    outcome = _Outcome(results=[None] * num_runs, refusals=[[] for _ in range(num_runs)])
    for run, video in enumerate(work.generated):
        if video is None:
            continue
        try:
            outcome.results[run] = compare_view(takes, read(video, shrunk=shrunk), take_1, take_2)
        except ClipError as error:
            outcome.refusals[run].append(refusal_of(video, error))
    return outcome


def _same_size(size_2: tuple[int, int], size_1: tuple[int, int], takes: Takes) -> None:
    if size_2 != size_1:
        raise ClipError(
            f"{takes.take_2} is of {size_2[0]}x{size_2[1]} pixels, take 1 of {size_1[0]}x{size_1[1]}; "
            "both takes must be of one size"
        )


@dataclass(frozen=True, kw_only=True)
class _Inspected:
    work: list[_Work]
    """What is left to compare."""
    refusals: list[list[Refusal]]
    """Of each run."""
    sizes: list[tuple[int, int]]
    """Width and height of the videos of each run."""
    real_size: tuple[int, int]


def _inspect(work: Sequence[_Work], num_runs: int) -> _Inspected:
    """Look at every file's header before the long work begins.

    Videos are resized to the benchmark's size: a run whose own differ would be several runs in one.
    """
    left, real_size = [], (0, 0)
    refusals: list[list[Refusal]] = [[] for _ in range(num_runs)]
    found: list[dict[Path, tuple[int, int]]] = [{} for _ in range(num_runs)]
    for item in progress(work, desc="checking videos", unit="view"):
        path = item.takes.take_1
        try:
            real_size = inspect_clip(path, item.fps)
            path = item.takes.take_2
            _same_size(inspect_clip(path, item.fps), real_size, item.takes)
        except ClipError as error:
            for run in refusals:
                run.append(refusal_of(path, error))
            continue
        left.append(item)
        for sizes, run, video in zip(found, refusals, item.generated, strict=True):
            if video is None:
                continue
            try:
                sizes[video] = inspect_clip(video, item.fps)
            except ClipError as error:
                run.append(refusal_of(video, error))
    usual = [Counter(sizes.values()).most_common(1)[0][0] if sizes else (0, 0) for sizes in found]
    for sizes, run, (width, height) in zip(found, refusals, usual, strict=True):
        for path, size in [*sizes.items()]:
            if size != (width, height):
                told = (
                    f"{path} is of {size[0]}x{size[1]} pixels, its run of {width}x{height}; give all one size"
                )
                run.append(Refusal(file=str(path), reason=told))
                del sizes[path]
    kept = [
        replace(
            item, generated=tuple(v if v in s else None for s, v in zip(found, item.generated, strict=True))
        )
        for item in left
    ]
    return _Inspected(work=kept, refusals=refusals, sizes=usual, real_size=real_size)


def _compare_all(work: Sequence[_Work], workers: int) -> Iterator[_Outcome]:
    """Outcomes as they are ready."""
    workers = min(workers or len(os.sched_getaffinity(0)), len(work))
    if workers <= 1:
        yield from map(_compare, work)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=limit_threads, initargs=(1,)
    )
    try:
        pending = {pool.submit(_compare, item) for item in work}
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _refuse(of_runs: Iterable[Sequence[Refusal]]) -> None:
    # Those of the benchmark's files are every run's.
    refusals = list(dict.fromkeys(itertools.chain(*of_runs)))
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise UserError(f"{refusals[0].reason}{more}; --partial scores the rest")


def summarise(
    runs: Sequence[RunResult],
    *,
    fps: int,
    partial: bool,
    stored_masks: bool = False,
    real: Path | None = None,
    real_masks: Path | None = None,
) -> dict[str, Any]:
    """Scores of all runs, ready for JSON.

    `original` and `verified` hold each value's mean over runs, and with two runs or more its sample standard
    deviation as `<name>_std`. `runs` holds the same for each run, and what was left out of it.
    """
    per_run = [
        {
            "folder": str(run.folder),
            "num_videos": len(run.views),
            "original": original_score(run.views),
            "verified": verified_score(run.views),
            "left_out": [{"file": r.file, "reason": r.reason} for r in run.refusals],
        }
        for run in runs
    ]
    scenarios = {view.scenario for run in runs for view in run.views}
    complete = all(not run.refusals and len(run.views) == len(VIEWS) * NUM_SCENARIOS for run in runs)
    return {
        "original": _over_runs([run["original"] for run in per_run]),
        "verified": _over_runs([run["verified"] for run in per_run]),
        "fps": fps,
        "num_runs": len(runs),
        "num_scenarios": len(scenarios),
        "complete": complete,
        "stored_masks": stored_masks or real_masks is not None,
        "dataset": str(real or ""),
        "real_masks": str(real_masks or ""),
        "partial": partial and any(run.refusals for run in runs),
        "notes": _notes(runs, scenarios, complete, fps, stored_masks, real_masks),
        "runs": per_run,
    }


def _over_runs(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    means = {name: statistics.fmean(s[name] for s in scores) for name in scores[0]}
    if len(scores) == 1:
        return means
    return means | {f"{name}_std": statistics.stdev(s[name] for s in scores) for name in means}


def _notes(
    runs: Sequence[RunResult],
    scenarios: set[str],
    complete: bool,
    fps: int,
    stored_masks: bool,
    real_masks: Path | None,
) -> list[str]:
    """What a reader of the scores must know."""
    notes = []
    for run in runs:
        if run.refusals:
            notes.append(
                f"{run.folder}: {len(run.refusals)} left out, {len(run.views)} videos scored; "
                f"first reason: {run.refusals[0].reason}"
            )
        if run.size != run.real_size:
            (width, height), (real_width, real_height) = run.size, run.real_size
            how = "scaled" if width * real_height == height * real_width else "stretched"
            notes.append(
                f"{run.folder}: videos of {width}x{height} pixels were {how} to the benchmark's "
                f"{real_width}x{real_height}"
            )
    if len({tuple(view.video_id for view in run.views) for run in runs}) > 1:
        notes.append(
            "runs lack different videos, so their mean and standard deviation are over different views; "
            "make the missing ones"
        )
    if not complete:
        notes.append(
            f"{len(scenarios)} of the benchmark's {NUM_SCENARIOS} scenarios were scored; "
            "only complete runs compare with published scores"
        )
    elif real_masks is None:
        how = "stored masks, computed here" if stored_masks else "masks in memory"
        notes.append(
            f"these are scores with {how}; published ones have masks from lossy files, for the real videos "
            f"from the benchmark's own; for the same, --real-masks video-masks/real/{fps}FPS"
        )
    notes.append(
        "Original and Verified have data sets, masks and prompts of their own, so of one --real folder one "
        "of the two scores at most compares with its leaderboard"
    )
    if len(runs) < NUM_CLAIM_RUNS:
        notes.append(f"a claim needs {NUM_CLAIM_RUNS} runs, mean and standard deviation; got {len(runs)}")
    return notes


def per_scenario_csv(runs: Sequence[RunResult]) -> str:
    """One row per run and scenario: means over its views; `verified` in 0 to 100."""
    table = io.StringIO()
    metrics = ("mse", "st_iou", "s_iou", "ws_iou")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        ["run", "scenario", "num_views", "verified", *metrics, *(f"variance_{m}" for m in metrics)]
    )
    for run in runs:
        by_scenario = sorted(run.views, key=lambda view: view.scenario)
        for scenario, group in itertools.groupby(by_scenario, key=lambda view: view.scenario):
            views = list(group)
            verified = [25 * sum(verified_parts(view).values()) for view in views]
            agreements = [[v.model for v in views], [v.variance for v in views]]
            means = [
                statistics.fmean(value)
                for side in agreements
                for value in (
                    [a.mean_mse for a in side],
                    [a.mean_st_iou for a in side],
                    [a.s_iou for a in side],
                    [a.ws_iou for a in side],
                )
            ]
            row = [statistics.fmean(verified), *means]
            writer.writerow([run.folder, scenario, len(views), *(f"{value:.6f}" for value in row)])
    return table.getvalue()
