import tracemalloc

import google_crc32c
import numpy as np
import pytest

from phys4d.reward import tensors
from phys4d.reward.v1 import reward_pb2 as pb

LIMIT = 1 << 20


def refused(tensor: pb.Tensor, max_bytes: int = LIMIT) -> tuple[str, str]:
    with pytest.raises(tensors.WireError) as info:
        tensors.tensor_from_proto(tensor, max_bytes=max_bytes)
    return info.value.failure.reason, info.value.failure.error_class


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8, ">f4"])
@pytest.mark.parametrize("codec", ["none", "blosc2"])
def test_an_array_arrives_as_it_was_sent(dtype, codec) -> None:
    sent = np.random.default_rng(0).uniform(0, 200, (3, 5, 7)).astype(dtype)
    arrived = tensors.tensor_from_proto(tensors.tensor_to_proto("x", sent, codec), max_bytes=LIMIT)
    np.testing.assert_array_equal(arrived, sent)
    assert not arrived.flags.writeable


def test_blosc2_shrinks_smooth_depth() -> None:
    depth = np.linspace(2, 6, 64 * 64 * 9).astype(np.float16).reshape(9, 64, 64)
    packed = tensors.tensor_to_proto("depth", depth, "blosc2")
    assert len(packed.data) == packed.packed_size < 0.5 * packed.byte_size


def bomb(num_bytes: int) -> pb.Tensor:
    """A few bytes that unpack to `num_bytes` zeros."""
    return tensors.tensor_to_proto("x", np.zeros(num_bytes, np.uint8), "blosc2")


def test_a_decompression_bomb_is_refused_before_memory_is_taken() -> None:
    """Both an honest one beyond the limit and one that claims to be small."""
    honest, liar = bomb(64 << 20), bomb(64 << 20)
    assert len(honest.data) < 100_000
    liar.shape[:], liar.byte_size = [LIMIT], LIMIT
    tracemalloc.start()
    assert refused(honest) == ("TOO_LARGE", "DATA")
    assert refused(liar) == ("WRONG_SIZE", "DATA")
    assert tracemalloc.get_traced_memory()[1] < LIMIT
    tracemalloc.stop()


def test_bytes_that_are_no_blosc2_chunk_are_refused() -> None:
    rng = np.random.default_rng(0)
    packed = tensors.tensor_to_proto("x", rng.integers(0, 9, 4096).astype(np.uint8), "blosc2")
    for start in (0, 16, 40, 200):
        damaged = pb.Tensor()
        damaged.CopyFrom(packed)
        data = bytearray(packed.data)
        data[start : start + 4] = b"\xff\xfe\xfd\xfc"
        damaged.data, damaged.crc32c = bytes(data), google_crc32c.value(bytes(data))
        try:
            array = tensors.tensor_from_proto(damaged, max_bytes=LIMIT)
        except tensors.WireError as error:
            assert error.failure.reason in ("BAD_BLOSC2", "WRONG_SIZE")
        else:
            assert array.shape == (4096,)
    short = pb.Tensor()
    short.CopyFrom(packed)
    short.data, short.packed_size = packed.data[:10], 10
    short.crc32c = google_crc32c.value(short.data)
    assert refused(short) == ("WRONG_SIZE", "DATA")


def test_a_tensor_that_announces_its_bytes_but_has_none_is_refused() -> None:
    tensor = tensors.tensor_to_proto("x", np.zeros(16, np.uint8))
    tensor.ClearField("data")
    assert tensors.check_tensor(tensor, max_bytes=LIMIT) == 16
    assert refused(tensor) == ("WRONG_SIZE", "DATA")


@pytest.mark.parametrize("size", [1, 7, 10, 11, 25])
def test_chunks_cover_the_bytes_once_and_in_order(size: int) -> None:
    pieces = list(tensors.chunks(bytes(range(25)), size))
    assert b"".join(data for _, data in pieces) == bytes(range(25))
    assert [offset for offset, _ in pieces] == list(range(0, 25, size))
