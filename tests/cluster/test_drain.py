"""A node is drained: the last pod of the server is not taken away, and after it all goes on."""

from __future__ import annotations

from tests.cluster.kubernetes import Kubernetes


def test_a_drain_leaves_what_the_budget_keeps_and_everything_comes_back(deployed: Kubernetes):
    (node,) = deployed.get("nodes")["items"]
    name = str(node["metadata"]["name"])

    def allowed() -> bool:
        budget = deployed.get("poddisruptionbudget", "mlflow", "--namespace=mlflow")
        # With a single pod the budget lets it go, so that a drain is not blocked for ever.
        return bool(budget["spec"]["maxUnavailable"] == budget["status"]["disruptionsAllowed"] == 1)

    deployed.wait(allowed)
    options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"]
    chosen = "--pod-selector=app.kubernetes.io/name in (mlflow,postgres,s3)"
    try:
        done = deployed("drain", name, *options, chosen, check=False)
        assert done.returncode == 0, done.stderr
        waiting = deployed.get("pods", "--namespace=mlflow", "--selector=app.kubernetes.io/name=mlflow")["items"]
        assert {pod["status"]["phase"] for pod in waiting if "deletionTimestamp" not in pod["metadata"]} == {"Pending"}
    finally:
        deployed("uncordon", name)
    for what in ("statefulset/postgres", "statefulset/s3", "deployment/mlflow"):
        deployed("rollout", "status", what, "--namespace=mlflow", "--timeout=300s", timeout=330)
    # What was registered is there again: the volumes stayed.
    pods = deployed.get("pods", "--namespace=mlflow")["items"]
    assert all(status["ready"] for pod in pods for status in pod["status"].get("containerStatuses", ()))
