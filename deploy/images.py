"""The Dockerfiles, as far as they can be checked without building them.

    python -m deploy.images            # every image: its pip installs in a clean environment, then a trial
    python -m deploy.images train      # one of them
    python -m deploy.images reward-gpu # the one with torch for scorers, left out otherwise

Takes minutes and gigabytes; `make deploy-check` reads the files only.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from phys4d.runtime.errors import run_main
from phys4d.runtime.progress import progress
from reward_service.ready import free_port

ROOT = Path(__file__).parents[1]
TRAINING = ("diffusers", "trl", "peft", "accelerate", "transformers")
START_TIMEOUT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Image:
    """A target of a Dockerfile, and what it must do."""

    dockerfile: str
    target: str
    programs: tuple[str, ...]
    """Modules that start in it."""
    absent: tuple[str, ...]
    """Packages that it must not hold."""
    trial: str = ""
    """Module and flags that must end well in it; empty starts its CMD and asks its HEALTHCHECK."""


REWARD_PROGRAMS = ("reward_service.plain", "reward_service.serve", "reward_service.health")
IMAGES = {
    "reward-cpu": Image(
        dockerfile="reward.Dockerfile",
        target="cpu",
        programs=REWARD_PROGRAMS,
        absent=(*TRAINING, "torch", "mujoco_warp"),
    ),
    "reward-gpu": Image(
        dockerfile="reward.Dockerfile",
        target="gpu",
        programs=REWARD_PROGRAMS,
        absent=(*TRAINING, "mujoco_warp"),
    ),
    "data": Image(
        dockerfile="reward.Dockerfile",
        target="data",
        programs=("phys4d.scenes.render", "ray.scripts.scripts"),
        absent=(*TRAINING, "torch"),
        trial="phys4d.scenes.render --out data --split trial --num-samples 1 --look plain --width 64 "
        "--height 48 --families drop --workers 1",
    ),
    "train": Image(
        dockerfile="train.Dockerfile",
        target="runtime",
        programs=(
            "policy.train",
            "policy.evaluate",
            "pretrain.base",
            "pretrain.train",
            "sft.train",
            "phys4d.report",
            "accelerate.commands.launch",
        ),
        absent=("ray", "mujoco"),
        trial="policy.train --preset tiny-wan --dry-run",
    ),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile."""

    word: str
    rest: str
    stage: str


def read(path: Path) -> list[Instruction]:
    """The instructions of a Dockerfile, continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    stage, found = "", []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        found.append(Instruction(word, rest.strip(), stage))
    return found


def layers(instructions: list[Instruction], stage: str) -> list[Instruction]:
    """The instructions of a stage, after those of the stages that it begins with."""
    own = [i for i in instructions if i.stage == stage]
    before = own[0].rest.split()[0]
    return (layers(instructions, before) if before in {i.stage for i in instructions} else []) + own


def _stages(image: Image) -> tuple[list[Instruction], dict[str, Instruction]]:
    """What builds the environment of an image, and the last instruction of each kind in the image itself."""
    instructions = read(ROOT / "deploy" / image.dockerfile)
    run_time = layers(instructions, image.target)
    (copied,) = {i.rest.split()[0] for i in run_time if i.rest.startswith("--from=")}
    return layers(instructions, copied.removeprefix("--from=")), {i.word: i for i in run_time}


def check(name: str) -> int:
    """Rules on the instructions of an image. Returns their number.

    Raises:
        ValueError: one is broken.
    """
    image, faults = IMAGES[name], []
    instructions = read(ROOT / "deploy" / image.dockerfile)
    built, last = _stages(image)
    checked = [i for i in instructions if not i.stage] + built + layers(instructions, image.target)
    for instruction in checked:
        word, rest = instruction.word, instruction.rest
        words = shlex.split(rest) if word in ("RUN", "COPY") else rest.split()
        if word == "ADD":
            faults.append("ADD fetches and unpacks unseen; COPY")
        if word == "COPY" and not words[0].startswith("--from"):
            faults += [
                f"COPY {path}: there is no such file" for path in words[:-1] if not (ROOT / path).exists()
            ]
        if word == "RUN" and "pip install" in rest and "-c constraints.txt" not in rest:
            faults.append(f"RUN {rest}: pip without -c constraints.txt")
        if word == "ARG" and rest.startswith("BASE=") and (":" not in rest or rest.endswith(":latest")):
            faults.append(f"ARG {rest}: name the version of the base")
    if last["USER"].rest.partition(":")[0] in ("", "0", "root") or not last["USER"].rest[0].isdigit():
        faults.append(f"USER {last['USER'].rest}: Kubernetes checks runAsNonRoot on numbers only")
    if "HEALTHCHECK" not in last or last["HEALTHCHECK"].rest.upper() == "NONE":
        faults.append("no HEALTHCHECK: nobody would tell whether the container is well")
    if "CMD" not in last:
        faults.append("no CMD")
    elif (command := json.loads(last["CMD"].rest))[2] not in image.programs:
        faults.append(f"CMD starts {command[2]}, which is none of {', '.join(image.programs)}")
    if faults:
        raise ValueError(f"{name} ({image.dockerfile}): {'; '.join(faults)}")
    return len(checked)


def install(name: str, folder: Path) -> None:
    """Do what the build stages do, in a clean environment, then start the programs and try them.

    Raises:
        ValueError: a step fails, a program does not start or work, or the image holds what it must not.
    """
    image = IMAGES[name]
    built, last = _stages(image)
    python = folder / "venv" / "bin" / "python"
    source = folder / "src"
    source.mkdir()
    steps = [i for i in built if i.word in ("RUN", "COPY")]
    for step in progress(steps, desc=name, unit="step"):
        words = shlex.split(step.rest)
        if step.word == "COPY":
            command = ["cp", "-r", *[str(ROOT / word) for word in words[:-1]], str(source / words[-1])]
            if len(words) == 2 and (ROOT / words[0]).is_dir():
                command = ["cp", "-rT", str(ROOT / words[0]), str(source / words[1])]
        elif words[:3] == ["python", "-m", "venv"]:
            command = [sys.executable, "-m", "venv", str(folder / "venv")]
        else:
            command = [str(python), "-m", *words]
        _run(command, source)
    for module in image.programs:
        _run([str(python), "-m", module, "--help"], folder)
    for module in image.absent:
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is not None)"
        if subprocess.run([str(python), "-c", code], cwd=folder, env=_environment()).returncode != 0:
            raise ValueError(f"{name}: {module} is installed, and must not be")
    if image.trial:
        _run([str(python), "-m", *image.trial.split()], folder)
    else:
        health = last["HEALTHCHECK"].rest.partition(" CMD ")[2]
        _serve(str(python), json.loads(last["CMD"].rest), json.loads(health), folder)


def _serve(python: str, command: list[str], health: list[str], folder: Path) -> None:
    """Start an image's server on ports of this machine, and ask its health check until it is well."""
    ports = {"0.0.0.0": "127.0.0.1", "9464": str(free_port()), "python": python}
    port = str(free_port())
    command = [*(ports.get(word, word) for word in command), "--port", port]
    asked = [*(ports.get(word, word) for word in health), "--endpoint", f"127.0.0.1:{port}"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=_environment(), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while subprocess.run(asked, cwd=folder, env=_environment(), capture_output=True).returncode != 0:
            if server.poll() is not None or time.monotonic() > deadline:
                tail = (folder / "server.log").read_text(errors="replace").strip().splitlines()[-3:]
                raise ValueError(f"{command[2]} is not well (exit {server.poll()}): {' | '.join(tail)}")
            time.sleep(1.0)
    finally:
        server.terminate()
        server.wait(60)


def _environment() -> dict[str, str]:
    """This process's, without the folders that would stand in for what is not installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise ValueError(f"{' '.join(command[1:5])} ends with {done.returncode}: {' | '.join(tail)}")


def main() -> None:
    """Install and try the images named, or all that fit a machine without a GPU, one after the other."""
    names = sys.argv[1:] or [name for name in IMAGES if name != "reward-gpu"]
    for name in names:
        if name not in IMAGES:
            raise ValueError(f"no image {name!r}; there are {', '.join(IMAGES)}")
        check(name)
        with tempfile.TemporaryDirectory(prefix="phys4d-image-") as folder:
            install(name, Path(folder))
        image = IMAGES[name]
        tried = image.trial.partition(" ")[0] or "its server is well by its own health check"
        print(f"ok  {name}: every pip step, {len(image.programs)} programs, {tried}", flush=True)


if __name__ == "__main__":
    run_main(main)
