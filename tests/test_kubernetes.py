"""Oracle: the models that Kubeflow generates from the OpenAPI schemas of Kubernetes and JobSet (kubeflow-trainer-api).

They have no PyTorchJob; what wraps its pod template is checked against its fields as training-operator's release-1.9
documents them in ``pkg/apis/kubeflow.org/v1``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import typer.main
from kubeflow_trainer_api.models.io_k8s_api_batch_v1_job import IoK8sApiBatchV1Job
from kubeflow_trainer_api.models.io_k8s_api_core_v1_persistent_volume_claim import IoK8sApiCoreV1PersistentVolumeClaim
from kubeflow_trainer_api.models.io_k8s_api_core_v1_pod_template_spec import IoK8sApiCoreV1PodTemplateSpec
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from megalm.checkpoint.config import CheckpointConfig
from megalm.cli.app import app

FOLDER = Path(__file__).parents[1] / "launch" / "kubernetes"
JOBS = ("jobset", "pytorchjob")
USER = 10001
SAVED, REFUSED = 75, 2


class Fields(BaseModel):
    """Fields that are all known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RunPolicy(Fields):
    """How a PyTorchJob ends and is cleaned up."""

    cleanPodPolicy: Literal["All", "Running", "None"] | None = None
    ttlSecondsAfterFinished: int | None = None
    activeDeadlineSeconds: int | None = None
    backoffLimit: int | None = None
    suspend: bool | None = None


class ReplicaSpec(Fields):
    """The pods of one role."""

    replicas: int = Field(ge=1)
    restartPolicy: Literal["Always", "OnFailure", "Never", "ExitCode"] | None = None
    template: dict[str, Any]


class PyTorchJobSpec(Fields):
    """What a PyTorchJob is to do, without what an elastic one has."""

    runPolicy: RunPolicy | None = None
    nprocPerNode: str | None = None
    pytorchReplicaSpecs: dict[Literal["Master", "Worker"], ReplicaSpec]


class PyTorchJob(Fields):
    """A PyTorchJob."""

    apiVersion: Literal["kubeflow.org/v1"]
    kind: Literal["PyTorchJob"]
    metadata: dict[Literal["name", "namespace"], str]
    spec: PyTorchJobSpec


def manifest(name: str) -> Any:
    return YAML(typ="safe").load(FOLDER / f"{name}.yaml")


def pod_of(job: Any) -> Any:
    """Return the pod template of a manifest, wherever its kind has it."""
    spec = job["spec"]
    if job["kind"] == "JobSet":
        (replicated,) = spec["replicatedJobs"]
        spec = replicated["template"]["spec"]
    elif job["kind"] == "PyTorchJob":
        ((_, spec),) = spec["pytorchReplicaSpecs"].items()
    return spec["template"]


def understood(job: Any) -> Any:
    """Return what the schemas know of a manifest: what they do not know is left out.

    Raises:
        pydantic.ValidationError: a field has a value of another type.
    """
    if job["kind"] == "PyTorchJob":
        PyTorchJob.model_validate(job)
        (role,) = job["spec"]["pytorchReplicaSpecs"]
        spec = job["spec"]["pytorchReplicaSpecs"][role]
        template = IoK8sApiCoreV1PodTemplateSpec.from_dict(spec["template"])
        assert template is not None
        known = {**spec, "template": template.to_dict()}
        return {**job, "spec": {**job["spec"], "pytorchReplicaSpecs": {role: known}}}
    kinds = {
        "JobSet": JobsetV1alpha2JobSet,
        "Job": IoK8sApiBatchV1Job,
        "PersistentVolumeClaim": IoK8sApiCoreV1PersistentVolumeClaim,
    }
    return kinds[job["kind"]].from_dict(job).to_dict()


def keys(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every key of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if isinstance(tree, dict):
            yield (*path, key)
        yield from keys(value, (*path, key))


@pytest.mark.parametrize("name", ["corpus", "jobset", "pytorchjob", "volume"])
def test_every_field_is_one_of_the_schema(name: str) -> None:
    job = manifest(name)
    assert understood(job) == job


def test_every_manifest_is_looked_at() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == ["corpus", "jobset", "pytorchjob", "volume"]


def is_refused(job: Any) -> bool:
    try:
        return bool(understood(job) != job)
    except (ValueError, LookupError, TypeError, AttributeError):
        return True


@pytest.mark.parametrize("name", ["corpus", *JOBS])
def test_a_misspelt_field_is_seen_wherever_it_is(name: str) -> None:
    quantities = ("requests", "limits")  # of anything that a cluster has
    for path in keys(manifest(name)):
        if len(path) > 1 and path[-2] in quantities:
            continue
        job = place = manifest(name)
        for key in path[:-1]:
            place = place[key]
        place[f"{path[-1]}x"] = place.pop(path[-1])
        assert is_refused(job), path


@pytest.mark.parametrize("name", ["corpus", *JOBS])
def test_pods_are_what_the_image_is_made_for(name: str) -> None:
    spec = pod_of(manifest(name))["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    (container,) = spec["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["work"]["persistentVolumeClaim"]["claimName"] == manifest("volume")["metadata"]["name"]
    assert "command" not in container, "the image's own hands signals on"


@pytest.mark.parametrize("name", JOBS)
def test_jobs_have_time_to_save_and_are_told_what_megalm_knows(name: str) -> None:
    """Oracle: the command line itself, which parses the arguments."""
    spec = pod_of(manifest(name))["spec"]
    assert spec["terminationGracePeriodSeconds"] > CheckpointConfig().before_limit
    (container,) = spec["containers"]
    launch, launcher, *words = container["args"]
    verb = typer.main.get_command(app).commands[launch].commands[launcher]  # type: ignore[attr-defined]
    asked = verb.make_context(launcher, words).params
    host = asked["endpoint"].partition(":")[0]
    assert host in spec["initContainers"][0]["command"][-1]
    assert asked["run_file"] == "/run-file/run.yaml"
    assert asked["nodes"] == "2"


def test_a_jobset_knows_the_exit_codes() -> None:
    spec = manifest("jobset")["spec"]
    (job,) = (replicated["template"]["spec"] for replicated in spec["replicatedJobs"])
    codes = {
        value: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for value in rule.get("onExitCodes", {}).get("values", ())
    }
    assert codes == {SAVED: "Ignore", REFUSED: "FailJob"}
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # else Kubernetes refuses a podFailurePolicy
    assert job["completions"] == job["parallelism"] == 2
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    name = manifest("jobset")["metadata"]["name"]
    endpoint = job["template"]["spec"]["containers"][0]["args"][-1]
    assert endpoint == f"--rdzv-endpoint={name}-{spec['replicatedJobs'][0]['name']}-0-0.{name}:29400"
