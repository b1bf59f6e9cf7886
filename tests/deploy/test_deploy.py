"""What stands in deploy/ holds together and agrees with the project: image, RayJob, Slurm script. No cluster is needed."""

import copy
import json
import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, list[str]]]:
    """The Dockerfile as (instruction, words)."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, shlex.split(rest) if name != "CMD" else [rest]) for name, rest in lines]


def test_the_image_copies_what_is_there_and_what_docker_is_given() -> None:
    kept = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copied = set()
    for name, words in instructions():
        if name == "COPY" and not any(word.startswith("--from") for word in words):
            copied |= {word for word in words[:-1] if not word.startswith("--")}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    packages = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= copied


def test_the_image_is_of_a_python_that_the_pins_are_for_and_runs_as_no_root() -> None:
    found = instructions()
    assert {words[0] for name, words in found if name == "FROM"} == {"python:3.11-slim"}
    assert "--python-version 3.11" in (ROOT / "Makefile").read_text(encoding="utf-8")
    users = [words[0] for name, words in found if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0")


def test_the_image_installs_extras_that_exist_from_the_hashed_pins() -> None:
    runs = [" ".join(words) for name, words in instructions() if name == "RUN"]
    install = next(run for run in runs if "uv pip install" in run)
    wanted = re.search(r"-e \.\[([\w,-]+)\]", install)
    assert wanted is not None
    assert set(wanted[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert install.count("uv pip install") == install.count("-c constraints.hashes.txt")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"uv==[\d.]+", install) == re.findall(r"uv==[\d.]+", makefile)


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text(encoding="utf-8"))
    return document


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Head and workers."""
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


SCHEMA = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text(encoding="utf-8"))


def test_the_rayjob_is_one_by_kuberays_schema(job: dict[str, Any]) -> None:
    """An unknown field would be dropped by the API server without a word."""
    jsonschema.Draft7Validator(SCHEMA).validate(job)
    cluster = job["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "shutdownAfterJobFinished"), True),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "16"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "volumeMount"), []),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumes", 1, "persistentVolume"), {}),
    ],
)
def test_the_schema_knows_a_wrong_field(job: dict[str, Any], path: tuple[str | int, ...], value: object) -> None:
    wrong: Any = copy.deepcopy(job)
    place = wrong
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(wrong)


def test_its_pods_run_one_image_as_no_root_and_mount_what_they_declare(job: dict[str, Any]) -> None:
    images = set()
    for group in groups(job):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        images.add(container["image"])
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert limits["memory"] == requests["memory"]
        assert limits.get("nvidia.com/gpu") == requests.get("nvidia.com/gpu")
        assert group["rayStartParams"]["metrics-export-port"] == "8080"
        assert group["template"]["metadata"]["annotations"]["prometheus.io/port"] == "8080"
    assert len(images) == 1


def test_its_command_is_one_of_ours(job: dict[str, Any]) -> None:
    from jobs.reference.commands import COMMANDS

    word, command, *_ = job["spec"]["entrypoint"].split()
    assert word == "lst"
    assert any(command in members for members in COMMANDS.values())


# Slurm -----------------------------------------------------------------------------------------------------------------

STUBS = {
    ".venv/bin/ray": 'echo "ray $*" >> "$RECORD"; echo "$RAY_AUTH_MODE ${RAY_AUTH_TOKEN:-}" >> "$RECORD.ray"; exec sleep 60',
    ".venv/bin/python": (
        'if [ "$1" = -c ]; then echo "asked" >> "$RECORD"; echo "${JOINED:-3}"; exit; fi\n'
        'echo "line $RAY_ADDRESS $*" >> "$RECORD"; echo "$RAY_AUTH_MODE ${RAY_AUTH_TOKEN:-}" >> "$RECORD.ray"\n'
        'trap "echo told >> $RECORD; exit 75" TERM; echo "listens" >> "$RECORD"\n'
        'if [ -n "${FAIL:-}" ]; then until [ "$(wc -l < "$RECORD.ray")" -ge 4 ]; do /bin/sleep 0.1; done; exit "$FAIL"; fi\n'
        "for _ in $(seq 200); do sleep 0.1; done"
    ),
    "bin/srun": (
        "n=1\nwhile [[ $1 == -* ]]; do case $1 in --ntasks=*) n=${1#*=};; -w) shift;; esac; shift; done\n"
        'for _ in $(seq "$n"); do "$@" & done\nwait'
    ),
    "bin/hostname": "echo 10.0.0.1 10.0.0.2",
    "bin/scontrol": ('if [ "$1" = show ]; then printf "a\\nb\\nc\\n"; else echo "scontrol $*" >> "$RECORD"; fi'),
    "bin/sleep": 'if [ "$1" -ge 5 ] 2>/dev/null && [ "$1" -le 10 ]; then exit; fi; exec /bin/sleep "$@"',
}


@contextmanager
def started(folder: Path, **variables: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """The script in an allocation of three nodes that is not there; what was called, line by line."""
    for name, text in STUBS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    record = folder / "record"
    record.touch()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment = inherited | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "RECORD": str(record),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "[a-c]",
        "SLURM_CPUS_PER_TASK": "32",
        "SLURM_GPUS_ON_NODE": "4",
        **variables,
    }
    script = ["bash", str(DEPLOY / "slurm.sh"), "--config", "x.yaml"]
    process = subprocess.Popen(script, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        yield process, record
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_slurm_starts_ray_on_each_node_and_passes_the_exit_code(tmp_path: Path) -> None:
    with started(tmp_path, FAIL="4") as (process, record):
        assert process.wait(timeout=30) == 4
    calls = record.read_text().splitlines()
    heads = [line for line in calls if line.startswith("ray start --head")]
    joins = [line for line in calls if line.startswith("ray start --address=10.0.0.1:23456")]
    assert (len(heads), len(joins)) == (1, 2)
    assert all("--num-cpus=32" in line and "--num-gpus=4" in line for line in heads + joins)
    assert "line 10.0.0.1:23456 jobs/tokenize_audio.py --config x.yaml" in calls
    assert not any("requeue" in line for line in calls)


def test_slurms_ray_asks_for_a_token_that_the_job_alone_has(tmp_path: Path) -> None:
    """On its nodes others have accounts: without one they could run code in this user's name."""
    seen = set()
    for name in ("one", "another"):
        with started(tmp_path / name, FAIL="4") as (process, record):
            assert process.wait(timeout=30) == 4
        told = record.with_name("record.ray").read_text().splitlines()
        assert len(told) == 4  # the head, two nodes, the line
        assert re.fullmatch(r"token [0-9a-f]{64}", told[0])
        assert set(told) == {told[0]}
        seen.add(told[0])
    assert len(seen) == 2


def test_slurms_ray_keeps_a_token_that_is_there(tmp_path: Path) -> None:
    with started(tmp_path, FAIL="4", RAY_AUTH_TOKEN_PATH="/home/me/token") as (process, record):
        assert process.wait(timeout=30) == 4
    assert set(record.with_name("record.ray").read_text().splitlines()) == {"token "}


def test_slurms_signal_reaches_the_line_and_the_job_goes_back_into_the_queue(tmp_path: Path) -> None:
    with started(tmp_path) as (process, record):
        deadline = time.monotonic() + 20
        while "listens" not in record.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
    assert "told" in record.read_text().splitlines()
    assert "scontrol requeue 123456" in record.read_text().splitlines()


def test_one_that_comes_while_nodes_join_sends_the_job_back_too(tmp_path: Path) -> None:
    with started(tmp_path, JOINED="1") as (process, record):
        deadline = time.monotonic() + 20
        while "asked" not in record.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
    calls = record.read_text().splitlines()
    assert "scontrol requeue 123456" in calls
    assert not any(call.startswith("line ") for call in calls)


def test_the_script_is_bash() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")], check=True)
