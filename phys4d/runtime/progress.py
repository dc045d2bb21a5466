"""Progress with rate and time left, on a terminal and in a log file."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

LOG_INTERVAL_S = 10.0


class _LineStream:
    """A text stream that ends each of tqdm's updates with a line break instead of overwriting it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self._stream.write(text + "\n")

    def flush(self) -> None:
        self._stream.flush()


def progress(
    iterable: Iterable[Any] | None = None, *, total: int | None = None, desc: str, unit: str = "it"
) -> "tqdm[Any]":
    """A tqdm bar on stderr; where stderr is no terminal, one line about every 10 seconds.

    Args:
        iterable: what to loop over, or None to call `update` by hand.
        total: number of steps; None takes the length of `iterable`.
        desc: what is being done, e.g. `rendering train`.
        unit: what is counted, e.g. `video`.
    """
    if sys.stderr.isatty():
        return tqdm(iterable, total=total, desc=desc, unit=f" {unit}", dynamic_ncols=True, smoothing=0.1)
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=f" {unit}",
        file=_LineStream(sys.stderr),
        mininterval=LOG_INTERVAL_S,
        maxinterval=LOG_INTERVAL_S,
        miniters=1,
        ascii=True,
        ncols=100,
        bar_format="{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    )
