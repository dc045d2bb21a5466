"""Training curves: what each stage logged, grouped so that a loss stands with its parts."""

import html
import math

from phys4d.report.charts import Series, line_chart
from phys4d.report.numbers import number, percent, phrase, unit_of
from phys4d.report.run import MAKE_TARGETS, STAGE_TEXTS, STAGES, Run, Stage

COMPONENT = "reward_component_"
REWARD = ("reward_mean", "reward_group_std", "val_reward")
FIRST = "the first of the service"
DIAGNOSTICS = "grad_norm"


def section(run: Run) -> str:
    """The curves of all stages, the reward first."""
    parts = []
    for name in reversed(STAGES):
        parts.append(f"<h3>{STAGES[name]}: {html.escape(STAGE_TEXTS[name])}</h3>")
        stage = run.stages.get(name)
        if stage is None:
            parts.append(
                f'<p class="missing">Not trained yet; run: <code>make {MAKE_TARGETS[name]}</code></p>'
            )
            continue
        if stage.fault:
            parts.append(f'<p class="missing">{html.escape(stage.fault)}</p>')
        charts = [*_reward(stage), *_losses(stage), *_others(stage)]
        if any(charts):
            parts.append(f'<div class="charts">{"".join(charts)}</div>')
        elif not stage.fault:
            parts.append('<p class="missing">Nothing logged yet.</p>')
        parts.append(_before_after(stage))
    return "".join(parts)


def _reward(stage: Stage) -> list[str]:
    """Reward, each one of several, and components of the first, in training and on held-out scenes."""
    charts, sources = [], stage.rewards()
    for key in sources:
        curves = [
            Series(name="training", points=stage.points(key)),
            Series(name="held-out, no noise", points=stage.points(f"val_{key}")),
        ]
        name = key.removeprefix("reward_")
        title = f"Reward: {FIRST if name == 'first' else phrase(name)}"
        charts.append(line_chart(title, curves, x_label=_step_name(stage)))
    names = [key for key in stage.scalars() if key == "reward_mean" or key.startswith(COMPONENT)]
    for key in names:
        part = "" if key == "reward_mean" else key.removeprefix(COMPONENT)
        spread = dict(stage.points("reward_group_std" if part == "" else ""))
        points = stage.points(key)
        band = [spread.get(step, math.nan) for step, _ in points] if spread else None
        curves = [Series(name="training", points=points, band=band)]
        held_out = stage.points(f"val_component_{part}" if part else "val_reward")
        if held_out:
            curves.append(Series(name="held-out, no noise", points=held_out))
        whole = "Weighted sum of rewards" if sources else "Reward"
        title = f"Component: {phrase(part)}" if part else whole
        title += " (band: spread in a group)" if band else ""
        charts.append(line_chart(title, curves, unit=unit_of(part), x_label=_step_name(stage)))
    return charts


def _losses(stage: Stage) -> list[str]:
    """One chart for each loss, with the parts that share its prefix: `base_loss` with `base_velocity`."""
    charts = []
    for prefix, keys in _loss_groups(stage).items():
        curves = [
            Series(name=phrase(key.removeprefix(prefix)), points=stage.points(key))
            for key in keys
            if any(value != 0 for _, value in stage.points(key))
        ]
        if len(curves) == 2 and curves[0].points == curves[1].points:
            curves = curves[:1]
        title = phrase(prefix.rstrip("_") + "_loss") if prefix else "Loss"
        charts.append(line_chart(title, curves, x_label=_step_name(stage)))
    return charts


def _loss_groups(stage: Stage) -> dict[str, list[str]]:
    """Loss prefix to its keys, the total first; reward, held-out and diagnostic scalars are in none."""
    plain = [
        key for key in stage.scalars() if not key.startswith(("reward_", "val_")) and DIAGNOSTICS not in key
    ]
    prefixes = sorted(
        (key.removesuffix("loss") for key in plain if key.endswith("loss")), key=len, reverse=True
    )
    groups: dict[str, list[str]] = {prefix: [f"{prefix}loss"] for prefix in reversed(prefixes)}
    if stage.name == "stage3":
        return groups
    for key in plain:
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is not None and key != f"{prefix}loss":
            groups[prefix].append(key)
    return groups


def _others(stage: Stage) -> list[str]:
    shown = {key for keys in _loss_groups(stage).values() for key in keys}
    shown |= set(stage.rewards())
    charts = []
    for key in stage.scalars():
        is_shown = key in shown or key in REWARD or key.startswith((COMPONENT, "val_"))
        points = stage.points(key)
        if not is_shown and len(points) > 1:
            curve = Series(name=phrase(key), points=points)
            charts.append(line_chart(phrase(key), [curve], unit=unit_of(key), x_label=_step_name(stage)))
    drawn = (*REWARD, *(f"val_component_{key.removeprefix(COMPONENT)}" for key in stage.scalars()))
    drawn += tuple(f"val_{key}" for key in stage.rewards())
    validation = [key for key in stage.scalars() if key.startswith("val_") and len(stage.points(key)) > 3]
    for key in validation:
        if key in drawn:
            continue
        curve = Series(name=phrase(key), points=stage.points(key))
        charts.append(line_chart(phrase(key), [curve], unit=unit_of(key)))
    return charts


def _step_name(stage: Stage) -> str:
    return "iteration" if stage.name == "stage3" else "step"


def _before_after(stage: Stage) -> str:
    """Held-out values at the first and the last step they were measured."""
    rows = []
    for key in stage.scalars():
        points = stage.points(key)
        if not key.startswith("val_") or len(points) < 2:
            continue
        before, after = points[0][1], points[-1][1]
        change = (
            percent((after - before) / abs(before)) if before and math.isfinite(after - before) else "n/a"
        )
        name, unit = (
            html.escape(phrase(key.removeprefix("val_").removeprefix("component_"))),
            html.escape(unit_of(key)),
        )
        rows.append(
            f"<tr><td>{name} <small>{unit}</small></td><td>{number(before)}</td>"
            f"<td>{number(after)}</td><td>{change}</td></tr>"
        )
    if not rows:
        return ""
    return (
        '<div class="scroll" style="margin-top:14px"><table><thead><tr><th>On held-out scenes</th>'
        "<th>Before the stage</th><th>After</th><th>Change</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
