import pytest

from phys4d.reward.plugin import DataError, load_reward


def test_a_reward_is_made_from_its_name_and_literal_options() -> None:
    assert load_reward("examples.motion_smoothness:MotionSmoothness").name == "motion_smoothness"
    reward = load_reward("examples.motion_smoothness:MotionSmoothness(scale_px=0.25)")
    assert reward.scale_px == 0.25  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("examples.motion_smoothness", "package.module:Class"),
        ("examples.no_such:Thing", "No module named"),
        ("examples.motion_smoothness:Nothing", "has no class Nothing"),
        ("examples.motion_smoothness:MotionSmoothness(scale=1)", "unexpected keyword argument 'scale'"),
        ("examples.motion_smoothness:MotionSmoothness(scale_px=-1)", "positive pixels"),
        ("examples.motion_smoothness:MotionSmoothness(scale_px=__import__('os').getpid())", "option=literal"),
        ("examples.motion_smoothness:MotionSmoothness(1.0)", "option=literal"),
        ("examples.motion_smoothness:Motion Smoothness", "option=literal"),
        ("pathlib:Path", "lacks name, version or score"),
    ],
)
def test_a_bad_target_is_refused_with_the_reason(target: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        load_reward(target)


def test_a_data_error_tells_reason_and_message() -> None:
    assert str(DataError("EMPTY", "nothing to see")) == "EMPTY: nothing to see"
