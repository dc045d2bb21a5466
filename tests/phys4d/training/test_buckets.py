"""Samples of several shapes: a batch has one, and an epoch has all."""

import pytest
import torch

from phys4d.training.buckets import Buckets
from phys4d.training.loop import batches


def test_batches_hold_one_shape_and_an_epoch_every_sample() -> None:
    buckets = Buckets([torch.arange(8).view(8, 1).float(), 100.0 + torch.arange(4).view(4, 1).repeat(1, 3)])
    drawn = list(batches(len(buckets), 4, 6, seed=0, shapes=buckets.shapes))
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    for indices in drawn:
        values = buckets[indices]
        expected = indices.float() if values.shape[1] == 1 else 100.0 + indices.float() - 8
        assert torch.equal(values[:, 0], expected)
    assert [d.tolist() for d in drawn] == [d.tolist() for d in batches(12, 4, 6, 0, buckets.shapes)]


def test_a_shape_that_fills_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 samples of shape \(2,\) do not fill a batch of 4"):
        next(batches(9, 4, 1, 0, [(1,)] * 6 + [(2,)] * 3))
