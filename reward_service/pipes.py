"""Objects between a server and its scorers: pickle over a socket pair, large arrays in shared memory.

Both ends are ours and nobody else holds the sockets: nothing from the wire is ever unpickled. Shared memory
is an unnamed file whose descriptor travels along; it is gone when the last process that maps it lets go.
"""

import mmap
import os
import pickle
import socket
from multiprocessing.connection import Connection
from typing import Any

SHARE_FROM_BYTES = 256 << 10
"""Arrays of one object that together are smaller go through the socket."""
ALIGNMENT = 64


def send(connection: Connection, value: Any) -> None:
    """Send an object; its arrays are copied once."""
    pickled: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=pickled.append)
    arrays = [array.raw() for array in pickled]
    sizes = [array.nbytes for array in arrays]
    shared = sum(sizes) >= SHARE_FROM_BYTES
    connection.send_bytes(pickle.dumps((sizes, shared)))
    connection.send_bytes(head)
    if not shared:
        for array in arrays:
            connection.send_bytes(array)
        return
    offsets, total = _places(sizes)
    file = os.memfd_create("rollout")
    try:
        os.ftruncate(file, total)
        for array, offset in zip(arrays, offsets, strict=True):
            done = 0
            while done < array.nbytes:
                done += os.pwrite(file, array[done:], offset + done)
        with socket.socket(fileno=os.dup(connection.fileno())) as raw:
            socket.send_fds(raw, [b"m"], [file])
    finally:
        os.close(file)


def receive(connection: Connection) -> Any:
    """Inverse of `send`; shared arrays are read-only and cost no copy.

    Raises:
        EOFError, OSError: the other end is gone.
        ValueError: the object cannot be made here.
    """
    sizes, shared = pickle.loads(connection.recv_bytes())
    head = connection.recv_bytes()
    if shared:
        arrays = _shared(connection, sizes)
    else:
        arrays = [connection.recv_bytes() for _ in sizes]
    try:
        return pickle.loads(head, buffers=arrays)
    except Exception as error:  # Whatever the classes in it do when they are made.
        raise ValueError(f"what the other process sent cannot be read: {error}") from error


def _shared(connection: Connection, sizes: list[int]) -> list[memoryview]:
    with socket.socket(fileno=os.dup(connection.fileno())) as raw:
        _, files, _, _ = socket.recv_fds(raw, 1, 1)
    if not files:
        raise EOFError("the other process ended before it sent its arrays")
    offsets, total = _places(sizes)
    try:
        view = memoryview(mmap.mmap(files[0], total, access=mmap.ACCESS_READ))
    finally:
        os.close(files[0])
    return [view[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]


def _places(sizes: list[int]) -> tuple[list[int], int]:
    """Where each array begins, and the size of all."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end
