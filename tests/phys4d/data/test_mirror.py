"""Mirror images of samples."""

import numpy as np

from phys4d.data.mirror import mirrored_caption, with_mirror_images


def test_left_and_right_change_places_in_a_caption_and_parts_of_words_stay() -> None:
    assert mirrored_caption("a left ball, bright, to the right") == "a right ball, bright, to the left"


def test_a_mirrored_point_moves_to_the_mirrored_place() -> None:
    """A point at column 1 that moves 2 to the right and 1 down, in an image 5 wide."""
    ids, motion = np.zeros((1, 2, 3, 5), np.uint8), np.zeros((1, 1, 3, 5, 3), np.float32)
    ids[0, 0, 0, 1] = ids[0, 1, 1, 3] = 1
    motion[0, 0, 0, 1] = 2.0, 1.0, 0.5
    ids = with_mirror_images("object_ids", ids)
    motion = with_mirror_images("motion", motion)
    for video in range(2):
        y, x = np.argwhere(ids[video, 0])[0]
        u, v, dz = motion[video, 0, y, x]
        assert ids[video, 1, int(y + v), int(x + u)] == 1
        assert dz == 0.5
    assert len(ids) == len(motion) == 2
