"""The colour tracker on painted discs."""

import numpy as np

from phys4d.metrics.tracking import colour_masks, constant_velocity, track_colours, trajectory_errors


def discs(centres: np.ndarray, radius: float = 6.0, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Red and blue discs on a grey texture: video (T, H, W, 3) and ids of frame 0. `centres` is (T, 2, 2)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] + 0.5
    texture = rng.integers(90, 170, (size, size, 1), dtype=np.uint8).repeat(3, -1)
    video, ids = [], np.zeros((size, size), np.uint8)
    for t, frame_centres in enumerate(centres):
        frame = texture.copy()
        for o, (centre, colour) in enumerate(zip(frame_centres, ([220, 40, 40], [40, 60, 220]), strict=True)):
            inside = np.hypot(columns - centre[0], rows - centre[1]) < radius
            frame[inside] = colour
            if t == 0:
                ids[inside] = o + 1
        video.append(frame)
    return np.stack(video), ids


def moving_centres() -> np.ndarray:
    t = np.arange(5)[:, None, None]
    return np.array([[15.3, 20.0], [45.0, 40.7]]) + t * np.array([[4.0, 2.5], [-3.5, 0.0]])


def test_centroids_of_moving_discs_are_found_to_a_quarter_pixel() -> None:
    centres = moving_centres()
    assert np.abs(track_colours(*discs(centres)) - centres).max() < 0.25


def test_an_object_that_vanished_is_nan_and_counts_as_lost() -> None:
    centres = moving_centres()
    video, ids = discs(centres)
    gone = centres.copy()
    gone[3:, 0] = -100.0
    tracks = track_colours(discs(gone)[0], ids)
    assert np.isnan(tracks[3:, 0]).all() and np.isfinite(tracks[:, 1]).all()
    errors = trajectory_errors(tracks, track_colours(video, ids), lost_px=32.0)
    assert (errors[3:, 0] == 32.0).all() and errors[:, 1].max() < 0.1


def test_constant_velocity_is_exact_for_straight_lines() -> None:
    centres = moving_centres()
    np.testing.assert_allclose(constant_velocity(centres), centres)


def test_a_first_frame_without_objects_has_no_tracks() -> None:
    video, ids = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    assert track_colours(video, ids).shape == (2, 0, 2)
    assert colour_masks(video, ids).shape == (2, 8, 8, 0)


def test_masks_by_colour_are_the_discs() -> None:
    video, ids = discs(moving_centres())
    masks = colour_masks(video, ids)
    assert masks.shape == (5, 64, 64, 2)
    for o in (0, 1):
        assert (masks[0, ..., o] == (ids == o + 1)).all()
        assert np.ptp(masks[..., o].sum((1, 2))) < 12, "a disc keeps its area as it moves"
