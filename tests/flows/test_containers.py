"""Dockerfile, Kubernetes pool and alerts, read as their tools read them: no engine runs here."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.stack import Stack

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "flows" / "templates" / "kubernetes-pool.json"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_built_of_what_is_here_and_runs_as_nobody_special() -> None:
    found = instructions()
    words = [word for word, _ in found]

    assert words[0] == "FROM"
    assert set(words) <= {
        "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "STOPSIGNAL", "CMD",
    }  # fmt: skip
    for word, rest in found:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    assert dict(found)["USER"] == "latents"
    assert words.index("USER") < words.index("CMD")
    command = json.loads(dict(found)["CMD"])
    assert command[:3] == ["prefect", "worker", "start"]


def test_no_layer_holds_a_secret() -> None:
    text = (ROOT / "Dockerfile").read_text()

    assert not re.search(r"(PASSWORD|SECRET|TOKEN|KEY)\w*=", text)
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")


@pytest.fixture
def template() -> dict[str, Any]:
    return dict(json.loads(TEMPLATE.read_text()))


def test_the_job_is_one_that_kubernetes_knows(template: dict[str, Any]) -> None:
    manifest = template["job_configuration"]["job_manifest"]
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "Job")
    assert manifest["spec"]["backoffLimit"] == 0  # Prefect decides what runs again
    assert pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsNonRoot"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert container["envFrom"] == [{"secretRef": {"name": "{{ secret }}"}}]


def test_prefects_server_takes_the_pool_and_a_deployment_to_it(
    stack: Stack, template: dict[str, Any]
) -> None:
    """It refuses a template whose placeholders are not all described."""
    pool = {"name": "cluster", "type": "kubernetes", "base_job_template": template}
    broken = json.loads(json.dumps(template).replace('"gpus": {', '"gpu": {'))

    stack.ask("work_pools/", pool)

    with pytest.raises(AssertionError, match="gpus"):
        stack.ask("work_pools/", {**pool, "name": "broken", "base_job_template": broken})
    assert stack.ask("work_pools/cluster")["type"] == "kubernetes"


def test_prefects_server_takes_the_alerts(stack: Stack) -> None:
    automations = yaml.safe_load((TEMPLATE.parent / "alert.yaml").read_text())["automations"]

    made = [stack.ask("automations/", {**one, "enabled": False}) for one in automations]

    assert [one["name"] for one in made] == [one["name"] for one in automations]
    assert set(made[0]["trigger"]["expect"]) == {"latents.run.failed", "latents.run.crashed"}
