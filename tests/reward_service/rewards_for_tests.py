"""Rewards that behave badly in known ways, loaded by real servers in the tests."""

import os
import time
from pathlib import Path

import numpy as np

from phys4d.reward.plugin import DataError
from phys4d.types import Rollout, Score


class Constant:
    """Scores everything alike and tells which process did it."""

    name = "constant"
    version = "1"

    def __init__(self, value: float = 1.0, seconds: float = 0.0) -> None:
        self.value = value
        self.seconds = seconds

    def score(self, rollout: Rollout) -> Score:
        time.sleep(self.seconds)
        return Score(value=self.value, components={"pid": os.getpid()}, scorer_version=self.version)


class Slow(Constant):
    """Takes as many seconds as the text says."""

    name = "slow"

    def score(self, rollout: Rollout) -> Score:
        time.sleep(float(rollout.text))
        return super().score(rollout)


class Versioned(Constant):
    """Of the version that its process found in a file."""

    name = "versioned"

    def __init__(self, file: str) -> None:
        super().__init__()
        self.version = Path(file).read_text()


class Raising(Constant):
    """Has a bug."""

    name = "raising"

    def score(self, rollout: Rollout) -> Score:
        raise ZeroDivisionError("division by zero in a reward")


class NotANumber(Constant):
    """Computes NaN."""

    name = "not_a_number"

    def score(self, rollout: Rollout) -> Score:
        return Score(value=float("nan"))


class PlainFloat(Constant):
    """Forgets to return a Score."""

    name = "plain_float"

    def score(self, rollout: Rollout) -> Score:
        return 0.0  # pyright: ignore[reportReturnType]


class DerivedScore(Score):
    """Of a module that the reader of the answer does not have."""

    def __reduce__(self) -> tuple:
        return __import__, ("no_module_of_the_service",)


class BadlyTyped(Constant):
    """Gives what the text names, in a type that no message holds."""

    name = "badly_typed"

    def score(self, rollout: Rollout) -> Score:
        if rollout.text == "reason":
            raise DataError(7, ["no", "text"])  # pyright: ignore[reportArgumentType]
        made = DerivedScore if rollout.text == "derived" else Score
        wrong = {
            "array": {"value": np.array(0.5, np.float16)},
            "version": {"scorer_version": 1},
            "component": {"components": {1: 2.0}},
            "phase": {"phases_s": {"a": float("nan")}},
            "text": {"value": "0.5"},
            "surrogate": {"simulator": "\ud800"},
        }
        return made(**{"value": 0.5, **wrong.get(rollout.text, {})})


class Flaky(Constant):
    """Fails the first time any process sees a sample; the text names a folder to remember in."""

    name = "flaky"

    def score(self, rollout: Rollout) -> Score:
        try:
            (Path(rollout.text) / rollout.sample_id).touch(exist_ok=False)
        except FileExistsError:
            return super().score(rollout)
        raise OSError("a disk that comes back")


class Crashing(Constant):
    """Ends its process once, at the first sample after the file named by the text appeared."""

    name = "crashing"

    def score(self, rollout: Rollout) -> Score:
        if rollout.text:
            try:
                Path(rollout.text).unlink()
            except FileNotFoundError:
                pass
            else:
                os._exit(1)
        return super().score(rollout)


class Counting(Constant):
    """Tells how often it was asked, and a checksum of what it got."""

    name = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.num_asked = 0

    def score(self, rollout: Rollout) -> Score:
        self.num_asked += 1
        sum_of_depth = float(np.sum(rollout.depth, dtype=np.float64))
        components = {"num_asked": self.num_asked, "sum_of_depth": sum_of_depth}
        return Score(value=1.0, components=components, scorer_version=self.version)


class Lucky(Constant):
    """Needs a package that only its own processes have."""

    name = "lucky"

    def __init__(self) -> None:
        from phys4d_test_lucky_number import number  # pyright: ignore[reportMissingImports]

        super().__init__(value=float(number))
