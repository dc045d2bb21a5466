"""How a program ends: one line for what the user can mend, a traceback for what we must."""

import os
import sys
from collections.abc import Callable

EXTRA_OF_MODULE = {
    "accelerate": "train",
    "av": "train",
    "cv2": "train",
    "diffusers": "train",
    "mujoco": "sim",
    "numba": "sim",
    "peft": "train",
    "PIL": "train",
    "ray": "serve",
    "matplotlib": "plan",
    "scipy": "sim",
    "simpy": "plan",
    "torch": "train",
    "torchvision": "train",
    "transformers": "train",
    "warp": "sim",
}


class UserError(ValueError):
    """Bad input that the user can mend; the message says what, which value, which rule and the fix."""


def one_line(error: BaseException) -> str:
    """Describe an error in one line, without errno numbers and line breaks."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package in EXTRA_OF_MODULE:
            extra = EXTRA_OF_MODULE[package]
            return (
                f"{package!r} is not installed; run: pip install 'phys4d[{extra}]' (in a clone: make setup)"
            )
    return " ".join(str(error).split()) or type(error).__name__


def run_main(main: Callable[[], object]) -> None:
    """Run a program's `main` and exit.

    Exit codes: 0 success; 2 bad input or environment (`ValueError`, `OSError` such as a missing file, a
    refused connection or a full disk, or an extra that is not installed), told in one line; 130 interrupted.
    Anything else is our fault and keeps its traceback (code 1). `PHYS4D_TRACEBACK=1` keeps every traceback.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        known_module = isinstance(error, ModuleNotFoundError) and (
            (error.name or "").partition(".")[0] in EXTRA_OF_MODULE
        )
        ours = isinstance(error, ModuleNotFoundError) and not known_module
        if ours or os.environ.get("PHYS4D_TRACEBACK", "0") not in ("", "0"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
