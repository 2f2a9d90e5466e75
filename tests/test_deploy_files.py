"""The files of deploy/ for Kubernetes, Slurm and compose: schemas, secrets, and equal parts."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.30"  # the oldest that the objects are checked against; the newest is the package's
RAY_OBJECTS = json.loads((ROOT / "tests/support/files/kuberay.json").read_text(encoding="utf-8"))
OBJECTS = [
    pytest.param(item, id=f"{item['kind']}-{item['metadata']['name']}")
    for file in sorted((DEPLOY / "kubernetes").iterdir())
    for item in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]


def objects(kind: str) -> dict[str, dict[str, Any]]:
    """Those of a kind, by name."""
    items = [each.values[0] for each in OBJECTS]
    return {item["metadata"]["name"]: item for item in items if item["kind"] == kind}


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")


def templates(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods that an object makes."""
    if item["kind"] == "RayJob":
        item = {**item, "kind": "RayCluster", "spec": item["spec"]["rayClusterSpec"]}
    if item["kind"] == "RayCluster":
        groups = [item["spec"]["headGroupSpec"], *item["spec"]["workerGroupSpecs"]]
        return [group["template"] for group in groups]
    return [item["spec"]["template"]] if item["kind"] == "Deployment" else []


def check(item: dict[str, Any]) -> None:
    """Raises where an object, or a pod in it, has a field that is wrong or not known.

    KubeRay's objects are checked by its schema without the pods, and these as Kubernetes' own.
    """
    if item["apiVersion"] == "ray.io/v1":
        jsonschema.validate(item, RAY_OBJECTS[item["kind"]])
    for version in (KUBERNETES, kubernetes_validate.latest_version()):
        if item["apiVersion"] != "ray.io/v1":
            kubernetes_validate.validate(item, version, strict=True)
        for template in templates(item):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
            kubernetes_validate.validate(pod, version, strict=True)


# --- Kubernetes ---


@pytest.mark.parametrize("item", OBJECTS)
def test_an_object_has_only_fields_of_its_kind(item: dict[str, Any]) -> None:
    check(item)


def test_a_wrong_field_would_be_seen() -> None:
    changes = [
        ("RayCluster", ("spec", "headGroupSpecs"), {}),
        ("RayCluster", ("spec", "workerGroupSpecs", 0, "replicas"), "four"),
        ("RayCluster", ("spec", "headGroupSpec", "template", "spec", "container"), []),
        ("RayJob", ("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "volumeMount"), []),
        ("Service", ("spec", "ports", 0, "port"), "http"),
        ("PersistentVolumeClaim", ("spec", "accessMode"), ["ReadWriteMany"]),
    ]
    for kind, (*path, last), value in changes:
        item = copy.deepcopy(next(iter(objects(kind).values())))
        place: Any = item
        for key in path:
            place = place[key]
        place[last] = value
        with pytest.raises(jsonschema.ValidationError):
            check(item)


@pytest.mark.parametrize("item", [each for each in OBJECTS if templates(each.values[0])])
def test_a_pod_is_no_root_and_has_no_token_of_the_cluster(item: dict[str, Any]) -> None:
    user = int(re.search(r"^ARG UID=(\d+)$", dockerfile(), re.MULTILINE).group(1))
    for template in templates(item):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            if "robsearch" in container["image"]:
                assert pod["securityContext"]["runAsUser"] == user
                # A Service mlflow makes a variable MLFLOW_PORT, which MLflow takes for an option.
                assert pod["enableServiceLinks"] is False


def test_a_job_has_the_cluster_that_stays_and_goes_on_with_its_search() -> None:
    (cluster,) = objects("RayCluster").values()
    (job,) = objects("RayJob").values()
    spec = job["spec"]
    assert spec["rayClusterSpec"] == cluster["spec"]
    for item in (job, cluster):
        assert item["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert spec["shutdownAfterJobFinishes"] is True  # without it KubeRay refuses Kueue's suspension
    assert spec["backoffLimit"] > 0
    assert "--or-resume" in spec["entrypoint"].split()
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_the_shared_folder_is_one_claim_that_many_nodes_may_write() -> None:
    assert objects("PersistentVolumeClaim")["shared"]["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in ("RayCluster", "Deployment"):
        for item in objects(name).values():
            for template in templates(item):
                pod = template["spec"]
                if pod["containers"][0]["image"].startswith("postgres"):
                    continue
                assert {
                    "name": "shared",
                    "persistentVolumeClaim": {"claimName": "shared"},
                } in pod["volumes"]
                mounts = pod["containers"][0]["volumeMounts"]
                assert {"name": "shared", "mountPath": "/shared"} in mounts


def test_ray_asks_for_the_token_of_a_secret_and_workers_have_no_other() -> None:
    (cluster,) = objects("RayCluster").values()
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    head, worker = templates(cluster)
    assert "mlflow-client" in json.dumps(head)
    assert "secret" not in json.dumps(worker).lower()


# --- secrets ---


def secret_keys() -> dict[str, set[str]]:
    """What the objects ask for: keys by the Secret's or ConfigMap's name."""
    (cluster,) = objects("RayCluster").values()
    asked: dict[str, set[str]] = {cluster["spec"]["authOptions"]["secretName"]: {"auth_token"}}
    for item in objects("Deployment").values():
        for template in templates(item):
            for variable in template["spec"]["containers"][0]["env"]:
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    asked.setdefault(reference["name"], set()).add(reference["key"])
    for item in (cluster, objects("Deployment")["mlflow"]):
        for template in templates(item):
            for volume in template["spec"]["volumes"]:
                if "secret" in volume:
                    asked[volume["secret"]["secretName"]] = {"credentials"}  # MLflow's file
                if "configMap" in volume:
                    asked[volume["configMap"]["name"]] = {"mlflow-auth.ini"}
    return asked


def test_the_readme_makes_the_secrets_that_the_objects_ask_for(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None or shutil.which("openssl") is None:
        pytest.skip("no kubectl or openssl is installed")
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    (block,) = (
        text
        for text in re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
        if "create secret" in text
    )
    offline = (
        'kubectl() { case "$*" in create\\ [sc]*) command kubectl "$@" --dry-run=client -o yaml; '
        "echo ---;; esac; }"
    )
    done = subprocess.run(
        ["bash", "-euc", f"{offline}\n{block}"],
        input="a-long-password\n",
        cwd=ROOT,
        env={
            "PATH": f"{Path(shutil.which('kubectl')).parent}:/usr/bin:/bin",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    made = {item["metadata"]["name"]: item for item in yaml.safe_load_all(done.stdout) if item}
    assert {name: set(item["data"]) for name, item in made.items()} == secret_keys()
    for item in made.values():
        kubernetes_validate.validate(item, KUBERNETES)


def test_no_file_has_a_password_in_it() -> None:
    for service in compose()["services"].values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN|KEY", name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
    for file in [each for each in DEPLOY.rglob("*") if each.is_file() and each.suffix != ".md"]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"://[^\s/:@]+:[^\s/@]+@", text), file
        assert not re.search(r"(?im)^\s*(admin_)?password\s*[:=]", text), file
    for item in objects("Deployment").values():
        for variable in templates(item)[0]["spec"]["containers"][0]["env"]:
            if re.search("PASSWORD|TOKEN|SECRET", variable["name"]):
                assert "value" not in variable


# --- compose ---


def compose_problems(*files: Path) -> str:
    """What compose's own schema says against files."""
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_compose_accepts_its_file() -> None:
    assert compose_problems(DEPLOY / "compose.yaml") == ""


def test_a_wrong_compose_file_would_be_refused(tmp_path: Path) -> None:
    changes = {"head": {"comand": []}, "worker": {"networks": 1}, "mlflow": {"ports": {"a": "b"}}}
    for service, wrong in changes.items():
        broken = compose()
        broken["services"][service].update(wrong)
        (tmp_path / f"{service}.yaml").write_text(yaml.safe_dump(broken), encoding="utf-8")
    problems = compose_problems(*tmp_path.iterdir())
    for service in changes:
        assert f"{service}.yaml::$.services.{service}" in problems


def test_what_is_open_to_the_host_is_open_to_it_alone() -> None:
    services = compose()["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert services["postgres"]["networks"] == ["database"]
    assert "database" not in services["head"]["networks"]
    for name in ("head", "worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_compose_and_kubernetes_start_one_mlflow_and_build_arguments_exist() -> None:
    services = compose()["services"]
    container = templates(objects("Deployment")["mlflow"])[0]["spec"]["containers"][0]
    mlflow = services["mlflow"]
    assert container["command"] == [*mlflow["entrypoint"], *mlflow["command"]]
    assert "--app-name=basic-auth" in container["command"]
    assert {each["name"] for each in container["env"]} == set(mlflow["environment"])
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile(), re.MULTILINE))
    assert set(mlflow["build"]["args"]) <= arguments


# --- shell, and the image's device ---


def test_shellcheck_has_nothing_to_say() -> None:
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [program, "--exclude=SC1091", DEPLOY / "slurm.sh"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("torch_is_for", ["cuda", "cpu"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_an_image_for_the_other_device_is_not_built(
    device: str, torch_is_for: str, tmp_path: Path
) -> None:
    version = "12.8" if torch_is_for == "cuda" else None
    (tmp_path / "torch.py").write_text(f"class version:\n    cuda = {version!r}\n")
    (line,) = re.findall(r"^RUN (/opt/robsearch/bin/python -c .*)$", dockerfile(), re.MULTILINE)
    done = subprocess.run(
        ["sh", "-c", line.replace("/opt/robsearch/bin/python", sys.executable)],
        env={"DEVICE": device, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    problem = f"DEVICE={device}, but torch is for {torch_is_for}: pass another TORCH_INDEX_URL\n"
    expected = (0, "") if device == torch_is_for else (1, problem)
    assert (done.returncode, done.stderr) == expected
