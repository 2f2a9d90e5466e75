"""What deploy/ says must be true: Ray accepts the cluster files, shells the commands, and every
option exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mlflow.cli
import pytest
import typer.main
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.docker import docker_start_cmds
from ray.autoscaler._private.util import prepare_config, validate_config

from robsearch.cli import app
from robsearch.trials.variables import NEEDED

with warnings.catch_warnings(action="ignore"):  # of Ray Serve's, which comes along
    from ray.scripts.scripts import cli as ray_cli

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
IGNORED = ROOT / ".dockerignore"
CLUSTERS = ("ray-cluster.yaml", "ray-cluster-aws.yaml")
PROGRAMS = {"ray": ray_cli, "robsearch": typer.main.get_command(app), "mlflow": mlflow.cli.cli}
INSTRUCTIONS = {
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "RUN",
    "USER",
    "WORKDIR",
}
REGISTRIES = re.compile(
    r"pypi\.|pythonhosted|pytorch\.org|docker\.(io|com)|ghcr\.|quay\.|nvcr\.|gcr\.|dkr\.ecr|conda"
)


def cluster_file(name: str) -> dict:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def cluster_commands(name: str) -> list[str]:
    return [
        line
        for key, lines in cluster_file(name).items()
        if key.endswith("_commands")
        for line in lines
    ]


def readme() -> str:
    return (DEPLOY / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)


def instructions() -> list[tuple[str, str]]:
    """(instruction, its rest) of the Dockerfile, continued lines joined, comments dropped."""
    lines = [
        line
        for line in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line[:1] != "#"
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def rests(wanted: str) -> list[str]:
    return [rest for word, rest in instructions() if word == wanted]


def pieces() -> list[tuple[str, str]]:
    """(where, text) of every piece of shell in deploy/."""
    return [
        *((name, line) for name in CLUSTERS for line in cluster_commands(name)),
        *(("README.md", block) for block in blocks()),
        *(("Dockerfile", rest) for rest in rests("RUN")),
        ("slurm.sh", (DEPLOY / "slurm.sh").read_text(encoding="utf-8")),
        *(("containers", line) for line in container_commands()),
    ]


def container_commands() -> list[str]:
    """What compose's services and the pods of Kubernetes start, as lines of shell."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    lines = [
        shlex.join([*service["entrypoint"], *service["command"]])
        for service in services.values()
        if "entrypoint" in service
    ]
    for file in sorted((DEPLOY / "kubernetes").iterdir()):
        for item in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if item["kind"] == "RayJob":
                lines.append(item["spec"]["entrypoint"])
            if item["kind"] == "Deployment":
                containers = item["spec"]["template"]["spec"]["containers"]
                lines += [shlex.join(each["command"]) for each in containers if "command" in each]
    return lines


def plain_commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command; one in a container counts as one of its entrypoint's."""
    text = re.sub(r"--entrypoint (\w+) robsearch ", r"; \1 ", text.replace("\\\n", " "))
    text = re.sub(r"(?:exec .* head| --) (robsearch|ray|mlflow) ", r" ; \1 ", text)
    text = re.sub(r"(^|\s)#.*", "", text)
    text = re.sub(r"^\$run robsearch ", "robsearch ", text, flags=re.MULTILINE)
    words = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars=";&|(){}")
    words.whitespace_split, words.commenters = True, ""
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set(";&|(){}"):
            yield command
            command = []
        else:
            command.append(word)


def used() -> list[tuple[str, ...]]:
    """Every call of ray, robsearch or mlflow in deploy/: in shell, and between backticks in the
    README."""
    quoted = re.findall(r"`((?:ray|robsearch|mlflow) [a-z][^`]*)`", readme())
    texts = [*(text for _, text in pieces()), *quoted]
    texts += [word for text in texts for word in re.findall(r"ray exec \S+ '(.*?)'", text)]
    commands = [
        [Path(words[0]).name, *words[1:]]
        for text in texts
        for words in plain_commands(text)
        if words
    ]
    return sorted({tuple(words) for words in commands if words[0] in PROGRAMS and len(words) > 1})


def options(command: Any) -> set[str]:
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)}


def wrong_with(words: tuple[str, ...]) -> list[str]:
    """What the program would not know, by its own description of itself."""
    command: Any = PROGRAMS[words[0]]  # Typer's are no longer click's own classes
    rest = list(words[1:])
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return [f"{words[0]} has no command {rest[0]}"]
        command = command.commands[rest.pop(0)]
    known = {"--help", *options(command)}
    if command.name == "symmetric_run":  # what it does not know it hands on to `ray start`
        known |= options(ray_cli.commands["start"])
        rest = " ".join(rest).partition(" -- ")[0].split()
    asked = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    return [f"{command.name} has no {option}" for option in sorted(asked - known)]


# --- the clusters ---


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_accepts_a_cluster_file(name: str) -> None:
    validate_config(prepare_config(cluster_file(name)))


@pytest.mark.parametrize(
    "broken",
    [
        {"worker_start_commands": []},
        {"provider": {}},
        {"setup_commands": [1]},
        {"head_node_type": "tail"},
    ],
)
def test_a_broken_cluster_file_is_not_accepted(broken: dict) -> None:
    with pytest.raises((ValidationError, ValueError, KeyError)):
        validate_config(prepare_config({**cluster_file("ray-cluster-aws.yaml"), **broken}))


def test_three_machines_are_a_head_and_two_workers() -> None:
    config = prepare_config(cluster_file("ray-cluster.yaml"))
    node = config["available_node_types"][config["head_node_type"]]
    assert (node["min_workers"], node["max_workers"], len(config["provider"]["worker_ips"])) == (
        2,
        2,
        2,
    )


def test_workers_in_the_cloud_are_all_there_when_a_search_counts_them() -> None:
    config = prepare_config(cluster_file("ray-cluster-aws.yaml"))
    worker = config["available_node_types"]["worker"]
    assert worker["min_workers"] == worker["max_workers"] == config["max_workers"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_nodes_start_alike_with_the_common_environment_and_without_usage_statistics(
    name: str,
) -> None:
    config = cluster_file(name)
    (head,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    (worker,) = [line for line in config["worker_start_ray_commands"] if "ray start" in line]
    for line in (head, worker):
        assert line.startswith(". /shared/robsearch.sh &&")
        assert "--disable-usage-stats" in line
    assert "--head --port=6379" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
    first, second = (
        re.findall(r"--(?:object|node|min-w|max-w)\S+", line) for line in (head, worker)
    )
    assert first == second != []
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_ray_up_opens_a_shell_in_the_image_whose_entrypoint_is_another() -> None:
    docker = cluster_file("ray-cluster-aws.yaml")["docker"]
    line = docker_start_cmds(
        "u",
        docker["image"],
        {},
        docker["container_name"],
        docker["run_options"],
        "c",
        "/home/robsearch",
        "docker",
    )
    words = shlex.split(line)
    assert words[-2:] == [docker["image"], "bash"]
    assert "--entrypoint=" in words
    assert "HOME=/home/robsearch" in " ".join(
        rests("ENV")
    )  # `ray up` reads it there, and else takes /root


# --- commands ---


@pytest.mark.parametrize(("where", "text"), pieces(), ids=lambda text: text[:30])
def test_a_shell_can_read_it(where: str, text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", used(), ids=" ".join)
def test_a_command_and_its_options_exist(words: tuple[str, ...]) -> None:
    assert wrong_with(words) == []


def test_the_commands_of_a_search_are_among_those_found() -> None:
    found = {words[:2] for words in used()}
    assert found >= {
        ("robsearch", each) for each in ("check", "launch", "resume", "status", "stop")
    }
    assert found >= {
        ("ray", each) for each in ("up", "down", "exec", "attach", "start", "stop", "status")
    }
    assert ("ray", "symmetric-run") in found
    assert ("mlflow", "server") in found
    launches = [
        words for words in used() if words[:2] == ("robsearch", "launch") and len(words) > 2
    ]
    assert launches
    assert all({"--address", "--results"} <= set(words) for words in launches)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("robsearch launch a:b --adress auto", "launch has no --adress"),
        ("robsearch lunch a:b", "robsearch has no command lunch"),
        ("cd /x && ray start --head --porrt=6379", "start has no --porrt"),
        ("$run --detach --entrypoint ray robsearch start --blok", "start has no --blok"),
        ("MLFLOW_X=1 true; mlflow server \\\n --worker 1", "server has no --worker"),
    ],
)
def test_a_wrong_option_would_be_found(text: str, found: str) -> None:
    wrong = [
        each
        for words in plain_commands(text)
        if words and words[0] in PROGRAMS
        for each in wrong_with(tuple(words))
    ]
    assert wrong == [found]


# --- the environment that all processes inherit ---


def test_the_environment_is_written_and_read_as_the_readme_says(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    (block,) = (each for each in blocks() if "robsearch.sh <<" in each)
    written = block.replace("/shared", shared).rsplit("\npython3 ", 1)[0]
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    script = f"{written}\n. {shared}/robsearch.sh\nexec {sys.executable} -c '{code}'"
    before = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-euc", script], env=before, capture_output=True, text=True, check=True
    )
    after = json.loads(done.stdout)
    assert after["PATH"] == f"{shared}/venv/bin:{before['PATH']}"
    assert after["RAY_USAGE_STATS_ENABLED"] == "0"
    assert after["RAY_AUTH_MODE"] == "token"
    for name in ("ROBSEARCH_RESULTS", "ROBSEARCH_DATA"):
        assert Path(after[name]).is_dir()
        assert after[name].startswith(shared)
    assert not after["ROBSEARCH_CACHE"].startswith(shared)  # each machine's own disk
    assert {name for name in after if not NEEDED.fullmatch(name)} <= {"SHLVL", "OLDPWD", "_"}


def test_what_starts_ray_exports_no_secret() -> None:
    assert not [
        line
        for name in CLUSTERS
        for line in cluster_commands(name)
        if re.search(r"\bexport\b", line)
    ]


# --- the image ---


def test_the_dockerfile_has_only_instructions_and_begins_with_a_base() -> None:
    words = [word for word, _ in instructions()]
    assert set(words) <= INSTRUCTIONS
    assert words[:2] == ["ARG", "FROM"]
    assert rests("FROM") == ["${BASE}"]


def test_what_the_image_copies_is_here_and_not_ignored() -> None:
    rules = [
        line for line in IGNORED.read_text(encoding="utf-8").splitlines() if line[:1] not in "#"
    ]
    copied = [source for rest in rests("COPY") for source in rest.split()[:-1]]
    assert {"pyproject.toml", "robsearch", "search_spaces"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        verdicts = [rule.startswith("!") for rule in rules if fnmatch(source, rule.lstrip("!"))]
        assert verdicts[-1:] == [True]


def test_the_image_has_what_the_project_says_it_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {source for rest in rests("COPY") for source in rest.split()[:-1]}
    assert {*packages, project["project"]["readme"], *project["project"]["license-files"]} <= copied
    (install,) = (rest for rest in rests("RUN") if "dependencies.txt" in rest)
    words = shlex.split(install)
    code = words[words.index("-c") + 1]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines() == project["project"]["dependencies"]
    assert "-r dependencies.txt" in install


def test_the_image_is_robsearch_run_by_no_root_and_telling_nobody() -> None:
    assert rests("USER") == ["robsearch"]
    assert [json.loads(each) for word in ("ENTRYPOINT", "CMD") for each in rests(word)] == [
        ["robsearch"],
        ["--help"],
    ]
    words = [word for word, _ in instructions()]
    assert "RUN" not in words[words.index("USER") :]
    environment = dict(pair.split("=", 1) for rest in rests("ENV") for pair in rest.split())
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert [name for name in environment if not NEEDED.fullmatch(name)] == [
        "MLFLOW_DISABLE_TELEMETRY"
    ]


def test_build_arguments_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"--build-arg (\w+)=", readme()))
    assert named
    assert named <= {rest.partition("=")[0] for rest in rests("ARG")}


@pytest.mark.parametrize("file", [*DEPLOY.rglob("*.*"), DEPLOY / "Dockerfile", IGNORED], ids=str)
def test_no_file_names_a_registry(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert REGISTRIES.findall(text) == []
    assert set(re.findall(r"https?://([\w.-]+)", text)) <= {"127.0.0.1", "mlflow"}


def test_the_readme_names_every_file() -> None:
    files = [file.relative_to(DEPLOY).as_posix() for file in DEPLOY.rglob("*") if file.is_file()]
    quoted = set(re.findall("`[^`\n]+`", readme()))
    assert {f"`{file}`" for file in files if file != "README.md"} <= quoted
