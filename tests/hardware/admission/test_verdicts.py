from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.common.specs import Attention, DeviceKind, PlacementOptions
from services.hardware.admission.verdicts import weigh
from services.hardware.resources import (
    DISK,
    HOST,
    DeviceAmount,
    Node,
    NodeState,
    Reservation,
    ReservationState,
)
from services.hardware.units import GIB
from services.hardware.weighing import Decision, LimitKind, Verdict
from tests.hardware.samples import SHA, estimate, gpu, inventory, node, placed, reservation, resolved_spec


def verdict(on: Node, host: int = 1, gpu: int = 0, disk: int = 0, **spec: Any) -> Verdict:
    sizes = {"host_bytes": host * GIB, "gpu_bytes": gpu * GIB, "disk_bytes": disk * GIB}
    return weigh(on, resolved_spec(**spec), estimate(**sizes))


def violated(found: Verdict) -> list[tuple[LimitKind, str]]:
    return [(limit.kind, limit.subject) for limit in found.limits if not limit.satisfied]


def test_a_job_that_fits_is_admitted_with_what_would_be_reserved() -> None:
    found = verdict(node(), host=6, disk=2)
    assert found.decision is Decision.ADMIT
    assert found.device is DeviceKind.CPU
    assert {a.device: a.reserved_bytes for a in found.amounts} == {HOST: 6 * GIB, DISK: 2 * GIB}
    assert found.summary == "fits nodes/lab-1 now: 6.0 GiB of host memory, 2.0 GiB of disk"
    assert violated(found) == []


def test_a_job_that_fits_when_others_are_done_waits_and_says_for_whom() -> None:
    found = verdict(node(inventory(free=14 * GIB), (reservation("runs/a-1", host=9 * GIB),)), host=8)
    assert found.decision is Decision.WAIT
    assert found.amounts == ()
    (limit,) = [limit for limit in found.limits if not limit.satisfied]
    assert (limit.needed_bytes, limit.available_bytes, limit.capacity_bytes) == (8 * GIB, 5 * GIB, 16 * GIB)
    assert [(h.holder, h.reserved_bytes, h.used_bytes) for h in limit.holders] == [
        ("runs/a-1", 9 * GIB, 0),
        ("outside", 0, 2 * GIB),
    ]
    assert found.summary == (
        "fits nodes/lab-1 but has to wait: 8.0 GiB of host memory are needed, "
        "5.0 GiB of 16.0 GiB are free now; "
        "held: 9.0 GiB by runs/a-1, 2.0 GiB by processes outside the platform"
    )


def test_a_job_beyond_the_capacity_is_rejected_with_a_remedy() -> None:
    found = verdict(node(), host=120)
    assert found.decision is Decision.REJECT
    assert "120.0 GiB of host memory are needed, and jobs may have 16.0 GiB at most" in found.summary
    assert "train an adapter (lora)" in found.summary


def test_rejection_goes_by_the_capacity_and_not_by_what_is_free() -> None:
    assert verdict(node(inventory(free=0)), host=16).decision is Decision.WAIT
    assert verdict(node(capacity={HOST: 8 * GIB}), host=9).decision is Decision.REJECT


def test_every_violated_limit_is_listed_before_the_satisfied_ones() -> None:
    found = verdict(node(), host=120, disk=1000, attn_implementation=Attention.FLASH_ATTENTION_2)
    assert violated(found) == [
        (LimitKind.CAPABILITY, "flash_attention_2"),
        (LimitKind.HOST_MEMORY, HOST),
        (LimitKind.DISK, DISK),
    ]
    assert [limit.satisfied for limit in found.limits] == [False, False, False, True]
    assert all(limit.message for limit in found.limits[:3])


def test_flash_attention_on_a_cpu_is_rejected_whatever_is_free() -> None:
    found = verdict(node(), attn_implementation=Attention.FLASH_ATTENTION_2)
    assert found.decision is Decision.REJECT
    assert "FlashAttention-2 runs on NVIDIA GPUs only" in found.summary


def test_a_node_that_takes_no_jobs_makes_the_job_wait() -> None:
    found = verdict(node(state=NodeState.NOT_READY, state_reason="no trainer has reported itself"))
    assert found.decision is Decision.WAIT
    assert "no trainer has reported itself" in found.summary


def test_a_job_pinned_to_another_node_is_rejected_here() -> None:
    pinned = PlacementOptions(node="nodes/lab-2")
    assert verdict(node(), placement=pinned).decision is Decision.REJECT
    assert verdict(node(name="nodes/lab-2"), placement=pinned).decision is Decision.ADMIT


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    found = verdict(node(inventory(gpus=(gpu(),))), host=2, gpu=20)
    assert found.device is DeviceKind.CUDA
    assert {a.device: a.reserved_bytes for a in found.amounts} == {"GPU-0": 20 * GIB, HOST: 2 * GIB, DISK: 0}


def test_a_cpu_job_leaves_the_gpu_alone() -> None:
    found = verdict(node(inventory(gpus=(gpu(),))), gpu=20, placement=placed(DeviceKind.CPU))
    assert [amount.device for amount in found.amounts] == [HOST, DISK]


def test_the_tightest_gpu_that_fits_is_chosen() -> None:
    gpus = (gpu(0), gpu(1, total=24 * GIB), gpu(2, total=16 * GIB))
    assert verdict(node(inventory(gpus=gpus)), gpu=20).amounts[0].device == "GPU-1"


def test_a_gpu_belongs_to_one_run_unless_both_share() -> None:
    def second(holder_shares: bool, job_shares: bool) -> Decision:
        held = (reservation("runs/a-1", shared=holder_shares, gpu_0=10 * GIB),)
        placement = placed(DeviceKind.CUDA, shared=job_shares)
        return verdict(node(inventory(gpus=(gpu(),)), held), gpu=20, placement=placement).decision

    assert second(holder_shares=True, job_shares=True) is Decision.ADMIT
    assert second(holder_shares=True, job_shares=False) is Decision.WAIT
    assert second(holder_shares=False, job_shares=True) is Decision.WAIT


def test_a_taken_gpu_says_whose_it_is() -> None:
    held = (reservation("runs/a-1", gpu_0=10 * GIB),)
    found = verdict(node(inventory(gpus=(gpu(),)), held), gpu=20)
    assert (
        "GPU 0 (NVIDIA H100) belongs to runs/a-1: wait, or set placement.shared in both jobs" in found.summary
    )


def test_a_free_gpu_is_taken_while_another_is_busy() -> None:
    held = (reservation("runs/a-1", gpu_0=10 * GIB),)
    found = verdict(node(inventory(gpus=(gpu(0), gpu(1))), held), gpu=20)
    assert found.amounts[0].device == "GPU-1"


def test_a_job_too_large_for_every_gpu_is_rejected_and_shown_each() -> None:
    found = verdict(node(inventory(gpus=(gpu(0), gpu(1)))), gpu=100)
    assert found.decision is Decision.REJECT
    assert violated(found) == [(LimitKind.GPU_MEMORY, "GPU-0"), (LimitKind.GPU_MEMORY, "GPU-1")]


def test_a_small_gpu_beside_a_busy_large_one_is_no_reason_to_reject() -> None:
    gpus = (gpu(0, free=10 * GIB), gpu(1, total=16 * GIB))
    found = verdict(node(inventory(gpus=gpus)), gpu=20)
    assert found.decision is Decision.WAIT
    assert violated(found) == [(LimitKind.GPU_MEMORY, "GPU-0")]


def test_host_memory_is_weighed_beside_the_gpu() -> None:
    found = verdict(node(inventory(gpus=(gpu(),))), host=17, gpu=20)
    assert violated(found) == [(LimitKind.HOST_MEMORY, HOST)]


def test_a_cuda_job_on_a_node_without_a_gpu_is_rejected_in_words() -> None:
    found = verdict(node(), gpu=20, placement=placed(DeviceKind.CUDA))
    assert found.decision is Decision.REJECT
    assert "has no NVIDIA GPU" in found.summary


sizes = st.integers(0, 20 * GIB)


@given(needs=st.lists(sizes, max_size=12), outside=st.integers(0, 16 * GIB))
def test_what_is_admitted_together_never_exceeds_the_capacity(needs: list[int], outside: int) -> None:
    held: tuple[Reservation, ...] = ()
    for index, needed in enumerate(needs):
        here = node(inventory(free=16 * GIB - outside), held)
        found = weigh(here, resolved_spec(), estimate(host_bytes=needed))
        if found.decision is Decision.ADMIT:
            held += (held_by(f"runs/a{index}-1", found.amounts),)
        assert sum(amount_on(HOST, one) for one in held) + outside <= 16 * GIB


@given(needs=sizes, free=st.integers(0, 16 * GIB), gpu_needs=sizes)
def test_the_decision_follows_from_the_limits(needs: int, free: int, gpu_needs: int) -> None:
    here = node(inventory(free=free, gpus=(gpu(total=16 * GIB),)))
    found = weigh(here, resolved_spec(), estimate(host_bytes=needs, gpu_bytes=gpu_needs))
    satisfied = all(limit.satisfied for limit in found.limits)
    possible = all(limit.within_capacity for limit in found.limits)
    expected = Decision.ADMIT if satisfied else Decision.WAIT if possible else Decision.REJECT
    assert found.decision is expected
    assert bool(found.amounts) is satisfied


def held_by(run: str, amounts: tuple[DeviceAmount, ...]) -> Reservation:
    return Reservation(run=run, state=ReservationState.HELD, amounts=amounts, spec_sha256=SHA)


def amount_on(device: str, held: Reservation) -> int:
    return sum(amount.reserved_bytes for amount in held.amounts if amount.device == device)
