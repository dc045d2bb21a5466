"""Nearest neighbours on a GPU: one ragged Triton kernel for points in 3 or 4 dimensions.

A segment is a run of points of x together with the run of points of y that may be their neighbours, so
clouds of any size share one launch and nothing is padded. Distances take the difference form |x - y|^2 in
float32: the expanded form x^2 - 2 x.y + y^2 is wrong by more than its value 10 m from the origin.

The kernel runs on a CPU too, slowly, where TRITON_INTERPRET=1 is set before this module is imported.
"""

import contextlib
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int64


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How the kernel is cut; `python -m benchmarks.chamfer_gpu` measures others."""

    block_p: int = 64
    """Points of x in a program. 128 x 64 with 4 warps does not fit into registers."""
    block_q: int = 64
    """Points of y looked at together."""
    num_warps: int = 4
    num_stages: int = 2


TILE = Tile()


@triton.jit(do_not_specialize=["num_tiles", "num_x", "num_y"])
def nearest_kernel(
    x_ptr,  # float32 (D, P)
    y_ptr,  # float32 (D, Q)
    d2_ptr,  # float32 (P)
    tile_ptr,  # int64 (3, num_tiles): first point of x, end of x's segment, segment
    range_ptr,  # int64 (S, 2): points of y to look at
    num_tiles: tl.int64,  # pyright: ignore[reportInvalidTypeForm]
    num_x: tl.int64,  # pyright: ignore[reportInvalidTypeForm]
    num_y: tl.int64,  # pyright: ignore[reportInvalidTypeForm]
    D: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """Program i takes BLOCK_P points of x past all points of y in their segment's range."""
    tile = tl.program_id(0)
    first = tl.load(tile_ptr + tile)
    end = tl.load(tile_ptr + num_tiles + tile)
    segment = tl.load(tile_ptr + 2 * num_tiles + tile)
    start = tl.load(range_ptr + 2 * segment)
    count = (tl.load(range_ptr + 2 * segment + 1) - start).to(tl.int32)

    points = first + tl.arange(0, BLOCK_P)
    inside = points < end
    x0 = tl.load(x_ptr + points, mask=inside, other=0.0)
    x1 = tl.load(x_ptr + num_x + points, mask=inside, other=0.0)
    x2 = tl.load(x_ptr + 2 * num_x + points, mask=inside, other=0.0)
    x3 = tl.load(x_ptr + (D - 1) * num_x + points, mask=inside, other=0.0)
    y_ptr += start
    columns = tl.arange(0, BLOCK_Q)
    best = tl.full([BLOCK_P, BLOCK_Q], float("inf"), tl.float32)
    for q in range(0, count, BLOCK_Q):
        there = q + columns < count
        y_points = y_ptr + q + columns
        # Infinitely far where there is no point.
        d = x0[:, None] - tl.load(y_points, mask=there, other=float("inf"))[None, :]
        d2 = d * d
        d = x1[:, None] - tl.load(y_points + num_y, mask=there, other=0.0)[None, :]
        d2 += d * d
        d = x2[:, None] - tl.load(y_points + 2 * num_y, mask=there, other=0.0)[None, :]
        d2 += d * d
        if D == 4:
            d = x3[:, None] - tl.load(y_points + 3 * num_y, mask=there, other=0.0)[None, :]
            d2 += d * d
        best = tl.minimum(best, d2)
    tl.store(d2_ptr + points, tl.min(best, 1), mask=inside)


def nn_d2_triton(
    x: Float[torch.Tensor, "P D"],
    y: Float[torch.Tensor, "Q D"],
    x_offsets: Int64[torch.Tensor, " S+1"],
    y_ranges: Int64[torch.Tensor, "S 2"],
    *,
    tile: Tile = TILE,
) -> Float32[torch.Tensor, " P"]:
    """`phys4d.metrics.nearest.nn_d2` on the device of x; +inf where there is nothing to find.

    Coordinates are rounded to float32 after the mean of y is taken off, so that clouds may lie far away.
    Memory is linear: one float32 copy of the points, and three integers for each `block_p` points of x.
    """
    num_dims = x.shape[1]
    if num_dims not in (3, 4):
        raise ValueError(f"the Triton kernel takes points of 3 or 4 dimensions, got {num_dims}")
    d2 = torch.full((len(x),), float("inf"), dtype=torch.float32, device=x.device)
    if len(x) == 0 or len(y) == 0:
        return d2
    centre = y.double().mean(0)
    x_DP, y_DQ = ((points.double() - centre).float().T.contiguous() for points in (x, y))
    tiles = _tiles(x_offsets, tile.block_p)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        nearest_kernel[(tiles.shape[1],)](
            x_DP,
            y_DQ,
            d2,
            tiles,
            y_ranges.contiguous(),
            tiles.shape[1],
            len(x),
            len(y),
            D=num_dims,
            BLOCK_P=tile.block_p,
            BLOCK_Q=tile.block_q,
            num_warps=tile.num_warps,  # pyright: ignore[reportCallIssue]
            num_stages=tile.num_stages,  # pyright: ignore[reportCallIssue]
        )
    return d2


def _tiles(x_offsets: Int64[torch.Tensor, " S+1"], block_p: int) -> Int64[torch.Tensor, "3 tiles"]:
    """First point, end of the segment and segment of each program; no tile holds points of two segments."""
    starts, ends = x_offsets[:-1], x_offsets[1:]
    counts = (ends - starts + block_p - 1) // block_p
    segment = torch.repeat_interleave(torch.arange(len(starts), device=x_offsets.device), counts)
    first_tile = counts.cumsum(0) - counts
    within = torch.arange(len(segment), device=x_offsets.device) - first_tile[segment]
    return torch.stack([starts[segment] + block_p * within, ends[segment], segment])
