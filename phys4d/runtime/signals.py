"""Ask a long loop to stop: SIGTERM, or Ctrl-C once."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requested() -> Iterator[Callable[[], int]]:
    """Yield a function that says which signal asked to stop, 0 for none.

    Within this context SIGTERM and SIGINT do not end the process, so that the loop can save what it has. A
    second one does. Outside the main thread, where Python handles no signals, nothing ever asks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    received = 0
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number
        restore()
        print(f"{signal.Signals(number).name}: finishing this step, then saving", file=sys.stderr, flush=True)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: received
    finally:
        restore()


def stopped_by(number: int, where: str) -> SystemExit:
    """Say on stderr what stopped and how to go on; returns the exit to raise, its code 128 + signal."""
    name = signal.Signals(number).name
    print(f"stopped by {name} {where}; run the same command again to go on", file=sys.stderr, flush=True)
    return SystemExit(128 + number)
