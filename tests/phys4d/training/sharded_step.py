"""Gradients of an adapter on a frozen tiny Wan and what heads read, as a program: `sharded_step.py FILE`.

Under accelerate's FSDP setting and several processes the frozen weights are split among them.
"""

import sys

import torch
from torch.distributed.tensor import DTensor

from phys4d.models.heads import GeometryHeads
from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.reading import read_with_heads
from phys4d.models.registry import tiny_model
from phys4d.training.ranks import Ranks

torch.manual_seed(0)
ranks = Ranks.current("cpu")
model = tiny_model("tiny-wan", ["a ball"], width=32, num_layers=2).eval()
torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
adapter = add_lora(model.transformer, "sft", rank=2, targets=model.lora_targets)
for parameter in adapter:
    torch.nn.init.normal_(parameter, std=0.3)
ranks.shard_frozen(model.transformer, model.blocks)
frozen = [p for p in model.transformer.parameters() if not p.requires_grad]
assert all(isinstance(p, DTensor) == ranks.shards for p in frozen), "frozen weights are split, all or none"
assert not any(isinstance(p, DTensor) for p in adapter), "adapters stay whole"
for _ in range(2):
    generator = torch.Generator().manual_seed(1)
    conditioning = Conditioning(model.encode_text(["a ball"]), torch.randn(1, 16, 8, 8, generator=generator))
    latents = torch.randn(1, 16, 3, 8, 8, generator=generator)
    prediction = model.predict(latents, torch.tensor([0.5]), conditioning, features=True)
    loss = prediction.velocity_BCThw.square().mean() + prediction.features[0].square().mean()
    gradients = torch.autograd.grad(loss, adapter)
heads = GeometryHeads(**model.head_sizes, channels=16)
torch.nn.init.normal_(heads.to_output.weight, std=0.1)
# Two batches, which two threads would take beside each other.
torch.set_num_threads(2)
videos = latents.expand(4, -1, -1, -1, -1)
read = read_with_heads(model, heads, videos, conditioning.repeat(4), batch_size=2)
if ranks.is_main:
    torch.save((*gradients, read.depth_BTHW), sys.argv[1])
ranks.wait()
