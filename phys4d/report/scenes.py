"""Held-out scenes: what each stage generated beside the simulator's truth, all videos on one clock."""

import html

import numpy as np

from phys4d.report.numbers import number
from phys4d.report.run import MODELS, TRUTH, Run, Scene
from phys4d.report.videos import (
    Video,
    colour_depth,
    colour_motion,
    depth_range,
    motion_scale,
    read_video,
    strip_uri,
)


def section(run: Run, budget: int) -> str:
    """A player and a card for each scene, as long as cards do not take more than `budget` characters."""
    if not run.scenes:
        reason = run.evaluation_fault or "the evaluation kept no scenes"
        return f'<p class="missing">No videos: {html.escape(reason)}</p>'
    cards, most_frames = [], 1
    with_clouds = [scene.id for scene in run.scenes if scene.clouds is not None and scene.clouds.is_file()]
    for scene in run.scenes:
        link = ""
        if scene.id in with_clouds:
            link = f'<a href="#clouds" data-cloud="{with_clouds.index(scene.id)}">point clouds</a>'
        card, num_frames = _card(scene, list(scene.files), link)
        if cards and sum(map(len, cards)) + len(card) > budget:
            break
        cards.append(card)
        most_frames = max(most_frames, num_frames)
    fps = run.scenes[0].fps
    families = sorted({scene.family for scene in run.scenes})
    options = "".join(f'<option value="{html.escape(f)}">{_words(f)}</option>' for f in families)
    chooser = (
        f'<select aria-label="Scenes shown"><option value="">All scenes</option>{options}</select>'
        if len(families) > 1
        else ""
    )
    player = (
        f'<div class="player" data-fps="{fps:g}"><button type="button">Play</button>'
        f'<input type="range" min="0" max="{most_frames - 1}" value="0" step="1"'
        f' aria-label="Frame of all videos"><output></output>{chooser}</div>'
    )
    note = _left_out(len(run.scenes) - len(cards))
    return f'{player}<div class="scenes">{"".join(cards)}</div>{note}'


def failures(run: Run, budget: int) -> str:
    """The scenes that the last stage gets most wrong, whatever the browser above happens to show.

    As many of them as `budget` characters hold.
    """
    if not run.failures:
        return ""
    cards = []
    for failure in run.failures:
        note = f"<b>{number(failure.error_m)} m</b> from the truth on average"
        card = _card(failure.scene, [TRUTH, failure.stage], note)[0]
        if sum(map(len, cards)) + len(card) > budget:
            break
        cards.append(card)
    stage = run.failures[0].stage
    return (
        f"<h3>Failures of {html.escape(MODELS.get(stage, stage).lower())}</h3>"
        f"<p>The held-out scenes where its points end up furthest from the simulator's, worst first.</p>"
        f'<div class="scenes failures">{"".join(cards)}</div>{_left_out(len(run.failures) - len(cards))}'
    )


def _left_out(number: int) -> str:
    if not number:
        return ""
    scenes = "1 more scene is" if number == 1 else f"{number} more scenes are"
    return f'<p class="missing">{scenes} left out to keep this page small; their files are in the run.</p>'


def _words(family: str) -> str:
    return html.escape(family.replace("_", " ").capitalize())


def _card(scene: Scene, files: list[str], note: str) -> tuple[str, int]:
    names = [name for name in (TRUTH, *MODELS) if name in files]
    names += [name for name in files if name not in names]
    videos = {name: read_video(scene.files[name]) for name in names}
    in_order = [videos[name] for name in names]
    low, high = depth_range(in_order)
    scale_px = motion_scale(in_order)
    rows = {"RGB": [_tile(video, video.rgb, "no video") for video in in_order]}
    if any(video.depth is not None for video in in_order):
        rows["Depth"] = [
            _tile(v, None if v.depth is None else colour_depth(v.depth, low, high), "no depth")
            for v in in_order
        ]
    if any(video.motion is not None for video in in_order):
        rows["Motion"] = [
            _tile(v, None if v.motion is None else colour_motion(v.motion, scale_px), "no motion")
            for v in in_order
        ]
    head = "".join(
        f'<div class="head{" truth" if name == TRUTH else ""}">'
        f"{'Simulator' if name == TRUTH else html.escape(scene.title(name))}</div>"
        for name in names
    )
    body = "".join(f"<div>{title}</div>{''.join(tiles)}" for title, tiles in rows.items())
    num_frames = max((len(video.rgb) for video in in_order if video.rgb is not None), default=1)
    scales = ""
    if "Depth" in rows:
        scales += f"<span>depth {number(low)} m</span><i></i><span>{number(high)} m</span>"
    if "Motion" in rows:
        scales += f"<span>motion: hue is direction, full colour is {number(scale_px)} px per frame</span>"
    return (
        f'<article class="scene" data-family="{html.escape(scene.family)}"><h3>{_words(scene.family)}'
        f"<small>{note}</small></h3>"
        f"<p>{html.escape(scene.caption)}</p>"
        f'<div class="strip" style="--columns:{len(names)}"><div></div>{head}{body}</div>'
        f'<div class="scale">{scales}</div></article>'
    ), num_frames


def _tile(video: Video, frames: np.ndarray | None, absent: str) -> str:
    if frames is None:
        return f'<div class="empty">{html.escape(video.fault or absent)}</div>'
    num_frames, height, width = frames.shape[:3]
    return (
        f'<div class="video" style="--frames:{num_frames};aspect-ratio:{width}/{height};'
        f'background-image:url({strip_uri(frames)})"></div>'
    )
