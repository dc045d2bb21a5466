"""Presets and flags build configurations; whatever is wrong is refused in one line that helps."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phys4d.runtime import config
from phys4d.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How videos are sampled."""

    num_steps: int
    """Sampling steps; no default."""
    group_size: int = 8
    """Videos per prompt."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {self.group_size}")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Everything."""

    rollout: Rollout = Rollout(num_steps=10)
    out: Path = Path("runs/x")
    learning_rate: float = 1e-4
    families: tuple[str, ...] = ("drop", "ramp")
    size: tuple[int, int] = (64, 64)
    mode: Literal["group", "batch"] = "group"
    limit: int | None = None
    noise: float | None = 0.7
    note: str = ""
    bf16: bool = False


def write(folder: Path, text: str, name: str = "tiny.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_flags_win_over_the_preset_and_the_preset_over_defaults(tmp_path: Path) -> None:
    preset = write(tmp_path, 'note = "a"\nlearning_rate = 1\n[rollout]\ngroup_size = 4\n')
    built = config.load(Train, preset, ["--note", "b", "--rollout.num-steps", "3"])
    assert built == Train(note="b", learning_rate=1.0, rollout=Rollout(num_steps=3, group_size=4))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Names and values."""

    of: dict[str, float] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    single: str = ""

    def __post_init__(self) -> None:
        if self.single and self.of:
            raise ValueError(f"give either single or of, got {self.single!r} and {self.of}")
        for name in self.files:
            if name not in self.of:
                raise ValueError(f"files names {name}, which is not in of")


@dataclass(frozen=True, kw_only=True)
class Job:
    """With a table in a table."""

    weights: Weights = Weights()
    seed: int = 0
    note: str = ""


def test_a_flag_replaces_the_names_and_values_of_a_preset_and_others_leave_them(tmp_path: Path) -> None:
    preset = write(tmp_path, '[weights.of]\n"" = 1\n"a.b:c" = 0.25\n')
    given = {"": 1.0, "a.b:c": 0.25}
    assert config.load(Job, preset, []).weights.of == given
    assert config.load(Job, preset, ["--seed", "3"]) == Job(weights=Weights(of=given), seed=3)
    for flags, expected in (
        (["--weights.of", "d", "2"], {"d": 2.0}),
        (["--weights.of", "", "1", "e", "3"], {"": 1.0, "e": 3.0}),
        (["--weights.of"], {}),
    ):
        assert config.load(Job, preset, flags).weights.of == expected
    assert config.load(Job, preset, ["--weights.of", "--weights.single", "x"]).weights.single == "x"
    # What one table says is checked with what the other has, and a value is no flag.
    assert config.load(Job, preset, ["--weights.files", "a.b:c", "f"]).weights.files == {"a.b:c": Path("f")}
    both = write(tmp_path, '[weights]\nof = {x = 1}\nfiles = {x = "f"}\n', "both.toml")
    assert config.load(Job, both, ["--weights.of", "x", "2"]).weights == Weights(
        of={"x": 2.0}, files={"x": Path("f")}
    )
    with pytest.raises(UserError, match="files names x, which is not in of"):
        config.load(Job, both, ["--weights.of", "y", "2"])
    assert config.load(Job, preset, ["--weights.of", "weights.of", "2"]).weights.of == {"weights.of": 2.0}
    assert config.load(Job, preset, ["--note", "weights.of"]).weights.of == given
    with pytest.raises(UserError, match=r"give either single or of, got 'x' and \{'': 1.0"):
        config.load(Job, preset, ["--weights.single", "x"])


def test_a_sparse_table_keeps_the_other_fields_of_the_nested_default(tmp_path: Path) -> None:
    built = config.load(Train, write(tmp_path, "[rollout]\ngroup_size = 4\n"), [])
    assert built.rollout == Rollout(num_steps=10, group_size=4)


def test_a_field_without_default_must_be_in_the_preset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'num_steps' has no default and is missing in"):
        config.load(Rollout, write(tmp_path, "group_size = 4"), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rolout]\ngroup_size = 4", r"unknown key 'rolout' in .*tiny.toml; did you mean 'rollout'\?"),
        ("[rollout]\ngroupsize = 4", r"unknown key 'rollout.groupsize' in .*; did you mean 'group_size'\?"),
        ("rollout = 3", "rollout in .* must be a table, got 3"),
        ("[rollout]\ngroup_size = 1", r"\[rollout\] of .*: group_size must be at least 2, got 1"),
        ('learning_rate = "fast"', "learning_rate in .* must be float, got 'fast'"),
        ("bf16 = 1", "bf16 in .* must be bool, got 1"),
        ("[rollout]\ngroup_size = 4.5", "rollout.group_size in .* must be int, got 4.5"),
        ('mode = "grup"', "mode in .* must be one of 'group', 'batch', got 'grup'"),
        ("size = [64]", r"size in .* must be tuple\[int, int\], got \[64\]"),
        ("families = [1]", r"families in .* \[0\] must be str, got 1"),
        ("note = x\n", "tiny.toml is no TOML: .*line 1"),
    ],
)
def test_a_bad_preset_is_refused_with_name_value_and_rule(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.load(Train, write(tmp_path, text), [])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--rolout.group-size", "4"],
            r"unknown option '--rolout.group-size'; did you mean '--rollout.group-size'",
        ),
        (["--rollout.group-size", "1"], "group_size must be at least 2, got 1"),
        (["--learning-rate", "fast"], "fast"),
        (["--mode", "grup"], "invalid choice 'grup'"),
        (["stray"], "unknown option 'stray'"),
    ],
)
def test_a_bad_flag_is_refused_in_one_line(args: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        config.load(Train, None, args)
    assert "\n" not in str(refusal.value)
    assert "│" not in str(refusal.value)


def test_a_missing_preset_is_refused_with_the_closest_name(tmp_path: Path) -> None:
    write(tmp_path, "", "tiny-wan.toml")
    with pytest.raises(UserError, match="no preset 'tiny_wan'; did you mean 'tiny-wan'"):
        config.load_preset(Train, tmp_path, default="tiny_wan", args=[])


@pytest.mark.parametrize("args", [["--preset", "big"], ["--preset=big"], ["--note", "n", "--preset", "big"]])
def test_a_preset_is_chosen_by_name(tmp_path: Path, args: list[str]) -> None:
    write(tmp_path, "limit = 1", "tiny.toml")
    write(tmp_path, "limit = 2", "big.toml")
    built, name = config.load_preset(Train, tmp_path, default="tiny", args=args)
    assert (built.limit, name) == (2, "big")


def test_a_preset_is_chosen_by_file(tmp_path: Path) -> None:
    built, name = config.load_preset(
        Train, tmp_path, default="x", args=["--preset", str(write(tmp_path, "limit=3"))]
    )
    assert (built.limit, name) == (3, "tiny")


words = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    note=words,
    out=words.filter(lambda text: "\0" not in text),
    families=st.lists(words).map(tuple),
    learning_rate=st.floats(allow_nan=False),
    limit=st.none() | st.integers(-(2**63), 2**63 - 1),
    noise=st.none() | st.floats(allow_nan=False),
)
def test_toml_reads_back_to_an_equal_configuration(
    tmp_path_factory: pytest.TempPathFactory, **values: object
) -> None:
    values["out"] = Path(str(values["out"]))
    before = Train(rollout=Rollout(num_steps=4, group_size=3), **values)  # pyright: ignore[reportArgumentType]
    path = write(tmp_path_factory.mktemp("toml"), config.to_toml(before))
    assert config.load(Train, path, []) == before


PROGRAM = """
import sys
from dataclasses import dataclass, field
from phys4d.runtime.config import load
from phys4d.runtime.errors import run_main

@dataclass(frozen=True, kw_only=True)
class Config:
    group_size: int = 8

def main():
    config = load(Config)
    assert "torch" not in sys.modules
    print(config.group_size)

run_main(main)
"""


def run_program(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, timeout=60)


def test_a_program_refuses_a_bad_flag_with_exit_code_2_and_one_line() -> None:
    done = run_program("--group-sise", "4")
    assert done.returncode == 2
    assert done.stderr == "error: unknown option '--group-sise'; did you mean '--group-size'?\n"


def test_help_answers_at_once() -> None:
    """5 s is ten times what it takes on an idle machine; importing torch alone would take about as long."""
    start = time.monotonic()
    done = run_program("--help")
    assert done.returncode == 0 and "--group-size INT" in done.stdout
    assert time.monotonic() - start < 5.0
