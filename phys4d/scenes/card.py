"""The data set's card: DIR/README.md, written anew whenever a split is finished."""

import sys
from pathlib import Path

from phys4d.data.format import ARRAYS, CATEGORY_NAMES, INDEX_NAME, MORE_ARRAYS
from phys4d.data.read import load_index
from phys4d.runtime.files import atomic_write_text

CARD = """# {title}

Simulated videos with exact annotations, made by `python -m phys4d.scenes.render` of Phys4D. Every sample
holds the scene's specification, from which the program rebuilds it bit for bit with the engine version that
it names.

| Split | Videos | Size | Frames | Physics | Look | Families | Engine |
|---|---|---|---|---|---|---|---|
{splits}

Sample i of a split has the seed `seed_start + i`, or that plus a multiple of 2^32 where all its draws are
degenerate; splits share no scenes if their seeds do not overlap. A `held-out` split has families that `seen`
splits never show.

## Files

WebDataset shards with two files of each sample: `KEY.json` (caption, specification, camera, objects, engine)
and `KEY.npz`. `sha256sum -c SHA256SUMS` in a split's folder checks its shards. T frames of H x W pixels, O
objects; `basic` annotations are the first {num_basic} arrays.

| Array | Type | Shape |
|---|---|---|
{arrays}

Arrays are NumPy's, exact to the last bit, because motion and depth are measured against each other: a video
codec would blur both. Contacts are those that MuJoCo computes; liquids, sand and balls in them have none.

World: metres, z up. Camera: OpenCV. Depth is z-depth; motion is (du px, dv px, dz m) to the next frame; pixel
centres lie at half integers. Instance 0 is what does not move. What gets behind the camera moves by 0, 0, dz.

Category masks are not stored, since a scene is of one category: where `object_ids` is above 0 it is
that of the specification's `category`, numbered as follows, and 0 elsewhere (`category_ids` of the reader):
{categories}.

## Limits

Physics is that of the engines named; `docs/simulation.md` states their models and limits: impacts last
several milliseconds, and liquids, sand and smoke are resolved to a few centimetres. Pictures are ray-traced
with one light that casts shadows. Licence: Apache-2.0, as the program that makes it.
"""


def write_card(folder: Path) -> None:
    """Describe all finished splits of a data set; a damaged one is left out with a warning."""
    splits = []
    for path in sorted(folder.glob(f"*/{INDEX_NAME}")):
        try:
            splits.append(_row(path))
        except (ValueError, KeyError, TypeError) as error:
            print(f"{folder / 'README.md'} leaves out {path.parent.name}: {error}", file=sys.stderr)
    arrays = [
        f"| {name} | {dtype} | {' x '.join(str(axis) for axis in axes)} |"
        for name, (dtype, axes) in {**ARRAYS, **MORE_ARRAYS}.items()
    ]
    text = CARD.format(
        title=folder.name,
        splits="\n".join(splits),
        arrays="\n".join(arrays),
        num_basic=len(ARRAYS),
        categories=", ".join(f"{number} {name}" for number, name in enumerate(CATEGORY_NAMES, 1)),
    )
    atomic_write_text(folder / "README.md", text)


def _row(path: Path) -> str:
    """A split's line of the table."""
    index = load_index(path)
    s = index["settings"]
    cells = [
        path.parent.name,
        index["num_samples"],
        f"{s['width']} x {s['height']}",
        f"{s['num_frames']} at {s['fps']:g} fps",
        s["physics"],
        s["look"],
        ", ".join(s["families"]),
        s["engine"],
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
