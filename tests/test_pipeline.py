"""The main job in miniature: every program as a user runs it, with a real reward service."""

import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import policy.evaluate
import policy.sample
import policy.train
import pretrain.base
import pretrain.train
import sft.train
from phys4d.data import open_dataset
from phys4d.models import registry
from phys4d.models.lora import load_lora
from phys4d.models.lora_scope import least_level
from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.metrics import read_metrics
from policy.config import RewardConfig, TrainConfig
from policy.external import evaluate_videos
from policy.inference_config import EvaluateConfig, SampleConfig
from policy.physics_iq import encode_mp4
from policy.stages import load_stage
from pretrain.base_config import BaseConfig
from pretrain.config import StageOneConfig
from sft.config import StageTwoConfig
from tests.processes import ROOT, children, command_line, program, rank_environments, started, wait_for

pytestmark = pytest.mark.slow

SMALL_TRAINING = {
    "pretrain.base": "--width 32 --num-layers 3 --autoencoder.num-steps 4 --denoiser.num-steps 6 "
    "--denoiser.batch-size 4",
    "pretrain.train": "--num-videos 12 --estimator.num-steps 3 --heads.num-steps 4 --heads.batch-size 4 "
    "--head-channels 16",
    "sft.train": "--optimiser.num-steps 4 --optimiser.batch-size 4 --lora-rank 4",
}
STAGE3 = (
    "--algorithm.lora-rank 4 --rollout.num-prompts 2 --rollout.prompts-per-batch 1 --rollout.group-size 2 "
    "--rollout.num-steps 4 --rollout.window-end 3 --num-eval-prompts 2 --eval-every 2 --checkpoint-every 1 "
    "--keep-checkpoints 9"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a rendered dataset and stages up to 2."""
    folder = tmp_path_factory.mktemp("pipeline")
    for out, split, physics, number in (
        ("data/rigid-mixed", "train", "mixed", 12),
        ("data/rigid", "train", "true", 12),
        ("data/rigid", "val", "true", 5),
        ("data/rigid", "test", "true", 5),
    ):
        flags = f"--out {out} --split {split} --physics {physics} --num-samples {number} --workers 1"
        seed = {"train": 0, "val": 7000, "test": 8000}[split]
        program("phys4d.scenes.render", f"{flags} --look plain --height 48 --seed-start {seed}", folder)
    for module, flags in SMALL_TRAINING.items():
        program(module, flags, folder)
    return folder


@contextlib.contextmanager
def plain_service(folder: Path, flags: str = "") -> Iterator[str]:
    """A plain reward service, that has its files in a folder."""
    ready = folder / "endpoint"
    command = [sys.executable, "-m", "reward_service.plain", "--port", "0", "--ready-file", str(ready)]
    child = subprocess.Popen([*command, *shlex.split(flags)], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert child.poll() is None and time.monotonic() < deadline, "the plain reward service did not start"
        time.sleep(0.1)
    try:
        yield ready.read_text().strip()
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(20)


@pytest.fixture(scope="module")
def endpoint(trained: Path) -> Iterator[str]:
    """A plain reward service that stays up for the module."""
    with plain_service(trained) as endpoint:
        yield endpoint


def copy_run(folder: Path, name: str) -> str:
    """A second run that shares the stages before the third."""
    target = folder / "runs" / name
    target.mkdir()
    for part in ("base", "estimator", "stage1", "stage2"):
        (target / part).symlink_to(folder / "runs" / "tiny-wan" / part)
    return f"--run runs/{name}"


def test_all_stages_log_held_out_errors(trained: Path) -> None:
    for stage in ("stage1", "stage2"):
        rows = read_metrics(trained / "runs/tiny-wan" / stage / "metrics.jsonl")
        validated = [row["step"] for row in rows if "val_abs_rel" in row]
        assert validated[0] == 0 and len(validated) == 2


@pytest.fixture(scope="module")
def whole(trained: Path, endpoint: str) -> str:
    """Flags of a run of stage 3 that was never interrupted, six iterations long, with fewer checkpoints."""
    settings = STAGE3.replace("--checkpoint-every 1", "--checkpoint-every 2")
    flags = f"{copy_run(trained, 'whole')} --reward.endpoint {endpoint} {settings}"
    program("policy.train", f"{flags} --num-iterations 6", trained)
    return flags


def wait_for_step(child: "subprocess.Popen[str]", checkpoints: Path, step: int) -> None:
    deadline = time.monotonic() + 180
    while not (checkpoints / f"step-{step:06d}").is_dir():
        assert child.poll() is None and time.monotonic() < deadline, f"no checkpoint of step {step}"
        time.sleep(0.02)


def last_step(checkpoints: Path) -> int:
    return max(int(folder.name.removeprefix("step-")) for folder in checkpoints.glob("step-??????"))


def test_stage_3_goes_on_bit_for_bit_after_sigterm_sigkill_and_the_death_of_its_service(
    trained: Path, endpoint: str, whole: str
) -> None:
    """T17: six iterations are the same however they were interrupted, whichever service scored them, and
    however often a checkpoint was written."""
    flags = f"{copy_run(trained, 'parts')} {STAGE3} --reward.num-replicas 1"
    service = f"--reward.endpoint {endpoint}"
    checkpoints = trained / "runs/parts/stage3/checkpoints"
    asked = started("policy.train", f"{flags} {service} --num-iterations 500", trained)
    wait_for_step(asked, checkpoints, 1)
    asked.send_signal(signal.SIGTERM)
    said, _ = asked.communicate(timeout=120)
    first = last_step(checkpoints)
    assert asked.returncode == 128 + signal.SIGTERM, said
    assert f"stopped by SIGTERM after iteration {first} of stage 3" in said

    killed = started("policy.train", f"{flags} {service} --num-iterations 500", trained)
    wait_for_step(killed, checkpoints, first + 1)
    # Stopped, it keeps its folder and does no more until it is killed.
    killed.send_signal(signal.SIGSTOP)
    second = program("policy.train", f"{flags} {service} --num-iterations 6", trained, check=False)
    assert second.returncode == 2 and "is in use by another run (process" in second.stderr
    killed.kill()
    killed.communicate(timeout=60)
    second_step = last_step(checkpoints)
    assert second_step < 6, "too late to go on; the machine was busy"

    # The last part starts a service of its own, which is killed as soon as it is needed.
    served = started("policy.train", f"{flags} --num-iterations 6", trained)
    wait_for(served, f"resuming after iteration {second_step}")
    wait_for(served, "pre-flight ok: reward")
    (own,) = (pid for pid in children(served.pid) if b"reward_service" in command_line(pid))
    os.kill(own, signal.SIGKILL)
    said, _ = served.communicate(timeout=300)
    assert served.returncode == 0, said[-3000:]
    assert "the reward service ended (exit code -9)" in said and "is back" in said

    checkpoint = "stage3/checkpoints/step-000006/trainer.pt"
    one, other = (torch.load(trained / "runs" / r / checkpoint) for r in ("whole", "parts"))
    for name in ("parameters", "average"):
        assert all(torch.equal(a, b) for a, b in zip(one[name], other[name], strict=True)), name
    moved = [not torch.equal(a, torch.zeros_like(a)) for a in one["parameters"]]
    assert all(moved), "some adapter matrices never moved"
    noted = json.loads((trained / "runs/parts/stage3/checkpoints/step-000006/origin.json").read_text())
    assert noted["reward first"].startswith("scene_chamfer 1+")
    rows = read_metrics(trained / "runs/parts/stage3/metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(7))
    assert all(0 < row["reward_first"] <= 1 and row["failed_fraction"] == 0 for row in rows[:-1])
    assert rows[-2]["reward_outages"] >= 1
    assert all(0 < row["monitor_held_out_reward"] <= 1 for row in rows[::2])
    assert (trained / "runs/parts/stage3/lora/pytorch_lora_weights.safetensors").is_file()


def test_rollouts_under_way_at_a_kill_are_sent_again_under_the_same_ids_and_none_is_lost(
    trained: Path, tmp_path: Path
) -> None:
    """One step off-policy, with a service that remembers nothing: what it was sent is written down."""
    record = tmp_path / "record"
    flags = f"{STAGE3} --rollout.one-step-off-policy --num-iterations 8"

    def sent() -> dict[str, list[str]]:
        lines = [line.split() for line in record.read_text().splitlines()] if record.exists() else []
        found: dict[str, list[str]] = {}
        for sample_id, content in lines:
            if sample_id.startswith("iteration-"):
                found.setdefault(sample_id, []).append(content)
        return found

    reward = shlex.quote(f"tests.recording_reward:Recording(file={str(record)!r})")
    with plain_service(tmp_path, f"--no-scene-chamfer --cache-size 0 --rewards {reward}") as endpoint:
        whole = f"{copy_run(trained, 'recorded')} --reward.endpoint {endpoint} {flags}"
        program("policy.train", whole, trained)
        expected = sent()
        record.unlink()
        parts = f"{copy_run(trained, 'killed')} --reward.endpoint {endpoint} {flags}"
        killed = started("policy.train", parts, trained)
        deadline = time.monotonic() + 180
        try:
            while not any(sample_id.startswith("iteration-2/") for sample_id in sent()):
                assert killed.poll() is None and time.monotonic() < deadline, "iteration 2 was not sent"
                time.sleep(0.01)
        finally:
            killed.kill()
            killed.communicate(timeout=60)
        assert last_step(trained / "runs/killed/stage3/checkpoints") < 7, "too late; the machine was busy"
        said = program("policy.train", parts, trained).stdout
    assert "resuming after iteration" in said
    ids = {f"iteration-{i}/prompt-{p}/sibling-{s}" for i in range(8) for p in range(2) for s in range(2)}
    assert expected.keys() == ids and all(len(contents) == 1 for contents in expected.values())
    found = sent()
    assert found.keys() == ids, "none is lost"
    assert {name: set(contents) for name, contents in found.items()} == {
        name: set(contents) for name, contents in expected.items()
    }, "an id stands for one video, however often it is sent"
    assert any(len(contents) > 1 for contents in found.values()), "nothing was under way at the kill"
    for run in ("recorded", "killed"):
        rows = read_metrics(trained / f"runs/{run}/stage3/metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(9))
        assert all(row["failed_fraction"] == 0 for row in rows[:-1])
    checkpoint = "stage3/checkpoints/step-000008/trainer.pt"
    one, other = (torch.load(trained / "runs" / run / checkpoint) for run in ("recorded", "killed"))
    for name in ("parameters", "average", "old"):
        assert all(torch.equal(a, b) for a, b in zip(one[name], other[name], strict=True)), name
    assert any(matrix.any() for matrix in one["parameters"][1::2]), "nothing was learnt"


def test_an_alarm_stops_all_processes_of_a_run_with_a_report_and_they_had_learnt_what_one_does(
    trained: Path, endpoint: str, whole: str
) -> None:
    seldom = STAGE3.replace("--eval-every 2", "--eval-every 6")
    flags = f"{copy_run(trained, 'ranks')} --reward.endpoint {endpoint} {seldom} --num-iterations 8"
    flags += " --monitor.max-kl-joint-nats 1e-9"
    ranks = [started("policy.train", flags, trained, env) for env in rank_environments(2)]
    said = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], said
    stage = trained / "runs/ranks/stage3"
    assert last_step(stage / "checkpoints") == 6, "no iteration was trained after the alarm, none was lost"
    seen = r"alarm at iteration 6: kl_joint_nats is (\S+), allowed at most 1e-09 nats; look at \S+report.md"
    (value,) = {match[1] for text in said for match in re.finditer(seen, text)}
    report = (stage / "alarm/report.md").read_text()
    row = re.search(r"\| kl_joint_nats \|  \| nan \| (\S+) \| \*\*at most 1e-09 nats\*\* \|", report)
    assert row is not None and 1e-9 < float(row[1]) == pytest.approx(float(value), rel=1e-3)
    assert (stage / "alarm/videos.png").is_file() and not (stage / "lora").exists()

    rows, alone = (read_metrics(trained / f"runs/{run}/stage3/metrics.jsonl") for run in ("ranks", "whole"))
    assert [row["step"] for row in rows] == list(range(7)), "what raised the alarm is logged too"
    for name in ("val_reward", "reward_mean", "grad_norm"):
        assert rows[0][name] == pytest.approx(alone[0][name], rel=1e-2), name
    # The second matrix of each pair begins at 0, so that its size is that of what was learnt.
    one, two = (
        torch.cat([matrix.flatten() for matrix in state["parameters"][1::2]])
        for state in (
            torch.load(trained / f"runs/{run}/stage3/checkpoints/step-000006/trainer.pt")
            for run in ("whole", "ranks")
        )
    )
    assert (one - two).norm() < 0.1 * one.norm()


@pytest.fixture
def ended(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], tuple[Any, str, str]]:
    """Runs a program as its command line does, in this process; its exit code, output and error output."""
    monkeypatch.chdir(trained)

    def run(module: str, flags: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", [module, *flags.split(), "--num-threads", "1"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_main(importlib.import_module(module).main)
        return end.value.code, *capsys.readouterr()

    return run


def test_a_changed_setting_and_fewer_iterations_are_refused_at_resume(whole: str, ended) -> None:
    changed = f"{whole} --num-iterations 6 --algorithm.clip-range 0.01"
    for flags, message in (
        (changed, "algorithm.clip_range: 0.001 -> 0.01"),
        (f"{whole} --num-iterations 5", "already has 6"),
    ):
        code, _, error = ended("policy.train", flags)
        assert code == 2 and message in error


def test_another_stage_2_is_refused_at_resume(trained: Path, whole: str, ended) -> None:
    stage, settings = trained / "runs/whole/stage2", trained / "runs/whole/stage3/config.toml"
    theirs, before = stage.resolve(), settings.read_text()
    stage.unlink()
    shutil.copytree(theirs, stage)
    shutil.copy(trained / "runs/tiny-wan/stage1/heads.safetensors", stage)
    try:
        code, _, error = ended("policy.train", f"{whole} --num-iterations 7")
    finally:
        shutil.rmtree(stage)
        stage.symlink_to(theirs)
    assert code == 2 and settings.read_text() == before
    assert "was trained from something else (heads differ); remove runs/whole/stage3" in error


def test_no_reward_service_is_one_line_and_an_exit_code(trained: Path) -> None:
    run = copy_run(trained, "down")
    done = program("policy.train", f"{run} --reward.endpoint 127.0.0.1:1 {STAGE3}", trained, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: no reward service at 127.0.0.1:1")


def test_scores_that_fail_stop_the_run_with_the_reasons(trained: Path, endpoint: str, ended) -> None:
    """A policy whose videos cannot be scored, here for lack of time, is not trained on anything."""
    run = copy_run(trained, "late")
    flags = f"{run} --reward.endpoint {endpoint} --reward.timeout-s 0.001 {STAGE3} --num-iterations 1"
    code, _, error = ended("policy.train", flags)
    assert code == 2
    assert "pre-flight failed (reward: no score of first: INFRA" in error
    code, output, error = ended("policy.train", f"{flags} --skip-preflight")
    assert code == 2
    assert "pre-flight skipped" in output
    assert "alarm at iteration 0: val_failed_fraction is 1, allowed at most 0.5 without a score" in error
    code, output, error = ended("policy.train", f"{flags} --skip-preflight --monitor.no-enabled")
    assert code == 2
    assert "4 of 4 rollouts have no score" in error and "INFRA" in error
    assert not list((trained / "runs/late/stage3").glob("checkpoints/*"))


def test_external_videos_are_scored_and_a_damaged_one_is_left_out_by_name(
    trained: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator's own videos, as somebody else would bring them."""
    monkeypatch.chdir(trained)
    dataset, folder = open_dataset("data/rigid", "val"), trained / "somebody"
    folder.mkdir()
    for key, sample in zip(dataset.keys, (dataset[i] for i in range(3)), strict=False):
        (folder / f"{key}.mp4").write_bytes(encode_mp4(sample.rgb, round(sample.spec.fps)))
    damaged = folder / f"{dataset.keys[3]}.mp4"
    damaged.write_bytes(b"no video")
    config = EvaluateConfig(split="val", num_scenes=4, num_threads=1, reward=RewardConfig(endpoint=endpoint))
    with pytest.raises(UserError, match=f"{damaged.name} is corrupt.*--partial"):
        evaluate_videos(config, folder)
    results = json.loads(evaluate_videos(replace(config, partial=True), folder).read_text())
    assert results["partial"] and list(results["left_out"]) == [damaged.stem]
    rows = {(r["reader"], r["metric"]): r for r in results["rows"]}
    assert {row["stage"] for row in results["rows"]} == {"somebody"}
    tracks = rows["rgb", "trajectory error"]
    assert tracks["mean"] < 1 and tracks["num_scenes"] == 3, "encoding blurs colours"
    assert rows["estimator", "4D Chamfer"]["num_scenes"] == 3
    assert list((trained / "runs/tiny-wan/external-val/somebody").glob("events.*"))
    assert (results["folder"], results["split"], results["num_scenes"]) == (str(folder), "val", 3)
    with pytest.raises(UserError, match=f"holds the scores of {folder}; rename other/somebody"):
        evaluate_videos(config, Path("other/somebody"))
    with pytest.raises(ValueError, match="num_scenes is 9, but data/rigid val has 5"):
        evaluate_videos(replace(config, num_scenes=9), folder)


def test_evaluation_measures_every_stage_and_the_report_shows_it(
    trained: Path, endpoint: str, whole: str
) -> None:
    run, service = "--run runs/whole", f"--reward.endpoint {endpoint}"
    small = "--num-scenes 5 --num-seeds 2 --num-steps 3"
    picked = program("policy.best_of_n", f"{run} {service} {small}", trained)
    # 6 x 4 videos of about 9.7 calls pay for 5 more candidates of 4 calls for each of 10 videos.
    assert "best of 6 candidates" in picked.stdout
    program("policy.evaluate", f"{run} {service} {small} --num-report-scenes 2", trained)
    results = json.loads((trained / "runs/whole/evaluation/results.json").read_text())
    rows = {(r["stage"], r["reader"], r["metric"]): r for r in results["rows"]}
    for stage in ("base", "stage1", "stage2", "stage3"):
        assert len(rows[stage, "rgb", "trajectory error"]["seeds"]) == 2
        assert rows[stage, "estimator", "4D Chamfer"]["num_scenes"] == 5
    assert ("base", "heads", "4D Chamfer") not in rows, "the base has no heads"
    assert len(rows["best_of_n", "rgb", "trajectory error"]["seeds"]) == 2
    assert rows["best_of_n", "heads", "reward"]["mean"] >= rows["stage2", "heads", "reward"]["mean"]
    assert rows["simulator", "heads", "4D Chamfer"]["mean"] < 0.02, "the simulator's own rollouts are right"
    assert rows["simulator", "rgb", "trajectory error"]["mean"] == 0.0
    assert rows["simulator", "heads", "flow EPE"]["mean"] == 0.0
    assert rows["stage3", "heads", "track error"]["mean"] > rows["simulator", "heads", "track error"]["mean"]
    evaluation = trained / "runs/whole/evaluation"
    assert all((evaluation / scene["clouds"]).is_file() for scene in results["scenes"])
    assert len(results["failures"]) == 4 and results["failures"][0]["stage"] == "stage3"
    assert list((evaluation / "tb").glob("events.out.*"))
    program("phys4d.report", f"{run}", trained)
    page = (trained / "runs/whole/report/index.html").read_text()
    assert page.count('class="cloud"') == 2
    assert "Wait share" in page, "the part of each iteration in which rewards were waited for"
    assert "4D Chamfer" in page and "http://" not in page.replace("http://www.w3.org", "")


OTHER_STAGES = {
    "tiny-cogvideox": (
        "--motion-channels 2 --baseline --more-videos data/rigid",
        "--motion-channels 2 --lora-layers 1 --warp-masks visible inside --optimiser.validate-every 2",
    ),
    "tiny-open-sora": (
        "--videos {clips} --held-out data/rigid --held-out-split test --heads.validate-every 2",
        "--warp-weight 0 --more-data data/rigid-mixed --optimiser.schedule constant",
    ),
}
"""Settings of stages 1 and 2 that are no defaults, each in one of the runs."""


def write_frames(folder: Path) -> Path:
    """Twelve videos as folders of frames, and one that is none."""
    for number, sample in enumerate(open_dataset("data/rigid-mixed", "train")[i] for i in range(12)):
        target = folder / f"{number:02d}"
        target.mkdir(parents=True, exist_ok=True)
        for frame, image in enumerate(sample.rgb):
            Image.fromarray(image).save(target / f"{frame:03d}.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.parametrize("preset", [name for name in registry.TINY if name != "tiny-wan"])
def test_every_other_backbone_goes_through_all_stages(
    preset: str, trained: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, since each of them imports what the next one needs."""
    monkeypatch.chdir(trained)

    def run(config_class: type, presets: str, program: Callable[[Any], Any], flags: str) -> Any:
        args = ["--preset", preset, "--num-threads", "1", *flags.split()]
        return program(configs.load_preset(config_class, ROOT / presets, default="none", args=args)[0])

    service = f"--reward.endpoint {endpoint}"
    small_base = f"{SMALL_TRAINING['pretrain.base']} --num-layers 2"
    base = run(BaseConfig, "pretrain/presets/base", pretrain.base.train, small_base)
    assert base == Path(f"runs/{preset}/base/model")
    first, second = OTHER_STAGES[preset]
    clips = write_frames(trained / "clips")
    first = f"{SMALL_TRAINING['pretrain.train']} {first.format(clips=clips)}"
    run(StageOneConfig, "pretrain/presets/stage1", pretrain.train.train, first)
    rows = read_metrics(Path(f"runs/{preset}/stage1/metrics.jsonl"))
    steps = [row["step"] for row in rows if "val_abs_rel" in row]
    assert steps == ([0, 2, 4] if "--heads.validate-every 2" in first else [0, 4])
    run(StageTwoConfig, "sft/presets", sft.train.train, f"{SMALL_TRAINING['sft.train']} {second}")
    levels, least = {"tiny-cogvideox": ("window", 0.5), "tiny-open-sora": ("all", 0.0)}[preset]
    small_rl = f"{STAGE3} {service} --num-iterations 2 --algorithm.lora-levels {levels}"
    run(TrainConfig, "policy/presets/train", policy.train.train, small_rl)
    trained_from = least_level(load_stage(Path(f"runs/{preset}"), "stage3")[0].transformer, "policy")
    assert trained_from == least, "of four steps windows reach the third, at half the noise"
    rows = read_metrics(Path(f"runs/{preset}/stage3/metrics.jsonl"))
    assert all(0 < row["reward_first"] <= 1 and row["failed_fraction"] == 0 for row in rows[:-1])
    # Untrained heads may earn all siblings the lowest reward: such of the 2 groups have nothing to teach.
    assert all((row["grad_norm"] > 0) == (row["dropped_groups"] < 2) for row in rows[:-1]), rows
    small = f"{service} --split val --num-scenes 4 --num-seeds 1 --num-steps 3 --num-report-scenes 1"
    results = run(EvaluateConfig, "policy/presets/evaluate", policy.evaluate.evaluate, small)
    assert results == Path(f"runs/{preset}/evaluation-val/results.json")
    measured = {row["stage"] for row in json.loads(results.read_text())["rows"]}
    assert {"base", "stage1", "stage2", "stage3"} <= measured
    made = run(SampleConfig, "policy/presets/sample", policy.sample.generate, "--num-videos 1 --num-steps 2")
    assert [path.suffix for path in made] == [".mp4", ".png"] and all(path.is_file() for path in made)
    assert made[0].name.startswith("stage3-")


def test_a_fourth_backbone_is_one_file(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setitem(registry.BACKBONES, "fourth", "fourth_backbone:FourthModel")
    monkeypatch.setitem(registry.TINY, "tiny-fourth", "fourth_backbone:tiny_fourth")

    def run(config_class: type, program: Callable[[Any], Any], flags: str) -> Any:
        return program(configs.load(config_class, args=["--run", "runs/fourth", *flags.split()]))

    run(BaseConfig, pretrain.base.train, f"--model tiny-fourth {SMALL_TRAINING['pretrain.base']}")
    run(StageOneConfig, pretrain.train.train, SMALL_TRAINING["pretrain.train"] + " --baseline")
    stage = run(StageTwoConfig, sft.train.train, SMALL_TRAINING["sft.train"])
    load_lora(registry.load_model("runs/fourth/base/model").transformer, "sft", stage / "lora")


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        ("pretrain.base", "--data nowhere", "dataset nowhere/train does not exist"),
        (
            "pretrain.base",
            "--preset wan2.2-5b --weights no/such/folder",
            "weights no/such/folder is neither a folder nor a hub id; wan2.2-5b needs transformer/ from",
        ),
        (
            "policy.sample",
            "--run nowhere",
            "nowhere has no finished stage; train the base with `make base`",
        ),
        ("policy.sample", "--text ball", "text and first_frame belong together, got 'ball' and None"),
        (
            "pretrain.train",
            "--run nowhere --num-videos 12 --heads.batch-size 4",
            "no transformer/ in nowhere/base/model, which is no folder; train the base with `make base`",
        ),
        ("policy.train", "--rollout.group-size 1", "a group needs 2 siblings to compare, got 1"),
        ("policy.train", "--rollout.grup-size 2", "unknown option '--rollout.grup-size'; did you mean"),
        ("policy.evaluate", "--num-scenes 99", "num_scenes is 99, but data/rigid test has 5; render more"),
    ],
)
def test_bad_input_is_one_line_that_says_what_and_what_to_do(
    module: str, flags: str, message: str, ended
) -> None:
    code, _, error = ended(module, flags)
    assert code == 2
    assert message in error.strip().splitlines()[-1]
