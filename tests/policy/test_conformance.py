"""The recorded vectors of the reference implementations."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from policy.conformance import (
    TOLERANCE,
    case_families,
    check_cases,
    closed_form_tensor,
    deviation,
    main,
    recompute,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "sampler.json"


@pytest.fixture
def cases() -> dict[str, Any]:
    return json.loads(VECTORS.read_text())


def test_inputs_follow_their_closed_form() -> None:
    """1.3 sin(0.7 k + 0.3 k) first: 1.3 sin(1) for k = 1."""
    tensor = closed_form_tensor((2, 4, 8, 8), 1.0)
    assert tensor.flatten()[0].item() == pytest.approx(1.0939123, abs=1e-6)


def test_all_vectors_are_reproduced(cases: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    result = check_cases(cases)
    assert result.num_cases == 12
    assert result.std < 1e-6
    assert result.mean < 1e-6
    assert result.log_prob < TOLERANCE
    assert main([str(VECTORS)]) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert output.startswith("ok: 12 cases")


def test_every_position_of_every_family_can_be_recomputed() -> None:
    families = case_families()
    for name, family in families.items():
        for i in (0, family.schedule.num_steps // 2, family.schedule.num_steps - 1):
            assert {"S", "mu0", "lp"} <= recompute(f"{name}_{i}", families).keys()


@pytest.mark.parametrize(
    ("key", "field"),
    [("flow_sd3_1", "S"), ("cog_1", "mu0"), ("wan_19", "lp"), ("flow_sd3_0", "cps_lp"), ("ddpo_0", "t")],
)
def test_a_deviation_of_any_value_fails(
    cases: dict[str, Any], key: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = copy.deepcopy(cases)
    value = changed[key][field]
    changed[key][field] = [v + 2e-5 for v in value] if isinstance(value, list) else value + 0.02
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(changed))
    assert main([str(path)]) == 1
    assert capsys.readouterr().out.startswith("FAILED: 12 cases")


def test_only_log_probs_above_1_in_size_are_compared_in_proportion(cases: dict[str, Any]) -> None:
    """2e-5 off a value of any size, or off a log-prob of .5, is too far; off a log-prob of -20 it is not."""
    assert deviation(-20.00002, -20.0) == pytest.approx(2e-5, rel=1e-6)
    assert deviation(-20.00002, -20.0, relative_above_1=True) == pytest.approx(1e-6, rel=1e-6)
    assert deviation([0.5, -0.49998], [0.5, -0.5], relative_above_1=True) == pytest.approx(2e-5, rel=1e-6)
    moved = check_cases({"wan_19": {"t": cases["wan_19"]["t"] + 1e-3}})
    assert moved.grid == pytest.approx(1e-3, rel=1e-6), "of 211, which it would be 5e-6 of"
    assert max(abs(value) for value in cases["ddpo_49"]["lp"]) > 10
    moved = check_cases({"ddpo_49": {"lp": [value * (1 + 5e-5) for value in cases["ddpo_49"]["lp"]]}})
    assert moved.log_prob == pytest.approx(5e-5, rel=0.3) and moved.log_prob > TOLERANCE


def test_a_file_that_cannot_be_checked_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text, message in (
        ("unknown", '{"heun_3": {"S": 1.0}}', "unknown case 'heun_3'"),
        ("outside", '{"cog_50": {"S": 1.0}}', "position must be in [0, 50)"),
        ("field", '{"cog_1": {"entropy": 1.0}}', "records 'entropy'"),
        ("empty", '{"about": "nothing"}', "no case"),
        ("empty case", '{"cog_1": {}}', "case cog_1 records nothing"),
        ("null", '{"cog_1": {"S": null}}', "S of case cog_1 must be numbers, got None"),
        ("text", '{"cog_1": {"lp": ["1"]}}', "lp of case cog_1 must be numbers"),
        ("broken", "{", "Expecting property name"),
        ("list", "[]", "must be an object"),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        assert main([str(path)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main([str(tmp_path / "missing.json")]) == 2
