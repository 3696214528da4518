"""Within MLflow's pod: gives the user of the secret on standard input an account, or its new password.

    kubectl -n kubeflow get secret segmodels -o json \
        | kubectl -n mlflow exec -i deploy/mlflow -c mlflow -- python -c "$(cat infra/k8s/mlflow_user.py)"

The user is no administrator: it manages the experiments and models that it makes, and reads the others.
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.request

API = "http://localhost:5000/api/2.0/mlflow/users"


def call(method: str, path: str, body: dict[str, str]) -> None:
    admin = f"{os.environ['MLFLOW_AUTH_ADMIN_USERNAME']}:{os.environ['MLFLOW_AUTH_ADMIN_PASSWORD']}"
    headers = {
        "Authorization": f"Basic {base64.b64encode(admin.encode()).decode()}",
        "Content-Type": "application/json",
        "Host": "mlflow.mlflow",  # the name that every overlay allows
    }
    request = urllib.request.Request(f"{API}/{path}", json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


secret = {key: base64.b64decode(value).decode() for key, value in json.load(sys.stdin)["data"].items()}
user = {"username": secret["MLFLOW_TRACKING_USERNAME"], "password": secret["MLFLOW_TRACKING_PASSWORD"]}
try:
    call("POST", "create", user)
    print(f"made the user {user['username']}")
except urllib.error.HTTPError as error:
    if json.load(error).get("error_code") != "RESOURCE_ALREADY_EXISTS":
        raise
    call("PATCH", "update-password", user)
    print(f"the user {user['username']} was there; it has the secret's password now")
