"""Puts the sections together to one HTML file that needs nothing else, no network and no server."""

import datetime
import html
from importlib import resources
from pathlib import Path

from phys4d.report import clouds, curves, monitors, provenance, scenes, summary
from phys4d.report.read import read_run
from phys4d.report.run import Run
from phys4d.runtime.files import atomic_write_text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself refuses whatever is not inline."""
LARGEST_PAGE, LEAST_FOR_TEXT = 15_000_000, 1_000_000
"""Characters of the whole page, and what is kept of them for all but pictures and clouds."""


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run, finished or not.

    Args:
        run_folder: `runs/<name>`.
        out: the HTML file; None is `report/index.html` in the run folder.

    Returns:
        The file written.
    """
    out = out or run_folder / "report" / "index.html"
    gallery = (out.parent / "scenes" / "index.html").is_file()
    atomic_write_text(out, page(read_run(run_folder), gallery=gallery))
    return out


def page(run: Run, *, gallery: bool = False) -> str:
    """The whole document, with a link to the gallery of `make preview` if it is there."""
    own = resources.files("phys4d.report")
    style, script, viewer = (
        own.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "viewer.js")
    )
    point_clouds = clouds.section(run)
    for_videos = LARGEST_PAGE - LEAST_FOR_TEXT - len(point_clouds)
    videos = scenes.section(run, for_videos * 3 // 4)
    failures = scenes.failures(run, for_videos - len(videos))
    now = datetime.datetime.now(datetime.UTC).strftime("%-d %B %Y, %H:%M UTC")
    results = (
        summary.table(run)
        + summary.comparisons(run)
        + summary.other_splits(run)
        + summary.published(run)
        + "<h3>By stage</h3>"
        + summary.dots(run)
        if run.measurements
        else f'<p class="missing">{html.escape(run.evaluation_fault)}</p>'
        + summary.other_splits(run)
        + summary.published(run)
    ) + summary.faults(run)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{html.escape(run.name)}: Phys4D report</title>
<style>
{style}</style>
</head>
<body>
<header>
<p class="eyebrow">Phys4D report, run <b>{html.escape(run.name)}</b>, written {now}</p>
<h1>{html.escape(summary.headline(run))}</h1>
<p class="lead">{summary.lead(run)}</p>
{summary.tiles(run)}
</header>
<nav><div><a href="#results">Results</a><a href="#videos">Videos</a><a href="#clouds">Point clouds</a>
<a href="#monitors">Monitors</a><a href="#training">Training</a>
<a href="#provenance">Configuration and provenance</a>
{'<a href="scenes/index.html">Simulated scenes</a>' if gallery else ""}</div></nav>
<main>
<section id="results">
<h2>Held-out results</h2>
<p>Mean over scenes, &plusmn; standard deviation over sampling seeds. Bold is the best stage;
columns right of the line are references. Hover over a cell for the seeds.</p>
{results}
</section>
<section id="videos" style="--frame:0">
<h2>Held-out scenes</h2>
<p>Every model sees the first frame and the caption. The simulator shows what happens.</p>
{videos}
{failures}
</section>
<section id="clouds">
<h2>Point clouds over time</h2>
<p>Points seen on objects in the first frame, carried along the generated motion in the picture and in
depth, and where the simulator takes them.</p>
{point_clouds}
</section>
<section id="monitors">
<h2>Hacking monitors</h2>
<p>A policy may find ways to raise its reward without moving things as the simulator does.</p>
{monitors.section(run)}
</section>
<section id="training">
<h2>Training</h2>
<p>Faint is what was logged, bold its running mean. Hover for values.</p>
{curves.section(run)}
</section>
<section id="provenance">
<h2>Configuration and provenance</h2>
{provenance.section(run)}
</section>
</main>
<footer><main>Written by <code>python -m phys4d.report</code>. This file needs no network.</main></footer>
<script>
{script}
{viewer.partition(";")[2].lstrip()}</script>
</body>
</html>
"""
