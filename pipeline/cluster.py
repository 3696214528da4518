"""Kubeflow Pipelines on a cluster: connecting, stopping and scheduling runs.

Whatever the cluster or the network says is told as one sentence.
"""

from __future__ import annotations

import contextlib
import io
import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.errors import StepError

if TYPE_CHECKING:
    from kfp import Client

PROBE_SECONDS = 5


@dataclass(frozen=True)
class Kubeflow:
    """An installation of Kubeflow Pipelines.

    Attributes:
        host: Its address.
        namespace: Where runs belong in a multi-user installation.
        token: Bearer token.
    """

    host: str
    namespace: str | None = None
    token: str | None = None

    @classmethod
    def at(cls, host: str, namespace: str | None = None, token: str | None = None) -> Kubeflow:
        """Return the installation behind an address, `https://` where it names no scheme.

        Raises:
            StepError: The address is empty.
        """
        if not host:
            raise StepError("no cluster: give --host http://… or set KF_PIPELINES_ENDPOINT; `run` needs none")
        return cls((host if "://" in host else f"https://{host}").rstrip("/"), namespace, token)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """kfp's client, once something answers; what goes wrong in the body is one sentence.

        Raises:
            StepError: There is no cluster, or it refuses.
        """
        self.probe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which versions of a cluster kfp's client works with
            import kfp
            from kfp_server_api.exceptions import ApiException
            from urllib3.exceptions import HTTPError

            try:
                yield kfp.Client(host=self.host, namespace=self.namespace or "kubeflow", existing_token=self.token)
            except ApiException as error:
                raise StepError(f"{self.host}: refuses (HTTP {error.status}{_message(error.body)})") from None
            except (HTTPError, OSError, ValueError) as error:
                raise StepError(f"{self.host}: {' '.join(str(error).split())}") from None

    def page(self, run_id: str) -> str:
        """Return the address of a run in the user interface."""
        return f"{self.host}/#/runs/details/{run_id}"

    def get(self, path: str) -> Any:
        """Return what the API answers to a question, as kfp's client does not tell it.

        Raises:
            StepError: It does not answer, refuses, or does not know.
        """
        try:
            with self.open(path) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise StepError(f"{self.host}: refuses (HTTP {error.code}{_message(error.read().decode())})") from None
        except OSError as error:
            raise StepError(f"{self.host}: {getattr(error, 'reason', error)}") from None
        except ValueError:
            raise StepError(f"{self.host}{path}: the answer is not Kubeflow's") from None

    def open(self, path: str) -> Any:
        """Open an address of the cluster."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return urllib.request.urlopen(urllib.request.Request(f"{self.host}{path}", headers=headers), timeout=60)

    def probe(self) -> None:
        """Find out within seconds whether Kubeflow answers: its client would try for minutes.

        Raises:
            StepError: It does not, or refuses.
        """
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            request = urllib.request.Request(f"{self.host}/apis/v2beta1/healthz", headers=headers)
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as answer:
                json.load(answer)
        except urllib.error.HTTPError as error:
            hint = "; give a token with --token-file" if error.code in (401, 403) else ""
            raise StepError(f"{self.host}: Kubeflow Pipelines refuses (HTTP {error.code}){hint}") from None
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            raise StepError(
                f"{self.host}: no Kubeflow Pipelines answers there ({reason}); check --host, or run it without a "
                "cluster: `python -m pipeline run`"
            ) from None
        except ValueError:
            raise StepError(
                f"{self.host}: what answers is not Kubeflow Pipelines, perhaps a login page; give a token with "
                "--token-file"
            ) from None


def cancel(kubeflow: Kubeflow, run_id: str) -> None:
    """Stop a run. Trainings save their state and go on when the same run is submitted again."""
    with kubeflow.client() as client:
        state = str(client.get_run(run_id).state)
        if state in ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"):
            print(f"run {run_id} has ended already ({state})")
            return
        client.terminate_run(run_id)
    print(f"run {run_id} is being stopped; `python -m pipeline status {run_id}` follows it")


def schedule(kubeflow: Kubeflow, package: str, *, name: str, experiment: str, cron: str, enabled: bool) -> str:
    """Make a run recur; one of the same name is replaced.

    Args:
        kubeflow: The cluster.
        package: Compiled pipeline.
        name: Of the recurring run.
        experiment: Made where it does not exist.
        cron: Six fields, seconds first, as Kubeflow has them; five get a 0 in front.
        enabled: Whether it begins at once.

    Returns:
        Its id.

    Raises:
        StepError: The expression has another number of fields.
    """
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise StepError(f"--cron {cron!r}: five fields (minute hour day month weekday), or six with seconds in front")
    # kfp's client prints addresses of its own.
    with kubeflow.client() as client, contextlib.redirect_stdout(io.StringIO()):
        made = client.create_experiment(experiment, namespace=kubeflow.namespace)
        before = client.list_recurring_runs(page_size=100, experiment_id=made.experiment_id).recurring_runs or []
        recurring = client.create_recurring_run(
            made.experiment_id,
            name,
            cron_expression=" ".join(fields if len(fields) == 6 else ["0", *fields]),
            pipeline_package_path=package,
            max_concurrency=1,
            no_catchup=True,
            enabled=enabled,
        )
        # The new one stands before the old ones go: a failure in between leaves two, not none.
        for other in before:
            if other.display_name == name:
                client.delete_recurring_run(other.recurring_run_id)
    return str(recurring.recurring_run_id)


def _message(body: object) -> str:
    """Return the sentence in an answer of Kubeflow, if there is one."""
    try:
        content = json.loads(str(body))
    except ValueError:
        return ""
    text = content.get("message") or content.get("error") if isinstance(content, dict) else None
    return f": {text}" if text else ""
