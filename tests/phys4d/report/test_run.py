"""A run folder is read as it is, repeated sessions included."""

from phys4d.report.run import Measurement, Stage


def test_the_last_session_of_a_repeated_run_stands() -> None:
    """The second session starts again at step 1, so what the first logged from there on is replaced."""
    rows = [{"step": s, "loss": v} for s, v in [(0, 9.0), (1, 8.0), (2, 7.0), (1, 1.0), (3, 2.0)]]
    assert Stage(name="stage2", rows=rows).points("loss") == [(0.0, 9.0), (1.0, 1.0), (3.0, 2.0)]


def test_two_phases_in_one_file_keep_their_own_steps() -> None:
    rows = [
        {"step": 0, "autoencoder_loss": 1.0},
        {"step": 5, "autoencoder_loss": 0.5},
        {"step": 0, "base_loss": 2.0},
    ]
    stage = Stage(name="base", rows=rows)
    assert stage.points("autoencoder_loss") == [(0.0, 1.0), (5.0, 0.5)]
    assert stage.points("base_loss") == [(0.0, 2.0)]


def test_spread_is_the_sample_standard_deviation_over_seeds() -> None:
    """Of 1, 2, 3 it is 1."""
    values = {
        "stage": "base",
        "reader": "heads",
        "metric": "m",
        "unit": "",
        "num_scenes": 1,
        "higher_is_better": True,
    }
    assert Measurement(**values, mean=2.0, seeds=(1.0, 2.0, 3.0)).spread == 1.0
    assert Measurement(**values, mean=2.0, seeds=(2.0,)).spread is None
