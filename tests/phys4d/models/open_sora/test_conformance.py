"""The recorded numbers of the published classes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from phys4d.models.open_sora.conformance import TOLERANCE, check, main

VECTORS = Path(__file__).parents[3] / "vectors"


def read(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / name).read_text())


@pytest.mark.parametrize(
    ("name", "compared"),
    [
        ("stdit3.json", ["plain", "masked"]),
        ("open_sora_vae.json", ["encode", "decode", "layout of 267 tensors"]),
        ("stdit3_keys.json", ["layout of 973 tensors"]),
    ],
)
def test_published_numbers_and_layouts_are_reproduced(
    name: str, compared: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(VECTORS / name)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*compared, "ok"]
    assert lines[-1].startswith("ok: largest relative deviation")


def test_agreement_is_far_inside_the_tolerance() -> None:
    """float32 sums in another order: 1e-5 of a value, 1e-4 where values cancel."""
    for name in ("stdit3.json", "open_sora_vae.json"):
        assert max(result.deviation for result in check(read(name))) < 1e-4 < TOLERANCE


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("stdit3.json", ("plain", "mean")),
        ("stdit3.json", ("masked", "last8", 3)),
        ("stdit3.json", ("masked", "std")),
        ("open_sora_vae.json", ("case", "encode_mode", "first8", 0)),
        ("open_sora_vae.json", ("case", "decode", "abs_mean")),
    ],
)
def test_a_value_that_is_off_by_a_few_thousandths_fails(
    name: str, path: tuple[str | int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = read(name)
    case = vectors
    for key in path[:-1]:
        case = case[key]
    case[path[-1]] *= 1.003
    (tmp_path / "changed.json").write_text(json.dumps(vectors))
    assert main([str(tmp_path / "changed.json")]) == 1
    assert "FAILED: largest relative deviation 2.99e-03" in capsys.readouterr().out


def test_another_layout_or_shape_fails_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, vae, plain = read("stdit3_keys.json"), read("open_sora_vae.json"), read("stdit3.json")
    keys["keys"]["rope.freqs"] = [32]
    vae["case"]["decode"]["shape"][2] = 12
    counted = copy.deepcopy(plain)
    counted["plain"]["trainable"] = 122
    for vectors, message in (
        (keys, "rope.freqs is published with shape [32], here [36]"),
        (vae, "decode: inf"),
        (counted, "122 weights train in the published class, 121 here"),
    ):
        (tmp_path / "changed.json").write_text(json.dumps(vectors))
        assert main([str(tmp_path / "changed.json")]) == 1
        assert message in capsys.readouterr().out


def test_a_file_that_cannot_be_checked_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, message in (
        ("{", "Expecting property name"),
        ("[]", "must be an object"),
        ('{"about": "nothing"}', "it is not of Open-Sora"),
        ('{"case": {"filters": 32}}', "lacks something"),
        ('{"plain": {"config": {"width": 3}}}', "lacks something"),
    ):
        (tmp_path / "bad.json").write_text(text)
        assert main([str(tmp_path / "bad.json")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main([str(tmp_path / "missing.json")]) == 2
    assert main([]) == 2
