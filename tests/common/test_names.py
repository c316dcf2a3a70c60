from collections.abc import Callable
from typing import Any

import pytest

from services.common import names
from services.common.errors import InvalidRequest

PAIRS: list[tuple[Callable[..., str], Callable[[str], Any], tuple[Any, ...], str]] = [
    (names.project_name, names.parse_project, ("p-1",), "projects/p-1"),
    (names.job_name, names.parse_job, ("p", "j1"), "projects/p/trainingJobs/j1"),
    (names.dataset_name, names.parse_dataset, ("p", "d_.1"), "projects/p/datasets/d_.1"),
    (names.upload_name, names.parse_upload, ("p", "u1"), "projects/p/uploads/u1"),
    (names.node_name, names.parse_node, ("node-1.local",), "nodes/node-1.local"),
    (names.run_name, names.parse_run, ("job1", 12), "runs/job1-12"),
]


@pytest.mark.parametrize(("make", "parse", "parts", "name"), PAIRS)
def test_a_name_is_made_of_its_parts_and_parsed_into_them(
    make: Callable[..., str], parse: Callable[[str], Any], parts: tuple[Any, ...], name: str
) -> None:
    assert make(*parts) == name
    assert parse(name) == (parts if len(parts) > 1 else parts[0])


@pytest.mark.parametrize(("make", "parse", "parts", "name"), PAIRS)
def test_anything_around_a_name_is_refused(
    make: Callable[..., str], parse: Callable[[str], Any], parts: tuple[Any, ...], name: str
) -> None:
    for wrong in (
        "",
        name + "/",
        "/" + name,
        name + "\n",
        name.upper(),
        name + "/../x",
        name.partition("/")[0],
    ):
        with pytest.raises(InvalidRequest) as caught:
            parse(wrong)
        assert len(caught.value.violations) == 1


@pytest.mark.parametrize("name", ["runs/job-0", "runs/job-01", "runs/job", "runs/job--1", "runs/a-b-1"])
def test_a_run_has_a_job_and_a_positive_attempt(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"run: .*runs/\{job\}-\{attempt\}"):
        names.parse_run(name)


def test_new_ids_differ_and_fit_every_name() -> None:
    ids = {names.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(names.parse_run(names.run_name(each, 1)) == (each, 1) for each in ids)


def test_a_chats_run_is_never_a_jobs() -> None:
    assert names.is_chat_run(names.chat_run_name())
    # A job's own id may begin with the same letters.
    assert not names.is_chat_run("runs/chat456789abcdef-1")
    assert not names.is_chat_run(names.run_name(names.new_id(), 1))
