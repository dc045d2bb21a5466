"""The Dockerfiles, as far as they can be checked without building them.

    python -m deploy.images        # the pip installs of every image in clean environments; minutes, gigabytes

`make deploy-check` reads the files only.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from phys4d.runtime.errors import run_main
from phys4d.runtime.progress import progress

ROOT = Path(__file__).parents[1]
IMAGES = {
    "reward.Dockerfile": (
        "reward_service.plain",
        "reward_service.serve",
        "reward_service.health",
        "phys4d.scenes.render",
    ),
    "train.Dockerfile": (
        "policy.train",
        "policy.evaluate",
        "pretrain.base",
        "pretrain.train",
        "sft.train",
        "phys4d.report",
    ),
}
"""Programs that each image must start."""
ABSENT = {
    "reward.Dockerfile": ("diffusers", "trl", "peft", "accelerate", "transformers"),
    "train.Dockerfile": ("ray", "mujoco"),
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


def check(name: str) -> int:
    """Rules on a Dockerfile. Returns the number of instructions.

    Raises:
        ValueError: one is broken.
    """
    instructions = read(ROOT / "deploy" / name)
    faults = []
    for instruction in instructions:
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
    last: dict[str, Instruction] = {i.word: i for i in instructions if i.stage not in ("build", "build-gpu")}
    if last["USER"].rest.partition(":")[0] in ("", "0", "root") or not last["USER"].rest[0].isdigit():
        faults.append(f"USER {last['USER'].rest}: Kubernetes checks runAsNonRoot on numbers only")
    for word in ("HEALTHCHECK", "CMD"):
        if word not in last:
            faults.append(f"no {word}")
    command = json.loads(last["CMD"].rest)
    if command[2] not in IMAGES[name]:
        faults.append(f"CMD starts {command[2]}, which is none of {', '.join(IMAGES[name])}")
    if faults:
        raise ValueError(f"{name}: {'; '.join(faults)}")
    return len(instructions)


def install(name: str, folder: Path, *, with_gpu: bool) -> None:
    """Do what the build stages do, in a clean environment, then start the programs.

    Raises:
        ValueError: a step fails, a program does not start, or the image holds what it must not.
    """
    python = folder / "venv" / "bin" / "python"
    source = folder / "src"
    source.mkdir()
    stages = ("build", "build-gpu") if with_gpu else ("build",)
    steps = [i for i in read(ROOT / "deploy" / name) if i.stage in stages and i.word in ("RUN", "COPY")]
    for step in progress(steps, desc=f"{name}", unit="step"):
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
    for module in IMAGES[name]:
        _run([str(python), "-m", module, "--help"], folder)
    for module in ABSENT[name]:
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is not None)"
        if subprocess.run([str(python), "-c", code], cwd=folder).returncode != 0:
            raise ValueError(f"{name}: {module} is installed, and must not be")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise ValueError(f"{' '.join(command[1:5])} ends with {done.returncode}: {' | '.join(tail)}")


def main() -> None:
    """Install both images' environments, one after the other; `--gpu` with torch for the scorers."""
    for name in IMAGES:
        check(name)
        with tempfile.TemporaryDirectory(prefix="phys4d-image-") as folder:
            install(name, Path(folder), with_gpu="--gpu" in sys.argv[1:])
        print(
            f"ok  {name}: every pip step and {len(IMAGES[name])} programs in a clean environment", flush=True
        )


if __name__ == "__main__":
    run_main(main)
