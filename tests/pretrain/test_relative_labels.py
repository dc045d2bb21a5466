"""Stage 1 on relative depth, whose labels say nothing about metres."""

from pathlib import Path

import numpy as np
import torch

from phys4d.metrics.held_out import HeldOut
from phys4d.models.heads import GeometryHeads
from phys4d.models.pseudo_labels import PseudoLabels
from phys4d.models.registry import tiny_model
from phys4d.runtime.metrics import read_metrics
from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.training import StageRun
from phys4d.types import Camera
from pretrain.config import StageOneConfig
from pretrain.train import Lesson, train_heads


def test_heads_learn_relative_depth_and_flow_but_no_depth_change(tmp_path: Path) -> None:
    """The heads' last layer starts at 0, so what is never asked for stays 0."""
    torch.manual_seed(0)
    model = tiny_model("tiny-wan", ["a ball"], width=32, num_layers=3).eval().requires_grad_(False)
    heads = GeometryHeads(**model.head_sizes, channels=16)
    shape = (4, 3, 32, 32)
    rgb = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    motion = torch.zeros(4, 2, 32, 32, 3)
    motion[..., 0] = 2.0
    labels = PseudoLabels(5.0 + 3.0 * torch.rand(shape), motion, torch.ones(4, 2, 32, 32).bool(), "inverse")
    camera = Camera(fx=32.0, fy=32.0, cx=16.0, cy=16.0, width=32, height=32, camera_from_world=np.eye(4))
    held_out = HeldOut(
        keys=["a"],
        fps=12.0,
        captions=["a ball"],
        cameras=[camera],
        rgb=rgb[:1].numpy(),
        depth=2.0 + torch.rand(1, 3, 32, 32).numpy(),
        motion=motion[:1].numpy(),
        object_ids=np.ones((1, 3, 32, 32), np.uint8),
        visible=np.ones((1, 2, 32, 32), bool),
    )
    config = StageOneConfig(
        num_videos=4, heads=OptimiserConfig(num_steps=12, batch_size=4, learning_rate=0.01, warmup_steps=2)
    )
    with StageRun.open(tmp_path, "kind = 'relative'\n") as run:
        lesson = Lesson(config, labels, rgb, ["a ball"] * 4, held_out, run)
        train_heads(model, heads, lesson, desc="stage 1", prefix="")
    rows = read_metrics(tmp_path / "metrics.jsonl")
    losses = [row for row in rows if "depth_gradient" in row]
    assert all(np.isfinite(list(row.values())).all() for row in losses)
    assert losses[-1]["motion"] < 0.9 * losses[0]["motion"]
    flow = heads.to_output.weight.view(4, 4, -1).abs().sum((1, 2))
    assert flow[0] > 0 and flow[1] > 0 and flow[3] == 0
