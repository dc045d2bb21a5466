"""A program ends with one line and code 2 for the user's mistakes, with a traceback for ours."""

import os
import subprocess
import sys

import pytest


def run(statement: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    code = f"from phys4d.runtime.errors import *\ndef main():\n    {statement}\nrun_main(main)"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("raise UserError('num_steps must be at least 1,\\n got 0')", "num_steps must be at least 1, got 0"),
        ("open('/nowhere/data')", "No such file or directory: /nowhere/data"),
        (
            "raise ConnectionError('no reward service on 127.0.0.1:9000; run make serve')",
            "no reward service on",
        ),
        (
            "raise ModuleNotFoundError('x', name='ray.serve')",
            "'ray' is not installed; run: pip install 'phys4d[serve]'",
        ),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(statement: str, line: str) -> None:
    done = run(statement)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("statement", ["1 / 0", "assert False", "import no_such_module_of_ours"])
def test_our_own_mistakes_keep_their_traceback(statement: str) -> None:
    done = run(statement)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_the_traceback_of_bad_input_can_be_asked_for() -> None:
    assert "Traceback" in run("raise UserError('x')", PHYS4D_TRACEBACK="1").stderr


def test_an_interrupt_ends_with_code_130() -> None:
    assert run("raise KeyboardInterrupt").returncode == 130


def test_success_ends_with_code_0() -> None:
    assert run("pass").returncode == 0
