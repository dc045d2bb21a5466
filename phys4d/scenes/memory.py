"""What rendering needs of memory, told before it begins."""

from pathlib import Path

from phys4d.runtime.errors import UserError
from phys4d.scenes.render_config import RenderConfig

BYTES_PER_PIXEL = 31
"""Of a video's arrays: RGB 3, depth 4, motion 12, ids 1, visibility 1, normals 6, second take 4."""
PACKING = 2.0
"""Peak over the arrays alone: compressed copies on their way into a shard."""
RAY_BYTES = 400
"""Of the rays of one frame while they are cast, a pixel."""
PROCESS_BYTES = 300 << 20
"""Of a process that renders tiny videos."""


def video_bytes(config: RenderConfig) -> int:
    """Peak memory of a process that renders a video, about."""
    pixels = config.width * config.height
    return PROCESS_BYTES + int(pixels * (RAY_BYTES + PACKING * BYTES_PER_PIXEL * config.num_frames))


def check_memory(config: RenderConfig, workers: int, available: int | None) -> None:
    """Refuse what would be killed for want of memory.

    Raises:
        UserError: the processes need more bytes than there are.
    """
    each = video_bytes(config)
    if available is None or workers * each <= available:
        return
    fit, gib = available // each, 2**30
    fix = f"give --workers {fit}" if fit else "render fewer frames or smaller ones"
    raise UserError(
        f"{workers} processes would need about {workers * each / gib:.1f} GiB for videos of "
        f"{config.num_frames} frames of {config.width} x {config.height}, "
        f"{available / gib:.1f} GiB are free; {fix}"
    )


def available_bytes() -> int | None:
    """Memory that may be taken without swapping, also in a container; None where the system does not say."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    lines = (line.split(":") for line in path.read_text().splitlines())
    free = 1024 * {name: int(value.split()[0]) for name, value in lines}["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (most := (group / "memory.max").read_text().strip()) != "max":
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(statistics["inactive_file"])
        free = min(free, int(most) - used)
    return max(0, free)
