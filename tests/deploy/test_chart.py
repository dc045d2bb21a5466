"""What the chart makes of values, and which values it refuses."""

import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from ray.serve._private import constants

from deploy import consistency, rendering, schemas, scripts
from deploy.rendering import of_kind, pods
from phys4d.reward.plugin import load_reward
from phys4d.runtime.config import from_mapping
from reward_service.app import build
from reward_service.combined import WeightedSum
from reward_service.config import ServiceConfig

PROFILES = rendering.CHART / "profiles"
POOL, CPU = PROFILES / "gpu-pool.yaml", PROFILES / "cpu.yaml"
ONE_SPLIT = tuple(f"data.splits[0].{v}" for v in ("name=train", "out=rigid", "numSamples=8", "seedStart=0"))
SMOOTH = "rewards[0].name=smooth", "rewards[0].importPath=examples.motion_smoothness:MotionSmoothness"


def serve_config(manifests: list[rendering.Manifest]) -> dict:
    return schemas.check_serve_config(of_kind(manifests, "RayService")[0]["spec"]["serveConfigV2"])


@pytest.fixture(scope="module")
def on_cpus() -> list[rendering.Manifest]:
    return rendering.render(CPU)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("scorers.maxpods=3", "additional properties 'maxpods' not allowed"),
        ("scorers.gpus=0", "scorers.gpus is 0; raise it"),
        ("scorers.maxReplicas=1000", "raise maxPods or lower it"),
        ("scorers.minReplicas=65", "scorers.minReplicas is 65, above its maximum, which is 64"),
        ("scorers.minPods=17", "scorers.minPods is 17, above its maximum, which is 16"),
        ("ingress.minReplicas=9", "raise ingress.maxReplicas"),
        ("data.workers=9", "data.maxWorkers is 8, below data.workers"),
        ("scorers.replicaCpus=9", "no scorer replica"),
        ("images.registry=", "images.registry is where"),
        ("images.requireDigests=true", r"images\.\w+\.digest is empty; set it"),
        ("rewards[0].name=smooth", "oneOf"),
        ((*SMOOTH, "rewards[0].weight=0"), "/rewards/0/weight.*exclusiveMinimum|/rewards/0/weight.*got 0"),
        ((*SMOOTH, "rewards[1].name=smooth", "rewards[1].endpoint=a:1"), "two are named smooth"),
        ("networkPolicy.clientCidrs={office}", "/networkPolicy/clientCidrs/0.*does not match"),
        ("gateway.tls.clientCaSecret=ca", "trainer.clientCertSecret is empty"),
        ("gateway.port=9902", "/gateway/port.*'not' failed"),
        ("sceneChamfer=false", "nothing to score with; name a reward"),
        ("trainer.dataset=rigids", "wait for rigids/val, but data.splits makes only rigid-mixed/train, "),
        (ONE_SPLIT, "wait for rigid-mixed/train, but data.splits makes only rigid/train; add that split"),
        ("data.enabled=false", "would wait for data on an empty volume"),
        ("data.volume.accessModes={ReadWriteOnce}", r"the same node, but data.nodeSelector is \{\}"),
        (
            ("data.volume.accessModes={ReadWriteOnce}", "data.nodeSelector.phys4d\\.dev/pool=gpu"),
            r"the same node, but data.tolerations is \[\]",
        ),
        ("data.volume.accessModes={ReadWriteOncePod}", "mount it at once"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_reason(settings: str | tuple, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rendering.render(POOL, *([settings] if isinstance(settings, str) else settings))


def test_the_longest_name_of_a_release_leaves_names_that_kuberay_takes() -> None:
    manifests = rendering.render(CPU, release="a" * 53)
    consistency.check(manifests, serve_config(manifests))
    for name in ("1st-run", "lab.phys4d"):
        with pytest.raises(ValueError, match=f"the release is named {name}, but .*choose another name"):
            rendering.render(CPU, release=name)


def test_rewards_become_what_the_service_takes() -> None:
    manifests = rendering.render(PROFILES / "custom-rewards.yaml")
    config = serve_config(manifests)
    (application,) = config["applications"]
    (target,) = application["args"]["rewards"]
    assert target.startswith("reward_service.combined:WeightedSum(parts=[(") and "RemoteReward" in target
    assert application["args"]["scene_chamfer"] is False
    (scorer,) = [d for d in application["deployments"] if d["name"] == "Scorer"]
    assert scorer["ray_actor_options"]["num_gpus"] == 0.5


def test_built_in_rewards_have_weights_and_settings(tmp_path: Path) -> None:
    values = yaml.safe_load(CPU.read_text())
    values["config"] = {"surface": {"max_rays": 1000}, "chamfer": {"fit_shift": False}}
    smooth = "examples.motion_smoothness:MotionSmoothness"
    values["rewards"] = [{"name": "smooth", "importPath": smooth, "weight": 0.25}]
    values["surfaceChamferWeight"] = 0.5
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    (application,) = serve_config(rendering.render(tmp_path / "values.yaml"))["applications"]
    assert application["args"]["surface"] == {"max_rays": 1000}
    (target,) = application["args"]["rewards"]
    parts = [("scene_chamfer", "scene_chamfer", 1.0), ("surface_chamfer", "surface_chamfer", 0.5)]
    asked = WeightedSum([*parts, ("smooth", f"{smooth}()", 0.25)], **values["config"])
    assert load_reward(target).version == asked.version


def test_numbers_of_a_values_file_arrive_as_they_were_written(tmp_path: Path) -> None:
    """helm reads them as floating point, whose own notation is 2e+06."""
    values = yaml.safe_load(CPU.read_text())
    values["config"] = {"cache_size": 2_000_000, "max_queued": 3_000_000}
    smooth = "examples.motion_smoothness:MotionSmoothness"
    values["rewards"] = [{"name": "smooth", "importPath": smooth, "options": {"scale_px": 4_000_000}}]
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    (application,) = serve_config(rendering.render(tmp_path / "values.yaml"))["applications"]
    arguments = application["args"]
    assert (arguments["cache_size"], arguments["max_queued"]) == (2_000_000, 3_000_000)
    assert application["deployments"][1]["max_queued_requests"] == 3_000_000
    assert "scale_px=4000000)" in arguments["rewards"][0]


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({}, 120), ({"drain_s": 300}, 300), ({"limits": {"max_scoring_s": 600.5}}, 600.5)],
)
def test_calls_under_way_get_as_long_as_the_service_would_give_them(
    tmp_path: Path, settings: dict, seconds: float
) -> None:
    (tmp_path / "values.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(CPU.read_text()) | {"config": settings})
    )
    manifests = rendering.render(tmp_path / "values.yaml")
    (application,) = serve_config(manifests)["applications"]
    ingress = build(from_mapping(ServiceConfig, application["args"], "args"))._bound_deployment
    (scorers,) = [argument for argument in ingress.init_args if isinstance(argument, list)]
    built = [ingress, *(scorer._bound_deployment for scorer in scorers)]
    given = {d["name"]: d["graceful_shutdown_timeout_s"] for d in application["deployments"]}
    assert {d.name: d._deployment_config.graceful_shutdown_timeout_s for d in built} == given
    assert set(given.values()) == {seconds}
    graces = [
        pod["spec"]["terminationGracePeriodSeconds"]
        for where, pod in pods(manifests).items()
        if where.startswith("RayService/")
    ]
    assert graces == [math.ceil(seconds) + 60] * 3
    assert of_kind(manifests, "RayService")[0]["spec"]["rayClusterDeletionDelaySeconds"] == graces[0]


def test_haproxy_gets_windows_and_buffers_for_large_rollouts_under_names_that_ray_reads(on_cpus) -> None:
    """On every Ray container: Ray would pass over a name that it does not know."""
    wanted = {
        "RAY_SERVE_HAPROXY_H2_FE_INITIAL_WINDOW_SIZE": 1 << 20,
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": 64 << 10,
    }

    def given(manifests: list[rendering.Manifest]) -> list[dict[str, int]]:
        return [
            {e["name"]: int(e["value"]) for e in container["env"] if "_HAPROXY_" in e["name"]}
            for where, pod in pods(manifests).items()
            if where.startswith("RayService/")
            for container in pod["spec"]["containers"]
        ]

    assert given(on_cpus) == [wanted] * 3
    assert given(rendering.render(CPU, "ray.haproxy=false")) == [{}] * 3
    assert all(hasattr(constants, name) for name in wanted)


def test_the_label_of_the_gpu_pool_is_asked_for_where_there_is_a_pool_only(on_cpus) -> None:
    for manifests in (rendering.render(None), on_cpus, rendering.render(PROFILES / "one-gpu.yaml")):
        assert not any("nodeSelector" in pod["spec"] for pod in pods(manifests).values())
    labelled = {where for where, pod in pods(rendering.render(POOL)).items() if "nodeSelector" in pod["spec"]}
    assert {where.partition("/")[0] for where in labelled} == {"Job", "RayService"} and len(labelled) == 2


def test_the_readme_says_what_a_node_of_the_small_profiles_must_hold(on_cpus) -> None:
    """All pods once, and the autoscaler beside the head."""

    def amount(quantity: str) -> float:
        units = {"m": 1e-3, "Mi": 1 / 1024, "Gi": 1.0, "": 1.0}
        return float(quantity.rstrip("mMGi")) * units[quantity.lstrip("0123456789.")]

    readme = (rendering.CHART.parents[1] / "README.md").read_text()
    for profile, manifests in (("cpu", on_cpus), ("one-gpu", rendering.render(PROFILES / "one-gpu.yaml"))):
        (service,) = of_kind(manifests, "RayService")
        asked = [service["spec"]["rayClusterConfig"]["autoscalerOptions"]["resources"]["requests"]]
        for pod in pods(manifests).values():
            asked += [container["resources"]["requests"] for container in pod["spec"]["containers"]]
        cores, gib = (sum(amount(str(request[what])) for request in asked) for what in ("cpu", "memory"))
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| `{profile}.yaml`")]
        assert f"{cores:.1f} cores and {gib:.1f} GiB" in line


def test_pods_that_share_a_volume_of_one_node_run_on_one_node(on_cpus) -> None:
    """Each follows any that is there; the first matches its own term, which lets it go anywhere."""

    def holders(manifests: list[rendering.Manifest]) -> dict[str, dict]:
        claims = {
            where: pod
            for where, pod in pods(manifests).items()
            for volume in pod["spec"].get("volumes", [])
            if volume.get("persistentVolumeClaim", {}).get("claimName") == "check-phys4d-data"
        }
        assert len(claims) == 2
        return claims

    for pod in holders(on_cpus).values():
        (term,) = pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        for other in holders(on_cpus).values():
            assert term["labelSelector"]["matchLabels"].items() <= other["metadata"]["labels"].items()
    assert not any("affinity" in pod["spec"] for pod in holders(rendering.render(POOL)).values())


def test_callers_of_other_namespaces_reach_whatever_takes_calls() -> None:
    for gateway, opened in (("true", "gateway"), ("false", "ray")):
        manifests = rendering.render(
            CPU, "networkPolicy.clientNamespaces={labs}", f"gateway.enabled={gateway}"
        )
        for policy in of_kind(manifests, "NetworkPolicy"):
            admitted = [
                peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                for rule in policy["spec"]["ingress"]
                for peer in rule["from"]
                if "namespaceSelector" in peer
            ]
            assert ("labs" in admitted) == policy["metadata"]["name"].endswith(opened)


def test_callers_from_outside_reach_a_load_balancer_and_the_gateway_only() -> None:
    office = ["203.0.113.0/24"]
    for settings, expected, seen in (
        ([], [], None),
        (["gateway.type=LoadBalancer"], ["0.0.0.0/0", "::/0"], None),
        (["gateway.type=NodePort", f"networkPolicy.clientCidrs={{{office[0]}}}"], office, "Local"),
    ):
        manifests = rendering.render(CPU, *settings)
        for policy in of_kind(manifests, "NetworkPolicy"):
            peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]
            admitted = [peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer]
            assert admitted == (expected if policy["metadata"]["name"].endswith("gateway") else [])
        (front,) = of_kind(manifests, "Service")
        assert front["spec"].get("externalTrafficPolicy") == seen


def test_images_are_named_by_digest_where_one_is_given() -> None:
    digest = "sha256:" + "0" * 64
    settings = [f"images.{name}.digest={digest}" for name in ("reward", "data", "train", "envoy")]
    manifests = rendering.render(CPU, "images.requireDigests=true", *settings)
    images = {c["image"] for pod in pods(manifests).values() for c in pod["spec"]["containers"]}
    assert len(images) == 4 and all(image.endswith(f"@{digest}") for image in images)


def trainer(manifests: list[rendering.Manifest]) -> tuple[str, dict]:
    """The trainer's script and its container."""
    (script,) = [
        m["data"]["trainer.sh"] for m in of_kind(manifests, "ConfigMap") if "trainer.sh" in m["data"]
    ]
    (job,) = of_kind(manifests, "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return script, container


def test_a_trainer_whose_data_never_come_gives_up_for_good(on_cpus) -> None:
    script, _ = trainer(on_cpus)
    # An hour goes by with every look.
    hurried = script.replace("attend sleep 30", "SECONDS=$((SECONDS + 3600))")
    done = subprocess.run(["bash", "-c", hurried], capture_output=True, text=True)
    assert done.stdout.count("waiting for") == 24
    assert "after 24 h; look why the data job (RayJob) failed" in done.stderr
    (job,) = of_kind(on_cpus, "Job")
    given_up = job["spec"]["podFailurePolicy"]["rules"][0]
    assert (given_up["action"], given_up["onExitCodes"]["values"]) == ("FailJob", [done.returncode])


def test_a_trainer_is_well_while_its_log_grows_and_ends_as_its_script_ends(on_cpus, tmp_path: Path) -> None:
    _, container = trainer(on_cpus)
    (tmp_path / "trainer.sh").write_text("echo working; exit 75")

    def run(command: list[str]) -> int:
        here = [
            word.replace("/runs", str(tmp_path)).replace("/etc/phys4d/trainer", str(tmp_path))
            for word in command
        ]
        return subprocess.run(here, stdout=subprocess.DEVNULL).returncode

    assert run([*container["command"], *container["args"]]) == 75
    log = tmp_path / "cluster" / "trainer.log"
    assert log.read_text() == "working\n"
    alive = container["livenessProbe"]["exec"]["command"]
    assert run(alive) == 0
    an_hour_ago = time.time() - 3660
    os.utime(log, (an_hour_ago, an_hour_ago))
    assert run(alive) != 0


PROGRAM = """#!/usr/bin/env bash
trap 'seq 20000; echo saved; exit {code}' TERM
echo "$2" >> {here}/started
if [ {code} = 7 ]; then exit 7; fi
for _ in $(seq 100); do sleep 0.1; done
"""
"""Stands in for python: fails with 7, or runs until it is told to stop, and then has much to say."""


@pytest.mark.parametrize(("code", "ends"), [(0, 143), (9, 9), (7, 7), (None, 143)])
def test_a_trainer_that_is_told_to_stop_saves_and_starts_nothing_more(
    on_cpus, tmp_path: Path, code: int | None, ends: int
) -> None:
    """As process 1 where that is allowed, as in its pod: there the kernel drops a signal without a handler.

    Its program ends well when it is told, or badly, or by itself; or it waits for data that never come.
    """
    script, container = trainer(on_cpus)
    log = tmp_path / "runs" / "cluster" / "trainer.log"
    index = tmp_path / "data" / "rigid-mixed" / "train" / "index.json"
    if code is not None:
        index.parent.mkdir(parents=True)
        index.touch()
    python = tmp_path / "python"
    python.write_text(PROGRAM.format(here=tmp_path, code=code))
    python.chmod(0o755)

    def here(text: str) -> str:
        for folder in ("/runs", "/data", "/etc/phys4d/trainer"):
            text = text.replace(folder, f"{tmp_path}/{Path(folder).name}")
        return text

    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "trainer.sh").write_text(here(script))
    command = [here(word) for word in (*container["command"], *container["args"])]
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    allowed = (
        shutil.which("unshare") and subprocess.run([*apart, "true"], capture_output=True).returncode == 0
    )
    process = subprocess.Popen(
        [*(apart if allowed else []), *command],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
    )
    try:
        shell = process.pid
        awaited = log if code is None else tmp_path / "started"
        deadline = time.monotonic() + 20
        while not (awaited.is_file() and awaited.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        if code != 7:
            if allowed:
                shell = int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])
            os.kill(shell, signal.SIGTERM)
        assert process.wait(20) == ends
    finally:
        process.kill()
    lines = log.read_text().splitlines()
    if code is None:
        assert lines == [f"waiting for {index}"] and not (tmp_path / "started").exists()
        return
    assert (tmp_path / "started").read_text() == "pretrain.base\n"
    assert lines[0].startswith("running: python -m pretrain.base")
    told = [*(str(n + 1) for n in range(20000)), "saved"]
    assert lines[1:] == ([] if code == 7 else told)


def test_several_gpus_are_several_processes_that_can_share_the_work(tmp_path: Path) -> None:
    values = yaml.safe_load(POOL.read_text())
    shared = {f: [f"--{f}.batch-size", "16", f"--{f}.micro-batches", "8"] for f in ("heads", "optimiser")}
    values["trainer"] |= {"gpus": 8, "flags": {"pretrain": shared["heads"], "sft": shared["optimiser"]}}
    values["data"]["enabled"] = False
    values["data"]["volume"]["existingClaim"] = "videos"
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    manifests = rendering.render(tmp_path / "values.yaml")
    script, container = trainer(manifests)
    assert "launch=(accelerate launch --num_processes 8)" in script
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    stages = ["pretrain.base", "pretrain.train", "sft.train", "policy.train", "policy.evaluate"]
    assert scripts.check(manifests) == [*stages, "phys4d.report"]
    with pytest.raises(ValueError, match=r"heads.micro_batches is 2, which 8 processes cannot share"):
        scripts.check(rendering.render(POOL, "trainer.gpus=8"))
