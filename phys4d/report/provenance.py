"""What was run, where, with which configuration."""

import html
import shlex
from typing import Any

from phys4d.report.numbers import duration, phrase
from phys4d.report.run import MODELS, STAGES, Run, Stage


def section(run: Run) -> str:
    """One fold-out for each stage."""
    if not run.stages:
        return '<p class="missing">No stage has run yet.</p>'
    total = sum(stage.elapsed_s() for stage in run.stages.values())
    parts = [f"<p>The logged part of all stages took {duration(total)}.</p>"]
    for name, title in STAGES.items():
        if name in run.stages:
            parts.append(_stage(title, run.stages[name]))
    if run.best_of_n:
        facts = "".join(
            f"<dt>{html.escape(phrase(name))}</dt><dd>{html.escape(str(value))}</dd>"
            for name, value in run.best_of_n.items()
        )
        parts.append(_details(MODELS["best_of_n"], f"<dl>{facts}</dl>"))
    if run.evaluation_config:
        parts.append(_details("Evaluation", _code(run.evaluation_config)))
    return "".join(parts)


def _details(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary><div>{content}</div></details>"


def _code(text: str) -> str:
    return f"<pre><code>{html.escape(text.strip())}</code></pre>" if text else ""


def _stage(title: str, stage: Stage) -> str:
    facts = stage.provenance
    rows = {
        "Command": _command(facts.get("argv")),
        "Started": facts.get("started_at"),
        "Took": duration(stage.elapsed_s()) if stage.rows else None,
        "Sessions": 1 + len(facts["earlier_sessions"]) if facts.get("earlier_sessions") else None,
        "Commit": _commit(facts),
        "Machine": _machine(facts),
        "Python": facts.get("python"),
        "Packages": ", ".join(f"{k} {v}" for k, v in facts.get("packages", {}).items() if v) or None,
    }
    listed = "".join(
        f"<dt>{key}</dt><dd>{html.escape(str(value))}</dd>" for key, value in rows.items() if value
    )
    fault = f'<p class="missing">{html.escape(stage.fault)}</p>' if stage.fault else ""
    took = f"<small>{duration(stage.elapsed_s())}</small>" if stage.rows else ""
    return _details(f"{title}{took}", f"{fault}<dl>{listed}</dl>{_code(stage.config)}")


def _command(argv: Any) -> str | None:
    """The command line; the path of the program's own file becomes its module name."""
    if not isinstance(argv, list) or not argv:
        return None
    program = str(argv[0]).removesuffix(".py").split("/")
    return "python -m " + ".".join(program[-2:]) + " " + shlex.join(map(str, argv[1:]))


def _commit(facts: dict[str, Any]) -> str | None:
    commit = facts.get("git_commit")
    return f"{commit[:12]}{' with local changes' if facts.get('git_dirty') else ''}" if commit else None


def _machine(facts: dict[str, Any]) -> str | None:
    if "cpu" not in facts:
        return None
    parts = [
        facts["cpu"],
        f"{facts.get('num_cpus')} cores",
        f"{facts.get('memory_gib')} GiB",
        facts.get("platform"),
    ]
    return ", ".join(map(str, parts))
