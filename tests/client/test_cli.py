"""The command line: what it prints for people and for scripts, and how it ends."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from typer.testing import CliRunner, Result

from tests.client import sample_world as sample
from tests.client.fake_gateway import TOKEN, FakeGateway, Refusal, State, World
from weighbridge import exceptions as e
from weighbridge.cli.app import app
from weighbridge.cli.exits import MEANINGS, Exit, exit_of
from weighbridge.common.v1 import artifacts_pb2
from weighbridge.gateway.v1 import resources_pb2 as gateway_resources
from weighbridge.gateway.v1 import service_pb2 as api
from weighbridge.hardware.v1 import resources_pb2 as hw

Run = Callable[..., Result]
C = grpc.StatusCode


@pytest.fixture
def world() -> World:
    return sample.sample_world()


@pytest.fixture
def environment(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    settings = {"WEIGHBRIDGE_TARGET": gateway.target, "WEIGHBRIDGE_TOKEN": TOKEN, "COLUMNS": "120"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **settings}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "vit.yaml"
    path.write_text("task: image_classification\nmodel: {hub: a/b}\ndataset: digits\n")
    return path


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_nodes_show_what_each_device_has_and_who_holds_it(run: Run) -> None:
    result = run("nodes")
    assert result.exit_code == Exit.OK
    for words in (
        r"NODE +STATE +DEVICE +CAPACITY +HELD +OUTSIDE +AVAILABLE +RUNS",
        r"local +READY +GPU 0 NVIDIA H100 +80.0 GiB +12.0 GiB +1.0 GiB +67.0 GiB +1",
        r"host memory +24.0 GiB +3.0 GiB +4.0 GiB +17.0 GiB",
    ):
        assert re.search(words, result.stdout)


@pytest.mark.parametrize(
    ("decision", "status", "words"),
    [
        (hw.DECISION_ADMIT, Exit.OK, ["ADMIT: node local has 17.0 GiB"]),
        (
            hw.DECISION_WAIT,
            Exit.MUST_WAIT,
            ["WAIT: 19.0 GiB", "t0-1 3.0 GiB, outside 4.0 GiB"],
        ),
        (
            hw.DECISION_REJECT,
            Exit.DOES_NOT_FIT,
            [
                "REJECT: FlashAttention-2",
                "use `sdpa`",
                "1. training.gradient_checkpointing: false -> true",
            ],
        ),
    ],
)
def test_a_check_shows_the_verdict_and_ends_with_it(
    decision: hw.Decision.ValueType, status: Exit, words: list[str], run: Run, world: World, spec: Path
) -> None:
    world.check.verdict.CopyFrom(sample.verdict(decision))
    result = run("check", spec)
    assert result.exit_code == status
    assert all(
        text in result.stdout
        for text in [*words, "of which context 900 MiB, optimizer 680 MiB, activations 512 MiB"]
    )
    assert lines(run("check", spec, "--json"))[0]["verdict"]["decision"] == hw.Decision.Name(decision)


def test_a_spec_with_faults_names_all_of_them(run: Run, spec: Path, world: World) -> None:
    spec.write_text("task: image_clasification\nlearning_rate: 1\n")
    result = run("train", spec)
    assert result.exit_code == Exit.USAGE
    assert f"{spec}:1: task: 'image_clasification' is none of" in result.stderr
    assert f"{spec}:2: learning_rate: unknown key: did you mean training.learning_rate?" in result.stderr
    problems = json.loads(run("train", spec, "--json").stderr)["error"]["problems"]
    assert [(problem["line"], problem["field"]) for problem in problems] == [
        (1, "task"),
        (2, "learning_rate"),
    ]
    assert world.requests == []


def test_a_job_is_created_and_named(run: Run, spec: Path, world: World) -> None:
    result = run("train", spec, "--name", "first", "--request-id", "mine")
    assert "job t1 is PENDING: `weighbridge jobs watch t1` follows it" in result.stdout
    (request,) = world.sent(api.CreateTrainingJobRequest)
    assert (request.display_name, request.request_id) == ("first", "mine")


def test_a_watched_job_tells_its_life_once(run: Run, spec: Path) -> None:
    result = run("train", spec, "--watch")
    assert result.exit_code == Exit.OK
    told = [line.partition(" ")[2] for line in result.stdout.splitlines()]
    for words in (
        "ADMIT: node local has 17.0 GiB of host memory available, 3.0 GiB are needed",
        "waiting, number 2 in the queue: 3.0 GiB are needed, 1.2 GiB are free",
        "attempt 1 was lost: the worker's process vanished",
        "attempt 2 on local",
        "evaluation at step 20: accuracy 0.91, loss 0.31, f1 0.9",
        "SUCCEEDED: accuracy 0.93, loss 0.2",
    ):
        assert told.count(words) == 1
    progress = "step 10/40 (25%), epoch 1.0, loss 1.8000, lr 4.8e-05, 123.4 examples/s"
    assert f"{progress}, memory 2.0 GiB of 3.0 GiB, 1m left" in told
    states = ["PENDING", "WEIGHING", "QUEUED", "STARTING", "RUNNING", "QUEUED", "RUNNING"]
    assert [line for line in told if line in states] == states


def test_a_watch_for_scripts_is_one_event_a_line(run: Run, world: World) -> None:
    events = lines(run("jobs", "watch", "t1", "--json"))
    assert [event.get("cursor", "") for event in events] == ["", *(event.cursor for event in world.events)]
    assert events[-1]["job"]["state"] == "STATE_SUCCEEDED"


def test_a_watch_with_a_cursor_tells_only_what_came_later(run: Run) -> None:
    result = run("jobs", "watch", "t1", "--cursor", "12")
    assert "ADMIT" not in result.stdout
    assert "was lost" not in result.stdout
    assert "SUCCEEDED: accuracy 0.93" in result.stdout


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.STATE_FAILED, Exit.JOB_FAILED),
        (State.STATE_CANCELLED, Exit.JOB_CANCELLED),
        (State.STATE_REJECTED, Exit.DOES_NOT_FIT),
    ],
)
def test_a_watch_ends_as_the_job_did(state: State.ValueType, status: Exit, run: Run, world: World) -> None:
    world.events[-1].job.state = state
    world.events[-1].job.failure.CopyFrom(artifacts_pb2.Failure(message="it used 3 of 2 GiB"))
    result = run("jobs", "watch", "t1")
    assert result.exit_code == status
    assert f"{State.Name(state).removeprefix('STATE_')}: it used 3 of 2 GiB" in result.stdout


def test_a_job_is_shown_whole(run: Run, world: World) -> None:
    world.job.CopyFrom(world.events[-1].job)
    shown = run("jobs", "get", "t1").stdout
    for words in (
        "t1  SUCCEEDED",
        "accuracy 0.93",
        "ADMIT",
        "the worker's process vanished",
        "checkpoint at step 40",
    ):
        assert words in shown
    assert "num_train_epochs: 5\n" in shown
    assert lines(run("jobs", "get", "t1", "--json"))[0]["state"] == "STATE_SUCCEEDED"


def test_jobs_are_listed_by_state(run: Run, world: World) -> None:
    assert re.search(r"t1 +PENDING +image classification of vit from scratch", run("jobs", "list").stdout)
    assert [job["name"] for job in lines(run("jobs", "list", "--state", "pending", "--json"))] == [
        world.job.name
    ]
    assert lines(run("jobs", "list", "--state", "running", "--label", "a=b", "--json")) == []
    assert world.sent(api.ListTrainingJobsRequest)[-1].labels == {"a": "b"}


def test_data_sets_are_uploaded_listed_and_deleted(run: Run, tmp_path: Path, world: World) -> None:
    (tmp_path / "My Digits.zip").write_bytes(b"x" * 1000)
    result = run("datasets", "upload", tmp_path / "My Digits.zip")
    assert "data set my-digits: 3 examples, 1.0 KiB" in result.stdout
    assert "uploading My Digits.zip: 100% of 1.0 KiB" in result.stderr
    assert re.search(r"digits +image folder zip +1,797 +10 labels +879 KiB", run("datasets", "list").stdout)
    assert lines(run("datasets", "delete", "my-digits", "--json")) == [{"deleted": "my-digits"}]
    assert run("datasets", "delete", "my-digits").exit_code == Exit.NOT_FOUND


def test_a_data_set_of_text_says_how_long_its_rows_are(run: Run, world: World) -> None:
    assert "labels: 0 (180), 1 (180)" in run("datasets", "get", "digits").stdout
    lengths = {"min_characters": 12, "median_characters": 320, "p95_characters": 2100, "max_characters": 9870}
    text = {**lengths, "duplicate_count": 0, "conversational": True}
    summary = {"format": "DATASET_FORMAT_JSONL", "row_shape": "ROW_SHAPE_PREFERENCE", "text": text}
    chats = ParseDict(
        {"name": "projects/default/datasets/chats", "summary": summary}, gateway_resources.Dataset()
    )
    chats.summary.example_count, chats.summary.size_bytes = 1200, 3_000_000
    world.datasets[chats.name] = chats
    said = run("datasets", "get", "chats").stdout
    assert "data set chats: 1,200 examples (preferences, conversations), 2.9 MiB, jsonl" in said
    assert "characters of a row: 12 to 9,870, half of them up to 320, 95 % up to 2,100" in said
    assert "no row repeats another" in said
    chats.summary.text.duplicate_count = 4
    chats.warnings.append("0.33 % of the rows repeat an earlier one word for word: 4 (line 9, …)")
    said = run("datasets", "get", "chats").stdout
    assert "no row repeats" not in said
    assert "warning: 0.33 % of the rows" in said
    listed = run("datasets", "list").stdout
    assert re.search(r"chats +jsonl +1,200 +preferences, *conversations +2.9 MiB", listed)


def test_an_artifact_is_downloaded(run: Run, tmp_path: Path, world: World) -> None:
    assert run("jobs", "download", "t1").exit_code == Exit.CONFLICT
    world.files["a/b"] = b""
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    world.job.artifact.files.add(path="a/b", digest=empty)
    result = run("jobs", "download", "t1", "--to", tmp_path / "out", "--json")
    assert lines(result) == [{"directory": str(tmp_path / "out"), "files": [str(tmp_path / "out/a/b")]}]


def test_pictures_are_classified(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"x")
    assert re.search(r"one\.png +7 +90\.0% +1 6\.0%", run("predict", "t1", tmp_path / "one.png").stdout)
    (found,) = lines(run("predict", "t1", tmp_path / "one.png", "-k", 1, "--json"))
    assert found["scores"] == [{"label": "7", "probability": 0.9}]


def test_logs_are_printed_as_they_are(run: Run, world: World) -> None:
    world.lines = ["[bold]not markup[/bold]", "step 1"]
    assert run("jobs", "logs", "t1").stdout == "[bold]not markup[/bold]\nstep 1\n"
    assert [line["text"] for line in lines(run("jobs", "logs", "t1", "--json"))] == world.lines


def test_the_audit_trail_and_the_outcomes_are_tables(run: Run) -> None:
    assert re.search(r"t1-1 +user +local +ADMIT +3\.0 GiB", run("admissions").stdout)
    assert re.search(r"3\.0 GiB +2\.0 GiB +67%", run("outcomes").stdout)
    assert lines(run("admissions", "--json"))[0]["decision"] == "DECISION_ADMIT"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nodes",),
        ("nodes", "cordon", "local"),
        ("nodes", "uncordon", "local"),
        ("nodes", "drain", "local"),
        ("nodes", "delete", "local"),
        ("datasets", "list"),
        ("datasets", "get", "digits"),
        ("datasets", "import", "s3://bucket/digits.zip"),
        ("jobs", "cancel", "t1", "t1"),
        ("jobs", "resume", "t1"),
        ("jobs", "delete", "t1"),
        ("outcomes",),
        ("version",),
    ],
    ids=" ".join,
)
def test_every_command_speaks_to_people_and_to_scripts(arguments: tuple[str, ...], run: Run) -> None:
    for_people = run(*arguments)
    assert (for_people.exit_code, for_people.stderr) == (Exit.OK, "")
    assert for_people.stdout
    assert lines(run(*arguments, "--json"))


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal(C.INVALID_ARGUMENT, "INVALID_SPEC"), Exit.USAGE),
        (Refusal(C.NOT_FOUND, "NOT_FOUND"), Exit.NOT_FOUND),
        (Refusal(C.PERMISSION_DENIED, "PERMISSION_DENIED"), Exit.DENIED),
        (Refusal(C.UNAUTHENTICATED, "UNAUTHENTICATED"), Exit.DENIED),
        (Refusal(C.FAILED_PRECONDITION, "WRONG_STATE"), Exit.CONFLICT),
        (Refusal(C.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"), Exit.LIMIT),
        (Refusal(C.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"), Exit.UNAVAILABLE),
        (Refusal(C.INTERNAL, "INTERNAL"), Exit.UNEXPECTED),
    ],
    ids=lambda value: value.reason if isinstance(value, Refusal) else value.name,
)
def test_each_refusal_ends_the_command_in_its_own_way(
    refusal: Refusal, status: Exit, run: Run, world: World
) -> None:
    world.errors["GetTrainingJob"] = refusal
    result = run("jobs", "get", "t1", "--json")
    assert result.exit_code == status
    assert json.loads(result.stderr)["error"]["reason"] == refusal.reason
    assert run("jobs", "get", "t1").stderr == "error: no\n"


def test_violations_are_printed(run: Run, spec: Path, world: World) -> None:
    violations = {"spec.training.learning_rate": "must be above 0"}
    world.errors["CheckTrainingJob"] = Refusal(C.INVALID_ARGUMENT, "INVALID_REQUEST", violations=violations)
    assert "spec.training.learning_rate: must be above 0" in run("check", spec).stderr


@pytest.mark.parametrize(
    "arguments",
    [("jobs", "list", "--state", "runing"), ("jobs", "list", "--label", "x"), ("jobs", "watch"), ("nope",)],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...], run: Run) -> None:
    assert run(*arguments).exit_code == Exit.USAGE


def test_a_missing_file_is_named(run: Run) -> None:
    result = run("predict", "t1", "missing.png")
    assert result.exit_code == Exit.USAGE
    assert result.stderr == "error: missing.png: No such file or directory\n"


def test_the_help_documents_every_exit_status(run: Run) -> None:
    shown = run("--help").stdout
    assert set(MEANINGS) == set(Exit)
    for status, meaning in MEANINGS.items():
        assert re.search(rf"{status} +{re.escape(meaning)}", shown)


def test_every_exception_has_an_exit_status() -> None:
    assert exit_of(e.WeighbridgeError()) == Exit.UNEXPECTED
    assert exit_of(e.RequestIdReused("R", "m")) == Exit.CONFLICT
    assert exit_of(e.InvalidDataset("R", "m")) == Exit.USAGE


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "weighbridge.cli", *arguments]


def test_a_real_process_ends_with_the_status_and_prints_json(environment: dict[str, str], spec: Path) -> None:
    done = subprocess.run(
        command("jobs", "get", "t9", "--json"), env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (Exit.NOT_FOUND, "")
    assert json.loads(done.stderr)["error"]["reason"] == "NOT_FOUND"
    done = subprocess.run(
        command("train", str(spec), "--watch", "--json"), env=environment, capture_output=True, text=True
    )
    assert done.returncode == Exit.OK
    assert json.loads(done.stdout.splitlines()[-1])["job"]["state"] == "STATE_SUCCEEDED"


def test_a_platform_that_is_not_there_ends_with_unavailable(
    environment: dict[str, str], gateway: FakeGateway
) -> None:
    gateway.kill()
    done = subprocess.run(command("jobs", "list"), env=environment, capture_output=True, text=True)
    assert done.returncode == Exit.UNAVAILABLE
    assert "is it running?" in done.stderr


def test_ctrl_c_ends_the_watch_and_not_the_job(environment: dict[str, str], world: World) -> None:
    del world.events[-1]
    world.events[-1].ClearField("progress")
    process = subprocess.Popen(
        command("jobs", "watch", "t1"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "attention: sdpa" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED
    assert "job t1 goes on" in errors
    assert world.sent(api.CancelTrainingJobRequest) == []


def test_nodes_are_watched_until_ctrl_c(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        command("nodes", "--watch", "--json"), env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["name"] == "nodes/local"
        process.send_signal(signal.SIGINT)
        assert process.wait() == Exit.INTERRUPTED


def test_people_at_a_terminal_see_a_bar(environment: dict[str, str]) -> None:
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        command("jobs", "watch", "t1"), env={**environment, "TERM": "xterm"}, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(main, 65_536)
        except OSError:
            # How Linux says that the other end is closed.
            break
    assert process.wait() == Exit.OK
    os.close(main)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "40/40" in text
    assert "━" in text
    assert "SUCCEEDED: accuracy 0.93" in text


def test_completion_is_offered(environment: dict[str, str]) -> None:
    asked = {
        **environment,
        "_WEIGHBRIDGE_COMPLETE": "complete_bash",
        "COMP_WORDS": "weighbridge jobs w",
        "COMP_CWORD": "2",
    }
    program = "import sys; sys.argv[0] = 'weighbridge'; from weighbridge.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True)
    assert done.stdout.split() == ["watch"]
