"""Held-out scenes: what each stage generated beside the simulator's truth, all videos on one clock."""

import html

import numpy as np

from phys4d.report.numbers import number
from phys4d.report.read import STAGES, TRUTH, Run, Scene
from phys4d.report.videos import (
    Video,
    colour_depth,
    colour_motion,
    depth_range,
    motion_scale,
    read_video,
    strip_uri,
)


def section(run: Run) -> str:
    """A player and a card for each scene."""
    if not run.scenes:
        reason = run.evaluation_fault or "the evaluation kept no scenes"
        return f'<p class="missing">No videos: {html.escape(reason)}</p>'
    cards, most_frames = [], 1
    for scene in run.scenes:
        card, num_frames = _card(scene)
        cards.append(card)
        most_frames = max(most_frames, num_frames)
    fps = run.scenes[0].fps
    player = (
        f'<div class="player" data-fps="{fps:g}"><button type="button">Play</button>'
        f'<input type="range" min="0" max="{most_frames - 1}" value="0" step="1"'
        ' aria-label="Frame of all videos"><output></output></div>'
    )
    return f'{player}<div class="scenes">{"".join(cards)}</div>'


def _card(scene: Scene) -> tuple[str, int]:
    names = [name for name in (TRUTH, *STAGES) if name in scene.files]
    names += [name for name in scene.files if name not in names]
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
        f"{'Simulator' if name == TRUTH else html.escape(STAGES.get(name, name))}</div>"
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
        f'<article class="scene"><h3>{html.escape(scene.family.replace("_", " ").capitalize())}</h3>'
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
