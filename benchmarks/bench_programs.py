"""How long users wait for `--help` and for imports, and what these imports take in memory.

Programs parse their flags before they import torch; the peer of each is a program that does not.
"""

import importlib.metadata
from functools import partial

from benchmarks.children import memory, seconds
from benchmarks.registry import Work, compare

TORCH = f"python -c 'import torch', torch {importlib.metadata.version('torch')}"
GRPC = f"python -c 'import grpc, numpy', grpcio {importlib.metadata.version('grpcio')}"
MUJOCO = f"python -c 'import mujoco, scipy.spatial', mujoco {importlib.metadata.version('mujoco-core')}"

PROGRAMS = ("pretrain.train", "sft.train", "policy.train", "policy.evaluate", "phys4d.scenes.render")
SERVERS = ("reward_service.serve", "reward_service.plain")
IMPORTS = {
    "phys4d.reward.client": ("import grpc, numpy", GRPC),
    "phys4d.metrics.chamfer": ("import mujoco, scipy.spatial", MUJOCO),
    "reward_service.scoring": ("import mujoco, scipy.spatial", MUJOCO),
}
"""Module, and a peer that imports what others would need for the same."""


def _help(program: str) -> tuple[Work, Work]:
    return partial(seconds, "-m", program, "--help"), partial(seconds, "-c", "import torch")


def _import_time(module: str, peer: str) -> tuple[Work, Work]:
    return partial(seconds, "-c", f"import {module}"), partial(seconds, "-c", peer)


def _import_memory(module: str, peer: str) -> tuple[Work, Work]:
    return partial(memory, f"import {module}"), partial(memory, peer)


for _program in (*PROGRAMS, *SERVERS):
    compare(f"{_program} --help", peer=TORCH)(partial(_help, _program))
for _module, (_code, _peer) in IMPORTS.items():
    compare(f"import {_module}", peer=_peer)(partial(_import_time, _module, _code))
    compare(f"memory of import {_module}", peer=_peer, unit="bytes")(partial(_import_memory, _module, _code))
