"""What a module loads, seen in a fresh interpreter; import-linter checks the same contracts statically."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING = {"accelerate", "diffusers", "peft", "transformers", "trl"}
SIMULATION = {"mujoco", "mujoco_warp", "ray", "warp"}
HEAVY = {*TRAINING, *SIMULATION, "torch", "torchvision", "matplotlib", "pandas", "tensorboard"}

LOADED = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_by(*modules: str) -> set[str]:
    """Top-level packages in `sys.modules` after importing `modules` and nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *modules], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("phys4d.types", HEAVY),
        ("phys4d.runtime.run", HEAVY),
        ("phys4d.runtime.config", HEAVY),
        ("phys4d.geometry", HEAVY),
        ("phys4d.data", HEAVY),
        ("phys4d.report", HEAVY),
        ("phys4d.reward.client", HEAVY),
        ("phys4d.scenes", TRAINING | {"torch", "ray", "warp"}),
        ("phys4d.metrics", TRAINING | {"ray", "mujoco"}),
        ("reward_service.servicer", TRAINING | {"torch"}),
        ("reward_service.serve", TRAINING),
        ("phys4d.models", SIMULATION),
        ("phys4d.models.describe", HEAVY),
        ("phys4d.training", SIMULATION),
        ("pretrain.base", HEAVY),
        ("pretrain.train", HEAVY),
        ("sft.train", HEAVY),
        ("policy.train", HEAVY),
        ("policy.best_of_n", HEAVY),
        ("policy.evaluate", HEAVY),
        ("policy.sample", HEAVY),
    ],
)
def test_importing_a_module_loads_nothing_it_must_not(module: str, unwanted: set[str]) -> None:
    assert not loaded_by(module) & unwanted


def test_programs_do_not_load_one_another() -> None:
    assert not loaded_by("policy.train") & {"reward_service", "sft", "pretrain"}
    assert not loaded_by("reward_service.serve") & {"policy", "sft", "pretrain"}


@pytest.mark.parametrize(
    "program",
    [
        "phys4d.metrics.physics_iq",
        "phys4d.models.describe",
        "phys4d.report",
        "phys4d.scenes.list",
        "phys4d.scenes.preview",
        "phys4d.scenes.render",
        "policy.best_of_n",
        "policy.evaluate",
        "policy.sample",
        "policy.train",
        "pretrain.base",
        "pretrain.train",
        "reward_service.plain",
        "reward_service.serve",
        "sft.train",
    ],
)
def test_help_answers_without_torch_or_ray(program: str) -> None:
    """`-X importtime` names every module that is loaded on the way to the help text.

    The renderer lists the scene families, which are made with MuJoCo; its import takes 0.1 s.
    """
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", program, "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage: " in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    allowed = {"mujoco"} if program.startswith("phys4d.scenes") else set()
    assert not loaded & (HEAVY - allowed)


def test_every_module_of_the_library_has_a_floor() -> None:
    """A package that no layer names would escape the contracts."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.replace(":", "|").split("|")}
    packages = [path.parent for path in (ROOT / "phys4d").glob("*/__init__.py")]
    modules = [path for path in (ROOT / "phys4d").glob("*.py") if path.name != "__init__.py"]
    there = {f"phys4d.{path.stem}" for path in [*packages, *modules]}
    assert there <= named, f"give these a floor in pyproject.toml: {sorted(there - named)}"
