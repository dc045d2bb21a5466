"""The answer first: what the stages changed on held-out scenes, as a sentence, tiles, a table and dots."""

import html
import math

from phys4d.report.charts import dot_chart
from phys4d.report.numbers import number, percent, phrase, with_spread
from phys4d.report.run import (
    MODELS,
    REFERENCES,
    STAGES,
    Comparison,
    Measurement,
    PhysicsIq,
    Run,
    Split,
    measured,
)

HEADLINE_WORDS = ("trajectory", "chamfer", "reward")
"""The headline is about the first metric whose name holds the first of these words."""
DASH = "\N{EN DASH}"
READERS = {
    "heads": "Read by the model's own heads",
    "estimator": "Read by independent estimators on decoded video",
    "rgb": "Read from pixels",
}


def metrics(run: Run | Split) -> list[tuple[str, str]]:
    """(reader, metric) pairs, heads first, in the order of the file within a reader."""
    pairs = list(dict.fromkeys((m.reader, m.metric) for m in run.measurements))
    order = list(READERS)
    return sorted(pairs, key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))


def headline(run: Run) -> str:
    """One sentence with the first and the last stage's value of the main metric."""
    main = _main_metric(run)
    if main is None:
        done = [STAGES[name] for name in STAGES if name in run.stages]
        return f"{', '.join(done)} trained; not evaluated yet" if done else "Nothing has been trained yet"
    by_stage = measured(run, *main)
    names = [name for name in STAGES if name in by_stage and math.isfinite(by_stage[name].mean)]
    if not names:
        return f"Held-out {phrase(main[1])} is not a number in any stage"
    first, last = by_stage[names[0]], by_stage[names[-1]]
    what = phrase(main[1])
    what = what if what[:2].isupper() or what[:1].isdigit() else what[:1].lower() + what[1:]
    if len(names) == 1:
        return f"Held-out {what}: {_value(first)} after {STAGES[first.stage].lower()}"
    start, end = (f"{_value(m)} ({STAGES[m.stage].lower()})" for m in (first, last))
    if _within_scatter(first, last):
        return f"Held-out {what} did not change beyond the scatter of the seeds: {start}, {end}"
    verb = "fell" if last.mean < first.mean else "rose" if last.mean > first.mean else "stayed"
    change = f" {percent(abs(last.mean / first.mean - 1)).lstrip('+')}" if first.mean else ""
    return f"Held-out {what} {verb}{change} from {start} to {end}"


def _within_scatter(first: Measurement, last: Measurement) -> bool:
    """Whether the means differ by no more than both seeds' standard deviations allow; False without any."""
    if first.spread is None or last.spread is None:
        return False
    return abs(last.mean - first.mean) <= math.hypot(first.spread, last.spread)


def lead(run: Run) -> str:
    """What the last stage added over the one before, and whether that is more than the seeds scatter."""
    main = _main_metric(run)
    if main is None:
        return html.escape(run.evaluation_fault)
    by_stage = measured(run, *main)
    names = [name for name in STAGES if name in by_stage and math.isfinite(by_stage[name].mean)]
    num_scenes = max((m.num_scenes for m in by_stage.values()), default=0)
    parts = [f"{num_scenes} held-out scenes."]
    if len(names) >= 2:
        before, after = by_stage[names[-2]], by_stage[names[-1]]
        better = after.is_better_than(before)
        parts.insert(
            0,
            f"{STAGES[after.stage]} is {'better' if better else 'not better'} than "
            f"{STAGES[before.stage].lower()}: {with_spread(after.mean, after.spread)} against "
            f"{with_spread(before.mean, before.spread)} {after.unit}.",
        )
        paired = _comparison(run, before, after)
        if paired is not None:
            low, high = map(number, paired.interval)
            verdict = "leaves out" if paired.is_clear else "includes"
            parts.append(
                f"Paired over scenes the difference is {number(paired.mean_difference)} {after.unit}, "
                f"95 % interval {low} to {high}, which {verdict} zero."
            )
        elif before.spread is None or after.spread is None:
            parts.append("One seed only, so the scatter is unknown.")
        elif _within_scatter(before, after):
            parts.append("The difference is within the scatter of the seeds.")
        else:
            parts.append("The difference is larger than the scatter of the seeds.")
    return html.escape(" ".join(parts))


def tiles(run: Run) -> str:
    """Four tiles, the main metric first: the last stage's value and the change from the first."""
    cards = []
    pairs = metrics(run)
    main = _main_metric(run)
    for reader, metric in sorted(pairs, key=lambda pair: pair != main)[:4]:
        by_stage = measured(run, reader, metric)
        names = [name for name in STAGES if name in by_stage and math.isfinite(by_stage[name].mean)]
        if not names:
            continue
        first, last = by_stage[names[0]], by_stage[names[-1]]
        note = STAGES[last.stage]
        if len(names) > 1 and first.mean:
            kind = "better" if last.is_better_than(first) else "worse"
            kind = "same" if _within_scatter(first, last) else kind
            note = (
                f'<span class="{kind}">{percent((last.mean - first.mean) / abs(first.mean))}</span> '
                f"from {STAGES[first.stage].lower()} to {STAGES[last.stage].lower()}"
            )
        cards.append(
            f'<div class="tile"><div class="name">{html.escape(phrase(metric))}</div>'
            f'<div class="big">{number(last.mean)} <small>{html.escape(last.unit)}</small></div>'
            f'<div class="note">{note}</div></div>'
        )
    return f'<div class="tiles">{"".join(cards)}</div>' if cards else ""


def faults(run: Run) -> str:
    """What could not be read or was left out; empty if there is nothing of the kind."""
    parts = [
        html.escape(fault) for fault in ([run.evaluation_fault] if run.measurements else []) + run.faults
    ]
    parts += [
        f"{html.escape(name)} is partial: {len(reasons)} left out, the first: {html.escape(reasons[0])}"
        for scenes in (run, *run.splits)
        for name, reasons in scenes.left_out.items()
    ]
    return "".join(f'<p class="missing">{part}</p>' for part in parts if part)


def other_splits(run: Run) -> str:
    """A table for each split that was evaluated besides."""
    return "".join(
        f"<h3>Scenes of the split {html.escape(split.name)}</h3>{table(split)}{comparisons(split)}"
        for split in run.splits
    )


def table(run: Run | Split) -> str:
    """Metric by stage, mean and standard deviation over seeds; the best stage of a row is bold."""
    present = dict.fromkeys(m.stage for m in run.measurements)
    others = [stage for stage in present if stage not in MODELS and stage not in REFERENCES]
    columns = [stage for stage in [*MODELS, *others, *REFERENCES] if stage in present]
    titles = MODELS | REFERENCES
    titles |= {name: f"{name} (partial)" if name in run.left_out else name for name in others}
    references_start = next((stage for stage in columns if stage not in MODELS), None)
    divide = {stage: ' class="divide"' if stage == references_start else "" for stage in columns}
    header = "".join(f"<th{divide[stage]}>{html.escape(titles[stage])}</th>" for stage in columns)
    body, group = [], None
    for reader, metric in metrics(run):
        by_stage = measured(run, reader, metric)
        if reader != group:
            group = reader
            text = html.escape(READERS.get(reader, reader))
            body.append(f'<tr class="group"><td colspan="{len(columns) + 1}">{text}</td></tr>')
        some = next(iter(by_stage.values()))
        trained = [m for m in by_stage.values() if m.stage in MODELS and math.isfinite(m.mean)]
        best = next((m for m in trained if not any(o.is_better_than(m) for o in trained)), None)
        arrow = "\N{UPWARDS ARROW}" if some.higher_is_better else "\N{DOWNWARDS ARROW}"
        goal = "higher" if some.higher_is_better else "lower"
        cells = "".join(_cell(by_stage.get(stage), best, stage == references_start) for stage in columns)
        body.append(
            f'<tr><td>{html.escape(phrase(metric))} <small title="{goal} is better">'
            f"{html.escape(some.unit)} {arrow}</small></td>{cells}</tr>"
        )
    return (
        f'<div class="scroll"><table><thead><tr><th>Held-out metric</th>{header}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def comparisons(run: Run | Split) -> str:
    """Paired differences between stages with their intervals; empty where the evaluation has none."""
    rows = []
    for c in run.comparisons:
        after = measured(run, c.reader, c.metric).get(c.after)
        unit = after.unit if after else ""
        higher = after.higher_is_better if after else False
        kind = "better" if (c.mean_difference > 0) == higher else "worse"
        verdict = f'<span class="{kind}">{kind}</span>' if c.is_clear else "not told apart"
        low, high = map(number, c.interval)
        detail = ", ".join(filter(None, [unit, c.reader]))
        stages = f"{MODELS.get(c.before, c.before)} to {MODELS.get(c.after, c.after)}"
        p_value = DASH if c.p_holm is None else number(c.p_holm, 2)
        rows.append(
            f"<tr><td>{html.escape(phrase(c.metric))} <small>{html.escape(detail)}</small></td>"
            f"<td>{html.escape(stages)}</td>"
            f"<td>{number(c.mean_difference)}</td><td>{low} to {high}</td><td>{p_value}</td>"
            f"<td>{verdict}</td><td>{c.num_scenes}</td></tr>"
        )
    if not rows:
        return ""
    return (
        "<h3>Paired differences over scenes</h3><p>Each scene is its own control. Intervals are bootstrapped "
        "over scenes; p is of a test that flips signs of scenes, adjusted for all rows (Holm).</p>"
        '<div class="scroll"><table><thead><tr><th>Held-out metric</th><th>Stages</th><th>Difference</th>'
        "<th>95 % interval</th><th>p</th><th>Verdict</th><th>Scenes</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def published(run: Run) -> str:
    """Physics-IQ: what was measured here, and the literature's scores, marked as such."""
    ours = [_physics_iq_row(scores) for scores in run.physics_iq]
    theirs = []
    for p in run.published:
        value = " \N{RIGHTWARDS ARROW} ".join(html.escape(v) for v in (p.before, p.after) if v)
        original, verified = (DASH, value) if p.metric.endswith("Verified") else (value, DASH)
        theirs.append(
            f"<tr><td>{html.escape(p.model)} <small>{html.escape(p.given)}</small></td>"
            f"{f'<td>{DASH}</td>' * 4}<td>{original}</td><td>{verified}</td>"
            f'<td class="source">{html.escape(p.source)}</td></tr>'
        )
    if not ours and not theirs:
        return ""
    group = '<tr class="group"><td colspan="8">{}</td></tr>'
    body = "".join(
        group.format(title) + "".join(rows)
        for title, rows in (("Measured here", ours), ("Published, not measured here", theirs))
        if rows
    )
    none = (
        ""
        if ours
        else " None of our videos was scored on them yet: <code>python -m policy.physics_iq</code>."
    )
    return (
        f"<h3>Physics-IQ</h3><p>On the benchmark's real videos, so of other data than the table above.{none} "
        "An arrow is before and after the paper's post-training. Original and Verified do not compare. "
        "Parts of published scores are not at hand.</p>"
        '<div class="scroll"><table><thead><tr><th>Model</th><th>Spatial IoU</th><th>Weighted</th>'
        "<th>Spatiotemporal</th><th>MSE</th><th>Original</th><th>Verified</th>"
        '<th class="source">Source</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _physics_iq_row(scores: PhysicsIq) -> str:
    parts = "".join(f"<td>{number(scores.parts[name])}</td>" for name in ("s_iou", "ws_iou", "st_iou", "mse"))
    source = f"{scores.num_runs} run{'s' * (scores.num_runs > 1)}, {scores.fps} fps"
    if not scores.is_complete:
        source += "; not all videos, so it does not compare"
    return (
        f"<tr><td>{html.escape(MODELS.get(scores.name, scores.name))}</td>{parts}"
        f"<td>{with_spread(scores.original, scores.original_std)}</td>"
        f"<td>{with_spread(scores.verified, scores.verified_std)}</td>"
        f'<td class="source">{source}</td></tr>'
    )


def dots(run: Run) -> str:
    """A dot chart for each metric with two stages or more: seeds as dots, references as dashed lines."""
    charts = []
    for reader, metric in metrics(run):
        by_stage = measured(run, reader, metric)
        columns = [(MODELS[s], by_stage[s].seeds or (by_stage[s].mean,)) for s in MODELS if s in by_stage]
        if len(columns) < 2:
            continue
        references = [(REFERENCES[s], by_stage[s].mean) for s in REFERENCES if s in by_stage]
        suffix = "" if reader == "heads" else f", {reader}"
        unit = next(iter(by_stage.values())).unit
        charts.append(dot_chart(phrase(metric) + suffix, columns, unit=unit, references=references))
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def _main_metric(run: Run) -> tuple[str, str] | None:
    pairs = metrics(run)
    for word in HEADLINE_WORDS:
        for pair in pairs:
            if word in pair[1].lower():
                return pair
    return pairs[0] if pairs else None


def _comparison(run: Run, before: Measurement, after: Measurement) -> Comparison | None:
    wanted = (before.stage, after.stage, after.reader, after.metric)
    return next((c for c in run.comparisons if (c.before, c.after, c.reader, c.metric) == wanted), None)


def _value(measurement: Measurement) -> str:
    unit = f"\N{NO-BREAK SPACE}{measurement.unit}" if measurement.unit else ""
    return number(measurement.mean) + unit


def _cell(measurement: Measurement | None, best: Measurement | None, divide: bool) -> str:
    classes = ["divide"] if divide else []
    if measurement is None:
        return f'<td class="{" ".join([*classes, "none"])}">\N{EN DASH}</td>'
    if measurement is best:
        classes.append("best")
    mean, _, spread = with_spread(measurement.mean, measurement.spread).partition(" \N{PLUS-MINUS SIGN} ")
    shown = f"{mean} <small>\N{PLUS-MINUS SIGN} {spread}</small>" if spread else mean
    note = "seeds: " + ", ".join(number(value) for value in measurement.seeds)
    if measurement.interval is not None:
        low, high = map(number, measurement.interval)
        note += f"; 95 % interval over {measurement.num_scenes} scenes: {low} to {high}"
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    return f'<td{attribute} title="{html.escape(note)}">{shown}</td>'
