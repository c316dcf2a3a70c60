"""The other verbs: pictures, data sets, nodes, the audit trail."""

import subprocess
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest

from tests.client.fake_gateway import World
from weighbridge import exceptions as e
from weighbridge._predict import Image
from weighbridge.client import Client
from weighbridge.gateway.v1 import resources_pb2 as gateway
from weighbridge.gateway.v1 import service_pb2 as api
from weighbridge.hardware.v1 import resources_pb2 as hardware


def test_pictures_go_in_calls_that_fit_and_come_back_in_order(
    client: Client, world: World, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    pictures: list[Image] = [
        tmp_path / "a.png",
        *(bytes([number]) * (1 << 20) for number in range(6)),
        *([b"x"] * 70),
    ]
    found = client.predict("t1", pictures, top_k=1)
    requests = world.sent(api.ClassifyImagesRequest)
    assert [len(request.images) for request in requests] == [4, 64, 9]
    assert requests[0].images[0] == b"a"
    assert len(found) == 77
    assert [score.label for score in found[0].scores] == ["7"]


def test_a_picture_that_fits_into_no_call_is_named(client: Client, tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(bytes(5 << 20))
    with pytest.raises(e.TooLarge, match=r"big\.png has 5242880 bytes"):
        client.predict("t1", [tmp_path / "big.png"])


def test_listings_go_through_all_pages(client: Client, world: World) -> None:
    world.admissions = [gateway.Admission(name=f"admissions/{number}") for number in range(250)]
    assert len(list(client.admissions())) == 250
    assert len(list(client.admissions(limit=120))) == 120
    assert world.sent(api.ListAdmissionsRequest)[0].parent == "projects/default"


def test_the_audit_trail_can_be_narrowed(client: Client, world: World) -> None:
    list(client.admissions(job="t1", since=datetime(2026, 1, 1, tzinfo=UTC), all_projects=True))
    (request,) = world.sent(api.ListAdmissionsRequest)
    assert (request.parent, request.job) == ("projects/-", "projects/default/trainingJobs/t1")
    assert request.since.ToDatetime(UTC) == datetime(2026, 1, 1, tzinfo=UTC)


def test_outcomes_are_listed(client: Client, world: World) -> None:
    world.outcomes = [hardware.Outcome(run="runs/t1-1", predicted_bytes=10, measured_bytes=9)]
    assert [outcome.measured_bytes for outcome in client.outcomes()] == [9]


def test_nodes_are_listed_watched_and_taken_out_of_service(client: Client, world: World) -> None:
    world.nodes = [gateway.FleetNode(name="nodes/a"), gateway.FleetNode(name="nodes/b")]
    assert [node.name for node in client.nodes()] == ["nodes/a", "nodes/b"]
    # The fake ends each watch; the client takes it up again.
    assert [node.name for node in islice(client.watch_nodes(), 4)] == ["nodes/a", "nodes/b"] * 2
    assert client.cordon("a").cordoned
    assert not client.uncordon("nodes/a").cordoned
    assert client.drain("a").state == gateway.FLEET_NODE_STATE_DRAINING
    client.delete_node("a", force=True)
    (request,) = world.sent(api.DeleteNodeRequest)
    assert (request.name, request.force) == ("nodes/a", True)


def test_data_sets_are_imported_read_listed_and_deleted(client: Client, world: World) -> None:
    assert client.datasets.import_uri("s3://bucket/x", "x").name == "projects/default/datasets/x"
    world.datasets["projects/default/datasets/d"] = gateway.Dataset(name="projects/default/datasets/d")
    assert client.datasets.get("d").name == "projects/default/datasets/d"
    assert [dataset.name for dataset in client.datasets.list()] == ["projects/default/datasets/d"]
    client.datasets.delete("d")
    with pytest.raises(e.NotFound):
        client.datasets.get("d")


def test_importing_the_stubs_does_not_import_the_client() -> None:
    program = (
        "import sys; import weighbridge.gateway.v1.service_pb2; "
        "heavy = {'weighbridge.client', 'typer', 'rich', 'yaml'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "from weighbridge import Client, Job, WeighbridgeError"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_client_needs_neither_yaml_nor_typer_nor_rich() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['yaml', 'typer', 'rich'])); "
        "from weighbridge import Client; from weighbridge import spec_file; "
        "assert spec_file.parse({'task': 'sft'}).task == 2"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
