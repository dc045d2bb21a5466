"""One stream of rollouts: read no faster than scored, every header answered once."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from phys4d.reward import wire
from phys4d.reward.tensors import Buffer, refusal
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Failure, Outcome
from reward_service.assembly import PartialRollout
from reward_service.config import LimitSettings
from reward_service.security import MALFORMED

ScorePacked = Callable[[pb.Rollout, list[Buffer]], Awaitable[Outcome]]
Answer = tuple[int, int, Outcome]
"""Index of the rollout in its stream, its attempt, and the outcome."""


class ByteBudget:
    """Bytes held at most, first come, first served.

    Args:
        total: bytes.
        observe: told the bytes held whenever they change.
    """

    def __init__(self, total: int, observe: Callable[[float], None] = lambda _: None) -> None:
        self.total = total
        self.held = 0
        self._observe = observe
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take_now(self, num_bytes: int) -> bool:
        """Take bytes if they are free and nobody waits for some."""
        if self._waiting or self.held + num_bytes > self.total:
            return False
        self._hold(num_bytes)
        return True

    async def take(self, num_bytes: int) -> None:
        """Take bytes, waiting until they are free.

        Raises:
            ValueError: more than there are in all.
        """
        if num_bytes > self.total:
            raise ValueError(f"{num_bytes} bytes are more than the budget of {self.total}")
        if self.take_now(num_bytes):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((num_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake()
            else:
                self.give_back(num_bytes)
            raise

    def give_back(self, num_bytes: int) -> None:
        """Return bytes that were taken."""
        self._hold(-num_bytes)
        self._wake()

    def _hold(self, change: int) -> None:
        self.held += change
        self._observe(self.held)

    def _wake(self) -> None:
        """Serve who waits; one that was cancelled leaves the queue when it is first."""
        while self._waiting:
            num_bytes, turn = self._waiting[0]
            if not turn.cancelled():
                if self.held + num_bytes > self.total:
                    return
                self._hold(num_bytes)
                turn.set_result(None)
            self._waiting.popleft()


class StreamReader:
    """Reads the parts of a stream after `open`, and has every rollout scored as soon as it is whole.

    Memory: a rollout's bytes are taken from the stream's own budget and from the one of all calls before they
    are read, and given back when it is answered. While they are not free nothing is read, and HTTP/2 holds
    the sender back.

    Args:
        limits: sizes.
        shared: bytes of all calls.
        score: scores a whole rollout.
        remembered: an outcome known from the header alone.
    """

    def __init__(
        self,
        limits: LimitSettings,
        shared: ByteBudget,
        *,
        score: ScorePacked,
        remembered: Callable[[pb.Rollout], Outcome | None],
    ) -> None:
        self.fault: str | None = None
        """What was wrong with the stream as a whole."""
        self.is_idle = False
        """Whether the fault is that nothing came."""
        self._limits = limits
        self._own = ByteBudget(limits.max_stream_bytes)
        self._shared = shared
        self._score = score
        self._remembered = remembered
        self._answers: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._open: dict[int, pb.Rollout] = {}
        """Headers without an answer."""
        self._num_headers = 0
        self._ids: set[str] = set()
        self._partial: PartialRollout | None = None

    async def outcomes(self) -> AsyncIterator[Answer]:
        """Answers as they are ready, until `read` is done."""
        while (answer := await self._answers.get()) is not None:
            yield answer

    async def read(self, parts: AsyncIterator[pb.ScoreStreamRequest], deadline: float | None) -> None:
        """Read to the end or the deadline; then every header has its answer."""
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(timeout_s):
                await self._read_parts(parts, tasks)
                if self.fault is None:
                    await asyncio.gather(*tasks)
        except TimeoutError:
            late = Failure(
                error_class="INFRA",
                reason="BUDGET_EXCEEDED",
                message="not scored within the budget of the call",
            )
            for index in sorted(self._open):
                self._answer(index, late)
        finally:
            for task in tasks:
                task.cancel()
            self._drop_partial()
            self._answers.put_nowait(None)

    async def _read_parts(
        self, parts: AsyncIterator[pb.ScoreStreamRequest], tasks: list[asyncio.Task[None]]
    ) -> None:
        while True:
            idle = asyncio.timeout(self._limits.stream_idle_s)
            try:
                async with idle:
                    part = await anext(parts, None)
            except TimeoutError:
                if idle.expired():
                    self.fault, self.is_idle = "nothing came", True
                    return
                raise
            if part is None:
                self._cut_short()
                return
            kind = None if part is MALFORMED else part.WhichOneof("part")
            if kind == "header":
                await self._begin(part.header)
            elif kind == "chunk":
                self._add(part.chunk)
            else:
                self.fault = "after `open` a stream has headers and chunks only"
            if self.fault is not None:
                return
            partial = self._partial
            if partial is not None and partial.is_whole:
                self._partial = None
                index = self._num_headers - 1
                tasks.append(asyncio.create_task(self._score_whole(index, partial)))

    async def _begin(self, header: pb.Rollout) -> None:
        self._cut_short()
        if self._num_headers >= self._limits.max_rollouts:
            self.fault = f"a stream takes at most {self._limits.max_rollouts} rollouts"
            return
        # What is answered with its id must not be large: answers may wait for a caller that does not read.
        if wire.header_bytes(header) > wire.MAX_HEADER_BYTES:
            self.fault = (
                f"a header has {wire.header_bytes(header)} bytes beside its tensors' data, "
                f"at most {wire.MAX_HEADER_BYTES} are taken"
            )
            return
        index, self._num_headers = self._num_headers, self._num_headers + 1
        self._open[index] = header
        try:
            if header.sample_id in self._ids:
                raise refusal("DUPLICATE_SAMPLE_ID", f"{header.sample_id[:64]!r} came before in this stream")
            self._ids.add(header.sample_id)
            partial = PartialRollout(header, self._limits)
        except wire.WireError as error:
            self._answer(index, error.failure)
            return
        known = self._remembered(header)
        if known is not None:
            self._answer(index, known.result)
            return
        await self._take(partial.num_bytes)
        partial.allocate()
        self._partial = partial

    def _add(self, chunk: pb.Chunk) -> None:
        if chunk.rollout >= self._num_headers:
            self.fault = f"a chunk is of rollout {chunk.rollout}, which has no header"
        elif self._partial is not None and chunk.rollout == self._num_headers - 1:
            # Chunks of rollouts that are whole, or have failed, change nothing.
            try:
                self._partial.add(chunk)
            except wire.WireError as error:
                self._fail_partial(error.failure)

    def _cut_short(self) -> None:
        if self._partial is not None:
            self._fail_partial(self._partial.cut_short().failure)

    def _fail_partial(self, failure: Failure) -> None:
        self._drop_partial()
        self._answer(self._num_headers - 1, failure)

    def _drop_partial(self) -> None:
        if self._partial is not None:
            self._give_back(self._partial.num_bytes)
            self._partial = None

    async def _score_whole(self, index: int, partial: PartialRollout) -> None:
        try:
            outcome = await self._score(partial.header, partial.packed())
        finally:
            self._give_back(partial.num_bytes)
        self._answer(index, outcome.result)

    async def _take(self, num_bytes: int) -> None:
        await self._own.take(num_bytes)
        try:
            await self._shared.take(num_bytes)
        except BaseException:
            self._own.give_back(num_bytes)
            raise

    def _give_back(self, num_bytes: int) -> None:
        self._own.give_back(num_bytes)
        self._shared.give_back(num_bytes)

    def _answer(self, index: int, result: object) -> None:
        header = self._open.pop(index, None)
        if header is not None:
            outcome = Outcome(sample_id=header.sample_id, result=result)  # pyright: ignore[reportArgumentType]
            self._answers.put_nowait((index, header.attempt, outcome))
