"""Scalars of a run: one JSON object a line, safe against a kill at any time."""

import json
import math
import os
from pathlib import Path
from typing import Any

from phys4d.runtime.errors import UserError
from phys4d.runtime.files import atomic_write_text


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; a last line cut short by a kill is ignored, null is NaN.

    Raises:
        UserError: a line other than the last is no JSON object.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise UserError(f"{path} line {number} is no JSON: {line[:60]!r}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number} must be a JSON object, got {line[:60]!r}")
        rows.append({key: math.nan if value is None else value for key, value in row.items()})
    return rows


def _line(row: dict[str, Any]) -> str:
    """One JSON line; numbers that are not finite become null, which JSON can carry."""
    return json.dumps({key: value if math.isfinite(value) else None for key, value in row.items()}) + "\n"


class MetricsFile:
    """Appends rows to `metrics.jsonl`; a row is with the kernel before `append` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._drop_torn_line()
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed in `close`

    def append(self, row: dict[str, float | int]) -> None:
        """Write one row."""
        self._stream.write(_line(row))
        self._stream.flush()

    def rewind(self, step: int) -> None:
        """Forget rows after `step`; a resumed run writes them anew."""
        rows = [row for row in read_metrics(self._path) if row["step"] <= step]
        self._stream.close()
        atomic_write_text(self._path, "".join(map(_line, rows)))
        self._stream = open(self._path, "a", encoding="utf-8")  # noqa: SIM115

    def size(self) -> int:
        """Bytes written."""
        return self._path.stat().st_size

    def truncate(self, size: int) -> None:
        """Forget what was written after the first `size` bytes."""
        os.truncate(self._path, size)

    def close(self) -> None:
        self._stream.close()

    def _drop_torn_line(self) -> None:
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
