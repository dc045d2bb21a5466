"""Results remembered, so that a rollout sent again costs nothing and is never scored twice at once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace

from phys4d.types import Outcome, Score


@dataclass(eq=False)
class _Running:
    task: asyncio.Task[Outcome]
    num_waiting: int = 0


class ResultCache:
    """The latest outcomes that a repeat would not change: scores and failures of class DATA.

    Args:
        size: outcomes remembered at most; 0 remembers none, and still joins repeats that come meanwhile.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._done: OrderedDict[Hashable, Outcome] = OrderedDict()
        self._running: dict[Hashable, _Running] = {}

    def find(self, key: Hashable) -> Outcome | None:
        """A remembered outcome; a score among them says that it is."""
        outcome = self._done.get(key)
        if outcome is None:
            return None
        self._done.move_to_end(key)
        if outcome.score is not None:
            outcome = replace(outcome, result=replace(outcome.score, cached=True))
        return outcome

    def forget(self, key: Hashable) -> None:
        """Remember nothing under a key."""
        self._done.pop(key, None)

    async def get(self, key: Hashable, score: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The outcome under a key: remembered, or of a run under way, or of `score()`.

        A run whose last waiter is cancelled is cancelled.
        """
        found = self.find(key)
        if found is not None:
            return found
        running = self._running.get(key)
        if running is None:
            running = _Running(asyncio.ensure_future(self._run(key, score)))
            self._running[key] = running
        running.num_waiting += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.num_waiting -= 1
            if running.num_waiting == 0 and not running.task.done():
                running.task.cancel()
                # A repeat that comes now must not join what ends.
                if self._running.get(key) is running:
                    del self._running[key]

    async def _run(self, key: Hashable, score: Callable[[], Awaitable[Outcome]]) -> Outcome:
        try:
            outcome = await score()
        finally:
            running = self._running.get(key)
            if running is not None and running.task is asyncio.current_task():
                del self._running[key]
        if isinstance(outcome.result, Score) or outcome.result.error_class == "DATA":
            self._done[key] = outcome
            while len(self._done) > self._size:
                self._done.popitem(last=False)
        return outcome
