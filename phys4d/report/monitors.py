"""Signs that a policy earns reward by other means than by moving things better."""

import html
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from phys4d.report.numbers import number, phrase
from phys4d.report.run import MODELS, Comparison, Points, Run, Stage, measured

TRAINED_ON = ("heads", "4D Chamfer")
"""Reader and metric that the reward of stage 3 is made of."""
INDEPENDENT = (
    ("estimator", "4D Chamfer", "estimators that are not trained see the same videos"),
    ("rgb", "trajectory error", "colours of objects, followed in pixels"),
    ("rgb", "final trajectory error", "the same in the last frame"),
)
FINE, WATCH, ALARM = "fine", "watch", "alarm"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A scalar of stage 3 that must stay as it is while the reward rises."""

    name: str
    """Of a component of the reward, or of a scalar of its own."""
    meaning: str
    rule: str
    is_alarm: Callable[[float, float], bool]
    """Of its values at the start and at the end."""
    state: str = ALARM
    """What it is called then. Training itself stops at wider limits for what is to be watched only."""


def _leaves_octave(start: float, end: float) -> bool:
    return start > 0 and not 0.5 <= end / start <= 2


def _loses_share(start: float, end: float) -> bool:
    return end < 0.7 * start


WATCHED = (
    Watched(
        name="gain",
        meaning="reward above that of points which never move",
        rule="must not fall",
        is_alarm=lambda start, end: end < start - 0.02,
    ),
    Watched(
        name="missing_fraction",
        meaning="share of points that leave the picture",
        rule="must not rise by 0.05",
        is_alarm=lambda start, end: end > start + 0.05,
    ),
    Watched(
        name="alignment_scale",
        meaning="scale that takes generated depth to the simulator's",
        rule="must stay in 0.8 to 1.25",
        is_alarm=lambda _, end: not 0.8 <= end <= 1.25,
    ),
    Watched(
        name="depth_warp_m",
        meaning="how far depth and motion contradict each other, metres",
        rule="must not double and exceed 1 cm",
        is_alarm=lambda start, end: end > max(2 * start, 0.01),
    ),
    Watched(
        name="failed_fraction",
        meaning="share of videos that could not be scored",
        rule="must stay below 0.05",
        is_alarm=lambda _, end: end >= 0.05,
    ),
    *(
        Watched(
            name=name,
            meaning=meaning,
            rule="must stay within half to twice",
            is_alarm=_leaves_octave,
            state=WATCH,
        )
        for name, meaning in (
            ("motion_energy", "mean change of grey from frame to frame"),
            ("edges", "mean change of grey from pixel to pixel"),
            ("flicker", "change of that change"),
        )
    ),
    Watched(
        name="luminance",
        meaning="mean grey",
        rule="must not change by 0.1",
        is_alarm=lambda start, end: abs(end - start) > 0.1,
        state=WATCH,
    ),
    *(
        Watched(
            name=name,
            meaning=meaning,
            rule="must not fall below 0.7 of it",
            is_alarm=_loses_share,
            state=WATCH,
        )
        for name, meaning in (
            ("unique_points", "share of carried points that do not pile up"),
            ("coverage", "share of carried points still in the picture"),
        )
    ),
    Watched(
        name="held_out_reward",
        meaning="a reward that is never trained on",
        rule="must not fall by 0.02",
        is_alarm=lambda start, end: end < start - 0.02,
    ),
)


def section(run: Run) -> str:
    """Both tables, as far as there is something to watch."""
    parts = [_readings(run), _training(run.stages.get("stage3"))]
    return "".join(parts) or '<p class="missing">Nothing to watch: stage 3 has not been trained yet.</p>'


def verdict(trained_on: Comparison, other: Comparison | None) -> str:
    """Whether a reading that was not trained on bears out the one that was; lower is better for both."""
    if other is None:
        return WATCH
    if other.is_clear and other.mean_difference > 0:
        return ALARM
    gained = trained_on.is_clear and trained_on.mean_difference < 0
    return WATCH if gained and not other.is_clear else FINE


def _readings(run: Run) -> str:
    """What the reward's own reading says of stage 3 beside readings that no gradient has reached."""
    found = {(c.reader, c.metric): c for c in run.comparisons if (c.before, c.after) == ("stage2", "stage3")}
    trained_on = found.get(TRAINED_ON)
    if trained_on is None:
        return ""
    rows = [_reading(run, trained_on, "what the reward is made of", None)]
    for reader, metric, meaning in INDEPENDENT:
        other = found.get((reader, metric))
        if other is not None:
            rows.append(_reading(run, other, meaning, verdict(trained_on, other)))
    return (
        "<h3>Does it show where nothing was trained on it?</h3>"
        f"<p>{MODELS['stage2']} to {MODELS['stage3'].lower()}, paired over held-out scenes. A gain that only "
        "the model's own heads see is no gain: watch. One that the others see as a loss is an alarm.</p>"
        '<div class="scroll"><table><thead><tr><th>Reading</th><th>Change</th><th>95 % interval</th><th></th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _reading(run: Run, c: Comparison, meaning: str, state: str | None) -> str:
    after = measured(run, c.reader, c.metric).get(c.after)
    unit = after.unit if after else ""
    low, high = map(number, c.interval)
    return (
        f"<tr><td>{html.escape(phrase(c.metric))} "
        f"<small>{html.escape(c.reader)}: {html.escape(meaning)}</small></td>"
        f"<td>{number(c.mean_difference)} <small>{html.escape(unit)}</small></td>"
        f"<td>{low} to {high}</td>{_state(state)}</tr>"
    )


def _training(stage: Stage | None) -> str:
    """Scalars at the start and at the end of stage 3."""
    if stage is None:
        return ""
    rows = [_held_out_gap(stage)]
    for watched in WATCHED:
        keys = (
            f"val_component_{watched.name}",
            f"reward_component_{watched.name}",
            f"monitor_{watched.name}",
            watched.name,
        )
        key = next((key for key in keys if len(_finite(stage.points(key))) > 1), None)
        if key is None:
            continue
        start, end = ends(stage.points(key))
        state = watched.state if watched.is_alarm(start, end) else FINE
        where = "held-out" if key.startswith(("val_", "monitor_")) else "in training"
        rows.append(
            f"<tr><td>{html.escape(phrase(watched.name))} "
            f"<small>{html.escape(watched.meaning)}, {where}</small></td>"
            f"<td>{number(start)}</td><td>{number(end)}</td>"
            f"<td>{html.escape(watched.rule)}</td>{_state(state)}</tr>"
        )
    if not any(rows):
        return ""
    return (
        "<h3>What must stay as it is while the reward rises</h3>"
        '<div class="scroll"><table><thead><tr><th>During stage 3</th><th>Start</th><th>End</th><th>Rule</th>'
        f"<th></th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _held_out_gap(stage: Stage) -> str:
    """Whether the reward of held-out prompts moves with that of training."""
    # Of several rewards the first: a price on looks is not what should rise.
    first = stage.rewards()[:1]
    training = stage.points(first[0] if first else "reward_mean")
    held_out = stage.points(f"val_{first[0]}" if first else "val_reward")
    if len(_finite(training)) < 2 or len(_finite(held_out)) < 2:
        return ""
    (before, after), (first, last) = ends(training), ends(held_out)
    rises, falls = after - before > 0.01, last - first < -0.01
    state = ALARM if rises and falls else FINE
    return (
        "<tr><td>Reward <small>held-out prompts, sampled without noise</small></td>"
        f"<td>{number(first)}</td><td>{number(last)}</td><td>must not fall while training's rises (by "
        f"{number(after - before)})</td>{_state(state)}</tr>"
    )


def ends(points: Points) -> tuple[float, float]:
    """Mean of the first and of the last tenth of a curve, at least one point each."""
    values = _finite(points)
    tenth = max(1, len(values) // 10)
    return statistics.fmean(values[:tenth]), statistics.fmean(values[-tenth:])


def _finite(points: Points) -> list[float]:
    return [value for _, value in points if math.isfinite(value)]


def _state(state: str | None) -> str:
    return "<td></td>" if state is None else f'<td><b class="state {state}">{state}</b></td>'
