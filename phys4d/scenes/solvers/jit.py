"""Compile loops once and keep the machine code where a cache can be written."""

import logging
from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit` without fast-math and threads: IEEE arithmetic in the order it is written.

    The machine code is kept in `$NUMBA_CACHE_DIR`, else beside the source, else in the user's cache folder.
    Where none of them can be written the function is compiled in every process.
    """
    options = {"error_model": "numpy", "fastmath": False, "parallel": False}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        logging.getLogger(__name__).info(
            "%s is compiled in every process: no cache folder can be written; set NUMBA_CACHE_DIR to one",
            function.__name__,
        )
        return numba.njit(**options)(function)
