"""Rollouts put together from the chunks of a stream."""

from phys4d.reward import wire
from phys4d.reward.tensors import Buffer, refusal
from phys4d.reward.v1 import reward_pb2 as pb
from reward_service.config import LimitSettings


class PartialRollout:
    """One rollout under way: memory is taken once, after its header was checked, for what was announced.

    Args:
        header: the rollout without its tensors' bytes, or with some of them.
        limits: sizes beyond these are refused.

    Raises:
        WireError: the header breaks the contract or announces too much.
    """

    def __init__(self, header: pb.Rollout, limits: LimitSettings) -> None:
        self.header = header
        self._sizes = wire.check_rollout(header, max_tensor_bytes=limits.max_tensor_bytes)
        self._max_chunk_bytes = limits.max_chunk_bytes
        self.num_bytes = wire.header_bytes(header) + sum(
            max(size, tensor.byte_size) for size, tensor in zip(self._sizes, header.tensors, strict=True)
        )
        """What it takes with its header; tensors packed or unpacked, whichever is more."""
        if self.num_bytes > limits.max_stream_bytes:
            raise refusal(
                "TOO_LARGE",
                f"the rollout has {self.num_bytes} bytes, a stream takes {limits.max_stream_bytes}",
            )
        self._buffers: list[bytes | bytearray] = []
        self._received: list[int] = []

    def allocate(self) -> None:
        """Take memory for the announced bytes."""
        for tensor, size in zip(self.header.tensors, self._sizes, strict=True):
            self._buffers.append(tensor.data or bytearray(size))
            self._received.append(len(tensor.data))

    def add(self, chunk: pb.Chunk) -> None:
        """Copy a chunk to its place.

        Raises:
            WireError: it is for no tensor of this rollout, not the next one, too large, or too long.
        """
        data, index = chunk.data, chunk.tensor
        if index >= len(self._sizes):
            raise refusal("BAD_CHUNK", f"the rollout has {len(self._sizes)} tensors, a chunk is of {index}")
        if not 0 < len(data) <= self._max_chunk_bytes:
            raise refusal(
                "BAD_CHUNK", f"a chunk must have 1 to {self._max_chunk_bytes} bytes, got {len(data)}"
            )
        done, size = self._received[index], self._sizes[index]
        name = self.header.tensors[index].name
        if chunk.offset != done:
            raise refusal(
                "CHUNK_OUT_OF_ORDER",
                f"{name}: the chunk at byte {done} is next, the one at {chunk.offset} came",
                "INFRA",
            )
        buffer = self._buffers[index]
        if done + len(data) > size or isinstance(buffer, bytes):
            raise refusal("BAD_CHUNK", f"{name} has {size} packed bytes, chunks go to {done + len(data)}")
        buffer[done : done + len(data)] = data
        self._received[index] += len(data)

    @property
    def is_whole(self) -> bool:
        """Whether every announced byte is there."""
        return self._received == self._sizes

    def cut_short(self) -> wire.WireError:
        """What befell a rollout that ended before it was whole."""
        missing = sum(self._sizes) - sum(self._received)
        return refusal("MISSING_CHUNK", f"the rollout ended {missing} bytes too early", "INFRA")

    def packed(self) -> list[Buffer]:
        """The packed bytes of each tensor."""
        assert self.is_whole
        return list(self._buffers)
