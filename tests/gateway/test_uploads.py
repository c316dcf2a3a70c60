"""Uploads: broken off, resumed, finished twice, refused; and nothing half stored."""

import asyncio
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.common.errors import (
    AlreadyExists,
    DigestMismatch,
    InvalidDataset,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    TooLarge,
    WrongOffset,
    WrongState,
)
from tests.gateway.archives import archive, good, png
from tests.gateway.rig import Caller, Rig, chunks, refused
from weighbridge.common.v1 import resolved_spec_pb2
from weighbridge.gateway.v1 import resources_pb2, service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")

DATA = archive(good(count=20))


async def begin(rig: Rig, dataset: str, size: int = len(DATA), caller: Caller | None = None) -> str:
    request = service_pb2.CreateUploadRequest(
        parent="projects/default", dataset_id=dataset, size_bytes=size, file_name="data.zip"
    )
    upload = await (caller or rig.alice).CreateUpload(request)
    rig.opened.append(upload.name)
    return str(upload.name)


def finish(name: str, data: bytes = DATA) -> service_pb2.FinishUploadRequest:
    return service_pb2.FinishUploadRequest(name=name, sha256=hashlib.sha256(data).hexdigest())


async def committed(rig: Rig, name: str) -> int:
    upload: resources_pb2.Upload = await rig.alice.GetUpload(service_pb2.GetUploadRequest(name=name))
    return upload.committed_size


async def dataset(rig: Rig, name: str) -> resources_pb2.Dataset:
    request = service_pb2.GetDatasetRequest(name=f"projects/default/datasets/{name}")
    found: resources_pb2.Dataset = await rig.alice.GetDataset(request)
    return found


async def test_an_upload_becomes_a_data_set(rig: Rig) -> None:
    made = await rig.upload("whole", DATA)
    summary = (await dataset(rig, "whole")).summary
    assert made.summary == summary
    assert summary.format == resolved_spec_pb2.DATASET_FORMAT_IMAGE_FOLDER_ZIP
    assert [(label.label, label.count) for label in summary.labels] == [("cat", 20), ("dog", 20)]
    assert (summary.example_count, summary.max_pixels, summary.size_bytes) == (40, 16, len(DATA))
    assert summary.digest == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert rig.store.read_bytes(summary.digest) == DATA
    assert made.caller == "user/alice"


async def test_an_upload_goes_on_where_a_killed_gateway_left_it(rig: Rig) -> None:
    name = await begin(rig, "resumed")
    half = len(DATA) // 2
    await rig.alice.WriteUpload(chunks(name, DATA[:half]))
    assert await committed(rig, name) == half
    broken = asyncio.create_task(rig.alice.WriteUpload(endless(name, DATA, half)))
    await rig.until(lambda: beyond(rig, name, half))
    await rig.kill_gateway()
    broken.cancel()
    await asyncio.gather(broken, return_exceptions=True)
    await rig.start_gateway()
    safe = await committed(rig, name)
    assert half < safe < len(DATA)
    await rig.alice.WriteUpload(chunks(name, DATA, start=safe))
    await rig.alice.FinishUpload(finish(name))
    assert rig.store.read_bytes((await dataset(rig, "resumed")).summary.digest) == DATA


async def endless(name: str, data: bytes, start: int) -> object:
    async for chunk in chunks(name, data[: start + 2000], start):
        yield chunk
    await asyncio.Event().wait()


async def beyond(rig: Rig, name: str, size: int) -> bool:
    return await committed(rig, name) > size


async def test_a_chunk_at_the_wrong_place_tells_the_right_one(rig: Rig) -> None:
    name = await begin(rig, "wrong")
    await rig.alice.WriteUpload(chunks(name, DATA[:1500]))
    error = await refused(rig.alice.WriteUpload(chunks(name, DATA, start=1400)))
    assert isinstance(error, WrongOffset)
    assert (error.offset, error.committed_size) == (1400, 1500)


async def test_more_than_was_announced_is_refused(rig: Rig) -> None:
    name = await begin(rig, "more", size=100)
    assert isinstance(await refused(rig.alice.WriteUpload(chunks(name, DATA))), TooLarge)


async def test_a_finish_before_the_end_is_refused(rig: Rig) -> None:
    name = await begin(rig, "early")
    await rig.alice.WriteUpload(chunks(name, DATA[:1500]))
    error = await refused(rig.alice.FinishUpload(finish(name)))
    assert isinstance(error, WrongState)
    assert f"1500 of {len(DATA)}" in str(error)


async def test_finishing_again_or_together_makes_one_data_set(rig: Rig) -> None:
    name = await begin(rig, "twice")
    await rig.alice.WriteUpload(chunks(name, DATA))
    made = await asyncio.gather(*(rig.alice.FinishUpload(finish(name)) for _ in range(4)))
    made.append(await rig.alice.FinishUpload(finish(name)))
    assert len({each.SerializeToString() for each in made}) == 1
    other = service_pb2.FinishUploadRequest(name=name, sha256="0" * 64)
    assert isinstance(await refused(rig.alice.FinishUpload(other)), DigestMismatch)


async def test_a_wrong_digest_keeps_nothing(rig: Rig) -> None:
    # Bytes of its own: what another test put into the store is not to be found here.
    data = archive({**good(), "cat/own.png": png(99)})
    name = await begin(rig, "digest", len(data))
    await rig.alice.WriteUpload(chunks(name, data))
    error = await refused(rig.alice.FinishUpload(service_pb2.FinishUploadRequest(name=name, sha256="a" * 64)))
    assert isinstance(error, DigestMismatch)
    assert error.actual == f"sha256:{hashlib.sha256(data).hexdigest()}"
    await nothing_is_left(rig, name, "digest", data)


async def test_bad_data_keeps_nothing(rig: Rig) -> None:
    data = archive({"cat/a.png": png(), "dog/b.png": b"not an image, but a lie"})
    name = await begin(rig, "bad", len(data))
    await rig.alice.WriteUpload(chunks(name, data))
    error = await refused(rig.alice.FinishUpload(finish(name, data)))
    assert isinstance(error, InvalidDataset)
    assert error.item == "dog/b.png"
    await nothing_is_left(rig, name, "bad", data)


async def nothing_is_left(rig: Rig, upload: str, name: str, data: bytes) -> None:
    assert isinstance(await refused(committed(rig, upload)), NotFound)
    assert isinstance(await refused(dataset(rig, name)), NotFound)
    parts = [data[start : start + 1500] for start in range(0, len(data), 1500)]
    digests = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in (data, *parts)]
    await rig.until(lambda: not any(rig.store.exists(digest) for digest in digests))


async def test_aborting_throws_an_upload_away_however_often(rig: Rig) -> None:
    name = await begin(rig, "aborted")
    for _ in range(2):
        await rig.alice.AbortUpload(service_pb2.AbortUploadRequest(name=name))
    assert isinstance(await refused(committed(rig, name)), NotFound)


async def test_another_projects_upload_does_not_exist(rig: Rig) -> None:
    name = await begin(rig, "mine")
    for call in (
        rig.bob.GetUpload(service_pb2.GetUploadRequest(name=name)),
        rig.bob.WriteUpload(chunks(name, DATA)),
        rig.bob.FinishUpload(finish(name)),
    ):
        assert isinstance(await refused(call), NotFound)
    await rig.bob.AbortUpload(service_pb2.AbortUploadRequest(name=name))
    assert await committed(rig, name) == 0
    await rig.alice.AbortUpload(service_pb2.AbortUploadRequest(name=name))


async def test_open_uploads_and_sizes_are_limited(rig: Rig) -> None:
    for number in range(3):
        await begin(rig, f"many{number}")
    error = await refused(begin(rig, "many3"))
    assert isinstance(error, QuotaExceeded)
    assert error.limit == "3"
    assert error.retry_after_s > 0
    assert isinstance(await refused(begin(rig, "huge", size=1 << 40)), TooLarge)


async def test_a_data_set_never_changes(rig: Rig) -> None:
    await rig.upload("fixed", DATA)
    assert isinstance(await refused(begin(rig, "fixed")), AlreadyExists)


async def test_rows_of_text_become_a_data_set_with_its_report(rig: Rig) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": f"ask {n % 3}"}, {"from": "gpt", "value": "yes"}]}
        for n in range(4)
    ]
    data = "\n".join(map(json.dumps, rows)).encode()
    made = await rig.upload("chats", data)
    summary = (await dataset(rig, "chats")).summary
    assert made.summary == summary
    assert summary.format == resolved_spec_pb2.DATASET_FORMAT_JSONL
    assert summary.row_shape == resolved_spec_pb2.ROW_SHAPE_MESSAGES
    assert (summary.example_count, summary.unpacked_bytes) == (4, 32)
    text = summary.text
    assert (text.min_characters, text.max_characters, text.duplicate_count) == (8, 8, 1)
    assert text.conversational
    assert [warning.partition(":")[0] for warning in made.warnings] == [
        "rows spelled as ShareGPT's (conversations) are read as messages, with the roles user and assistant",
        "25 % of the rows repeat an earlier one word for word",
    ]


async def test_parquet_and_csv_are_told_apart_by_their_bytes(rig: Rig) -> None:
    target = pa.BufferOutputStream()
    pq.write_table(pa.table({"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"]}), target)
    parquet = await rig.upload("parquet", target.getvalue().to_pybytes())
    assert parquet.summary.format == resolved_spec_pb2.DATASET_FORMAT_PARQUET
    assert parquet.summary.row_shape == resolved_spec_pb2.ROW_SHAPE_PREFERENCE
    comma = await rig.upload("comma", b"prompt,completion\r\na,b\r\n")
    assert comma.summary.format == resolved_spec_pb2.DATASET_FORMAT_CSV
    assert comma.summary.row_shape == resolved_spec_pb2.ROW_SHAPE_PROMPT_COMPLETION
    assert isinstance(await refused(rig.upload("text", b"hello world")), InvalidDataset)


async def test_a_bad_row_is_named_by_line_and_column_and_nothing_is_kept(rig: Rig) -> None:
    data = b'{"messages": [{"role": "user", "content": "a"}]}\n' * 3
    name = await begin(rig, "rows", len(data))
    await rig.alice.WriteUpload(chunks(name, data))
    error = await refused(rig.alice.FinishUpload(finish(name, data)))
    assert isinstance(error, InvalidDataset)
    assert error.item == "line 1, column messages"
    assert error.limit == "a turn of the assistant to learn from"
    assert error.actual == "turns of user only; faults also in line 2, line 3"
    await nothing_is_left(rig, name, "rows", data)


async def test_what_an_upload_announces_is_held_against_its_bytes(rig: Rig) -> None:
    data = b"PAR1 and so on"
    request = service_pb2.CreateUploadRequest(
        parent="projects/default",
        dataset_id="announced",
        size_bytes=len(data),
        format=resolved_spec_pb2.DATASET_FORMAT_JSONL,
        file_name="data.jsonl",
    )
    upload = await rig.alice.CreateUpload(request)
    await rig.alice.WriteUpload(chunks(upload.name, data))
    error = await refused(rig.alice.FinishUpload(finish(upload.name, data)))
    assert str(error) == "data.jsonl: JSON lines, as was announced, but found a Parquet file"


async def test_a_data_set_is_deleted_when_no_live_job_needs_it(rig: Rig) -> None:
    data = archive({**good(), "dog/own.png": png(98)})
    made = await rig.upload("deleted", data)
    job = await rig.create(dataset=made.name)
    delete = service_pb2.DeleteDatasetRequest(name=made.name)
    error = await refused(rig.alice.DeleteDataset(delete))
    assert error.reason == "IN_USE"
    assert job in str(error)
    await rig.cancel(job)
    await rig.in_state(job)
    await rig.alice.DeleteDataset(delete)
    assert isinstance(await refused(dataset(rig, "deleted")), NotFound)
    await rig.until(lambda: not rig.store.exists(made.summary.digest))


async def test_data_sets_are_listed_in_pages_newest_first(rig: Rig) -> None:
    for number in range(3):
        await rig.upload(f"page{number}", DATA)
    listing = service_pb2.ListDatasetsRequest(parent="projects/default", page_size=2)
    first = await rig.alice.ListDatasets(listing)
    listing.page_token = first.next_page_token
    second = await rig.alice.ListDatasets(listing)
    names = [each.name.rpartition("/")[2] for page in (first, second) for each in page.datasets]
    assert names[:3] == ["page2", "page1", "page0"]


async def test_an_import_comes_from_where_it_is_allowed_only(rig: Rig) -> None:
    imports = rig.directory / "imports"
    imports.mkdir(exist_ok=True)
    (imports / "data.zip").write_bytes(DATA)
    (rig.directory / "secret.zip").write_bytes(DATA)
    (imports / "link.zip").symlink_to(rig.directory / "secret.zip")

    def request(uri: str, dataset_id: str = "imported") -> service_pb2.ImportDatasetRequest:
        return service_pb2.ImportDatasetRequest(parent="projects/default", dataset_id=dataset_id, uri=uri)

    made = await rig.alice.ImportDataset(request(f"file://{imports}/data.zip"))
    assert made.summary.example_count == 40
    (imports / "rows.csv").write_text("text\nhello\n")
    text = await rig.alice.ImportDataset(request(f"file://{imports}/rows.csv", "imported-text"))
    assert text.summary.text.max_characters == 5
    for uri in (
        f"file://{rig.directory}/secret.zip",
        f"file://{imports}/../secret.zip",
        f"file://{imports}/%2e%2e/secret.zip",
        f"file://{imports}/link.zip",
        f"file://{imports}-more/data.zip",
        f"zip://x::file://{imports}/data.zip",
        "http://127.0.0.1/data.zip",
        f"file://{imports}/missing.zip",
    ):
        error = await refused(rig.alice.ImportDataset(request(uri, "elsewhere")))
        assert isinstance(error, InvalidRequest), uri
    assert isinstance(
        await refused(rig.alice.ImportDataset(request(f"file://{imports}/data.zip"))), AlreadyExists
    )
