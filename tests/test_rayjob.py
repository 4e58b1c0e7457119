"""jobs/rayjob.yaml is what KubeRay and Kubernetes take, ends by itself, and nobody without the token gets in."""

import copy
import json
import os
from importlib.metadata import version
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

import xmrank

ROOT = Path(__file__).parents[1]
FILE = ROOT / "jobs" / "rayjob.yaml"
SCHEMA = json.loads((ROOT / "tests" / "rayjob_schema.json").read_text())
DEFINITION = Path(os.environ.get("XMRANK_REFERENCE", "reference")) / "kuberay" / "ray.io_rayjobs.yaml"
"""KubeRay's own definition (config/crd/bases of its operator), where it is at hand."""


@pytest.fixture
def job():
    # Through JSON: parts that the file has once and refers to are copies, as for Kubernetes.
    return json.loads(json.dumps(yaml.safe_load(FILE.read_text())))


def groups_of(job):
    """Head and worker groups by name."""
    cluster = job["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def pods_of(job):
    """The pod of every group, and the submitter's."""
    pods = {name: group["template"]["spec"] for name, group in groups_of(job).items()}
    return pods | {"submitter": job["spec"]["submitterPodTemplate"]["spec"]}


def check_pods(job):
    """Compare every pod with Kubernetes' schemas; fields that it does not know are errors."""
    for name, spec in pods_of(job).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def close_objects(schema):
    """The schema in which an object has no other fields than those that are named."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close_objects(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and len(schema["properties"]) > 0:
        closed["additionalProperties"] = False
    return closed


def test_its_fields_are_those_of_a_rayjob(job):
    jsonschema.validate(job, SCHEMA)
    check_pods(job)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "ttlSecondsAfterFinish"), 5),
        (("spec", "activeDeadlineSeconds"), "1d"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "password"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "toleration"), []),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ],
)
def test_the_check_of_fields_can_fail(job, path, value):
    *parents, last = path
    part = job
    for key in parents:
        part = part[key]
    part[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


def test_the_check_of_pods_can_fail(job):
    wrong = copy.deepcopy(job)
    pods_of(wrong)["gpu-spot"]["tolerations"][0]["operater"] = "Exists"
    with pytest.raises(kubernetes_validate.ValidationError, match="operater"):
        check_pods(wrong)


@pytest.mark.skipif(not DEFINITION.is_file(), reason="KubeRay's definition of a RayJob is not in XMRANK_REFERENCE")
def test_it_is_what_kuberays_own_definition_says(job):
    versions = yaml.safe_load(DEFINITION.read_text())["spec"]["versions"]
    (schema,) = [item["schema"]["openAPIV3Schema"] for item in versions if item["name"] == "v1"]
    jsonschema.validate(job["spec"], close_objects(schema["properties"]["spec"]))


def test_a_job_ends_and_its_cluster_too(job):
    spec = job["spec"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["backoffLimit"] == 1
    # KubeRay takes a time to live only together with the shutdown.
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0


def test_the_token_comes_from_a_secret(job):
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "xmrank-ray-token"}
    assert "RAY_AUTH_TOKEN" not in FILE.read_text()


def test_nothing_runs_as_root_or_may_become_root(job):
    for pod in pods_of(job).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_gpus_are_requested_where_they_are_tolerated_and_spot_comes_first(job):
    groups = groups_of(job)
    for name, group in groups.items():
        pod = group["template"]["spec"]
        gpus = pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        keys = [toleration["key"] for toleration in pod.get("tolerations", [])]
        assert (gpus, keys) == (("1", ["nvidia.com/gpu"]) if name.startswith("gpu") else (None, []))
    assert groups["gpu-spot"]["priority"] > groups["gpu-on-demand"]["priority"]
    assert job["spec"]["rayClusterSpec"]["autoscalerOptions"]["version"] == "v2"


def test_the_head_does_no_work_and_workers_come_and_go(job):
    head, *workers = groups_of(job).values()
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert {worker["minReplicas"] for worker in workers} == {0}


def test_images_are_pinned_and_of_this_version(job):
    images = {container["image"] for pod in pods_of(job).values() for container in pod["containers"]}
    assert images == {f"registry.example.com/xmrank:{xmrank.__version__}-gpu"}
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")


def test_every_pod_of_the_cluster_has_the_cache_and_shared_memory(job):
    for name in groups_of(job):
        pod = pods_of(job)[name]
        mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {"cache": "/cache", "shared-memory": "/dev/shm"}  # noqa: S108
        assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
        assert {"name": "XMRANK_CACHE", "value": "/cache"} in pod["containers"][0]["env"]
