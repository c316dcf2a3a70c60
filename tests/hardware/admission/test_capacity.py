from hypothesis import given
from hypothesis import strategies as st

from services.hardware.admission.capacity import account
from services.hardware.resources import HOST, Device, Reservation
from services.hardware.units import GIB
from tests.hardware.samples import gpu, inventory, reservation


def host(free: int, *reservations: Reservation, total: int = 16, capacity: int | None = None) -> Device:
    seen = inventory(total=total * GIB, free=free * GIB)
    limits = {} if capacity is None else {HOST: capacity * GIB}
    return next(device for device in account(seen, reservations, limits) if device.id == HOST)


def gib(device: Device) -> tuple[float, float, float]:
    return device.held_bytes / GIB, device.outside_bytes / GIB, device.available_bytes / GIB


def test_an_empty_node_has_what_nothing_outside_uses() -> None:
    assert gib(host(12)) == (0, 4, 12)


def test_a_promise_counts_before_anything_is_used() -> None:
    assert gib(host(16, reservation("runs/a-1", host=6 * GIB))) == (6, 0, 10)


def test_a_running_jobs_own_memory_is_not_counted_twice() -> None:
    # 5 of 6 promised are in use and reported: nothing is outside.
    assert gib(host(11, reservation("runs/a-1", host=6 * GIB, used=5 * GIB))) == (6, 0, 10)


def test_a_run_beyond_its_promise_counts_with_what_it_uses() -> None:
    assert gib(host(9, reservation("runs/a-1", host=6 * GIB, used=7 * GIB))) == (7, 0, 9)


def test_a_late_report_delays_and_never_admits() -> None:
    assert gib(host(11, reservation("runs/a-1", host=6 * GIB, used=0))) == (6, 5, 5)


def test_processes_outside_are_counted_beside_the_runs() -> None:
    assert gib(host(8, reservation("runs/a-1", host=6 * GIB, used=5 * GIB))) == (6, 3, 7)


def test_a_report_above_what_is_measured_leaves_nothing_outside() -> None:
    assert gib(host(14, reservation("runs/a-1", host=6 * GIB, used=5 * GIB))) == (6, 0, 10)


def test_a_lowered_capacity_bounds_what_jobs_get() -> None:
    assert gib(host(16, reservation("runs/a-1", host=3 * GIB), capacity=4)) == (3, 0, 1)


def test_outside_processes_live_on_the_rest_of_a_lowered_capacity_first() -> None:
    assert gib(host(12, capacity=8)) == (0, 4, 8)
    assert gib(host(5, capacity=8)) == (0, 11, 5)


def test_a_capacity_above_the_machine_is_the_machine() -> None:
    assert host(16, capacity=64).capacity_bytes == 16 * GIB


def test_every_gpu_is_a_device_of_its_own() -> None:
    seen = inventory(gpus=(gpu(0, free=70 * GIB), gpu(1)))
    devices = {device.id: device for device in account(seen, [reservation("runs/a-1", gpu_1=9 * GIB)], {})}
    assert devices["GPU-0"].available_bytes == 70 * GIB
    assert devices["GPU-1"].available_bytes == 71 * GIB
    assert list(devices) == ["GPU-0", "GPU-1", "host", "disk"]


amounts = st.integers(0, 32 * GIB)


@given(
    free=st.integers(0, 16 * GIB),
    held=st.lists(st.tuples(amounts, amounts), max_size=6),
    capacity=st.none() | amounts,
)
def test_what_is_available_never_exceeds_the_rest(
    free: int, held: list[tuple[int, int]], capacity: int | None
) -> None:
    reservations = [
        reservation(f"runs/a{index}-1", host=reserved, used=used)
        for index, (reserved, used) in enumerate(held)
    ]
    limits = {} if capacity is None else {HOST: capacity}
    device = next(d for d in account(inventory(free=free), reservations, limits) if d.id == HOST)
    assert 0 <= device.available_bytes <= device.capacity_bytes <= device.total_bytes
    if device.available_bytes:
        assert device.available_bytes + device.held_bytes + device.outside_bytes <= device.total_bytes
        assert device.available_bytes + device.held_bytes <= device.capacity_bytes
