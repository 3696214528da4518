"""`python -m pipeline promote | rollback | history | audit`, on a real MLflow registry."""

from __future__ import annotations

import pytest

from components.tracking import Store
from pipeline.__main__ import main

NAME = "streets"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = tmp_path_factory.mktemp("registry")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        yield Store(None)


@pytest.fixture
def client(registry: Store):
    """Versions 1 and 2, which is the challenger, passed the gate; 3 did not."""
    client = registry.client
    client.create_registered_model(NAME)
    for reason, against in (("passed", "none"), ("passed", "1"), ("worse than the champion", "1")):
        client.create_model_version(NAME, "file:///nowhere", tags={"gate": reason, "gate.champion": against})
    client.set_registered_model_alias(NAME, "challenger", "2")
    yield client
    client.delete_registered_model(NAME)


@pytest.fixture
def pipeline(capsys):
    """Runs a command; gives its exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(list(arguments))
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_the_challenger_is_promoted_and_rolled_back_by_one_command_each(client, pipeline) -> None:
    assert pipeline("promote", NAME, "--version", "1", "--why", "first") == (
        0, "streets: promoted from no champion to version 1 by ada\n",
    )  # fmt: skip
    client.set_model_version_tag(NAME, "2", "model.key", "unet")
    client.set_model_version_tag(NAME, "2", "gate.found", "mIoU +2.1 points (95 % interval +1.0 to +3.3)")
    status, said = pipeline("promote", NAME, "--why", "sees poles")
    assert status == 0 and said.splitlines() == [
        "streets: the challenger is version 2 (unet): mIoU +2.1 points (95 % interval +1.0 to +3.3) against version 1",
        "streets: promoted from version 1 to version 2 by ada",
    ]
    assert "challenger" not in client.get_registered_model(NAME).aliases
    assert "streets has no challenger" in pipeline("promote", NAME, "--why", "again")[1]
    again = pipeline("promote", NAME, "--version", "2", "--why", "again")
    assert again == (0, "version 2 is the champion of streets already\n")
    assert pipeline("rollback", NAME, "--why", "halos") == (
        0, "streets: rolled back from version 2 to version 1 by ada\n",
    )  # fmt: skip
    assert client.get_model_version_by_alias(NAME, "champion").version == 1
    status, table = pipeline("history", NAME)
    assert status == 0
    rows = [line.split() for line in table.splitlines()]
    assert rows[0][:5] == ["when", "(UTC)", "what", "from", "to"]
    assert [row[2:7] for row in rows[1:]] == [
        ["promote", "-", "1", "ada", "passed"],
        ["promote", "1", "2", "ada", "passed"],
        ["rollback", "2", "1", "ada", "passed"],
    ]
    assert table.splitlines()[2].endswith("sees poles")


def test_the_gate_is_skipped_by_force_alone_and_the_audit_fails(client, pipeline) -> None:
    status, said = pipeline("promote", NAME, "--version", "3", "--why", "hurry")
    assert status == 1 and "has not passed the gate (worse than the champion)" in said
    status, said = pipeline("promote", NAME, "--version", "3", "--why", "hurry", "--force")
    assert status == 0 and "though the gate said: worse than the champion" in said
    status, said = pipeline("audit")
    assert status == 1
    assert "streets: GATE SKIPPED: version 3 is the champion. ada (forced) set version 3" in said
    assert "reason: hurry" in said
    assert pipeline("promote", NAME, "--why", "proper")[0] == 0
    status, said = pipeline("audit", NAME)
    assert status == 0 and "earlier, " in said and "version 2 is the champion and has passed the gate" in said
    assert "SKIPPED: worse than the champion" in pipeline("history", NAME)[1]


def test_a_promotion_in_the_ui_is_legitimate_and_noticed(client, pipeline) -> None:
    client.set_registered_model_alias(NAME, "champion", "2")
    status, said = pipeline("audit", NAME)
    assert status == 0
    assert "was moved to version 2 elsewhere" in said and "MLflow does not tell who or when" in said
    assert pipeline("audit", NAME) == (0, "streets: version 2 is the champion and has passed the gate\n")
    assert "elsewhere  -     2   unknown" in pipeline("history", NAME)[1]


def test_a_promotion_in_the_ui_of_what_did_not_pass_is_loud(client, pipeline) -> None:
    pipeline("promote", NAME, "--why", "first")
    client.set_registered_model_alias(NAME, "champion", "3")
    for _ in range(2):
        status, said = pipeline("audit", NAME)
        assert status == 1
        assert "GATE SKIPPED: version 3 is the champion. unknown (promoted elsewhere)" in said
        assert said.splitlines()[-1].startswith("error: a champion has not passed the gate; roll it back")
    assert pipeline("rollback", NAME, "--why", "nobody knows why")[0] == 0
    assert pipeline("audit", NAME)[0] == 0


def test_an_alias_that_was_removed_is_noticed(client, pipeline) -> None:
    pipeline("promote", NAME, "--why", "first")
    client.delete_registered_model_alias(NAME, "champion")
    status, said = pipeline("audit", NAME)
    assert status == 0 and "was removed elsewhere" in said and "rollback streets --why" in said


def test_a_gate_that_looked_at_another_champion_is_mentioned(client, pipeline) -> None:
    client.create_model_version(NAME, "file:///nowhere", tags={"gate": "passed", "gate.champion": "none"})
    pipeline("promote", NAME, "--version", "4", "--why", "first")
    status, said = pipeline("promote", NAME, "--why", "second")
    assert status == 0 and "note: the gate compared version 2 with version 1, not with version 4" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["promote", "nothing", "--why", "x"], "nothing: no such registered model"),
        (["promote", NAME, "--version", "9", "--why", "x"], "Model Version (name=streets, version=9) not found"),
        (["promote", NAME, "--why", " "], "--why: say in 1 to 1000 characters"),
        (["rollback", NAME, "--why", "x"], "streets has no previous champion"),
        (["history", "nothing"], "nothing: no such registered model"),
        (["audit", "nothing"], "nothing: no such registered model; there are streets"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, client, pipeline) -> None:
    status, said = pipeline(*arguments)
    assert status == 1
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1


def test_without_a_challenger_a_version_must_be_named(client, pipeline) -> None:
    client.delete_registered_model_alias(NAME, "challenger")
    status, said = pipeline("promote", NAME, "--why", "x")
    assert status == 1 and "streets has no challenger; name a version" in said


def test_nothing_was_promoted_yet(client, pipeline) -> None:
    assert pipeline("history", NAME) == (0, "no version of streets was ever promoted\n")
    assert pipeline("audit") == (0, "streets: no champion, and there never was one\n")
