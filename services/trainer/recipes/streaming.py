"""Where the bytes of packed experts are: on the device that computes, or in host memory, copied in time.

Streaming keeps two layers on the device. While one computes, the copy of the layer after the next runs on a
stream of its own, into the place of the layer that was used last: forwards in ascending order, backwards,
where checkpointing computes each layer again before its gradient, in descending order. A wrong guess costs
time and never a number: a layer that is not there is fetched, and waited for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

Payloads = Mapping[str, torch.Tensor]
"""The packed bytes of one layer's experts, by the name of the parameter."""

_AHEAD = 2


class ExpertBytes(Protocol):
    """One layer's packed experts, wherever they are."""

    @property
    def size_bytes(self) -> int:
        """The packed bytes of the layer."""
        ...

    def take(self, *, backward: bool) -> Payloads:
        """Return the bytes on the computing device, until `done`."""
        ...

    def used(self) -> None:
        """Say that all that was read of them so far is in the device's queue."""
        ...

    def done(self, *, backward: bool) -> None:
        """Say that this pass needs them no more."""
        ...


@dataclass(frozen=True)
class ResidentBytes:
    """Packed experts that stay on the device."""

    payloads: Payloads

    @property
    def size_bytes(self) -> int:
        """The packed bytes of the layer."""
        return sum(payload.nbytes for payload in self.payloads.values())

    def take(self, *, backward: bool) -> Payloads:
        """Return them."""
        return self.payloads

    def used(self) -> None:
        """Nothing waits for it."""

    def done(self, *, backward: bool) -> None:
        """Nothing takes their place."""


@dataclass(eq=False)
class _Slot:
    """Room on the device for one layer."""

    payloads: dict[str, torch.Tensor]
    layer: int | None = None
    filled: torch.cuda.Event | None = None
    read: torch.cuda.Event | None = None
    views: Payloads = field(default_factory=dict)


class ExpertStream:
    """The packed experts of all layers in host memory, and the two that are on the device."""

    def __init__(self, device: torch.device) -> None:
        """Without a GPU the same copies are made, one after the other, so that nothing but time differs."""
        self._device = device
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._layers: list[Payloads] = []
        self._slots: list[_Slot] = []
        self._last = 0
        self._last_backward = False
        self._ascending = True
        self.waits = 0
        """How many layers were not there when they were needed; one at the start of each run."""

    def add(self, payloads: Payloads) -> "StreamedBytes":
        """Take over the bytes of the next layer; layers come in the order in which they compute."""
        # The driver copies from pinned memory by itself; from other memory the host would have to wait.
        self._layers.append({name: _on_host(data, self._copying) for name, data in payloads.items()})
        return StreamedBytes(self, len(self._layers) - 1)

    @property
    def device_bytes(self) -> int:
        """The bytes that it takes on the device."""
        return sum(data.nbytes for slot in self._slots for data in slot.payloads.values())

    def size_bytes(self, layer: int) -> int:
        """Return the packed bytes of a layer."""
        return sum(payload.nbytes for payload in self._layers[layer].values())

    def take(self, layer: int, *, backward: bool) -> Payloads:
        """Return a layer's bytes on the device; what is put into the device's queue next waits for them."""
        if not self._slots:
            self._make_room()
        self._notice(layer, backward)
        slot = self._slot_of(layer)
        if slot is None:
            self.waits += 1
            slot = max(self._slots, key=lambda room: _distance(room, layer))
            self._fill(slot, layer)
        if slot.filled is not None:
            torch.cuda.current_stream(self._device).wait_event(slot.filled)
        return slot.views

    def used(self, layer: int) -> None:
        """Note that the layer's bytes may be written over once the device gets to this point of its queue."""
        slot = self._slot_of(layer)
        if slot is not None and slot.read is not None:
            slot.read.record(torch.cuda.current_stream(self._device))

    def done(self, layer: int, *, backward: bool) -> None:
        """Begin to fetch what comes after the next layer.

        What is computed again for a gradient is followed by that gradient, which needs the same bytes.
        """
        if not backward and not self._ascending:
            return
        step = -1 if backward else 1
        wanted = [layer + step * ahead for ahead in range(1, _AHEAD + 1)]
        wanted = [each for each in wanted if 0 <= each < len(self._layers)]
        for each in wanted:
            if self._slot_of(each) is None:
                free = next((slot for slot in self._slots if slot.layer not in wanted), None)
                if free is not None:
                    self._fill(free, each)

    def _notice(self, layer: int, backward: bool) -> None:
        if not backward and (layer != self._last or self._last_backward):
            # Backwards one layer follows the one above it; a longer way back is the start of another pass.
            self._ascending = layer >= self._last or layer < self._last - 1
        self._last, self._last_backward = layer, backward

    def _slot_of(self, layer: int) -> _Slot | None:
        return next((slot for slot in self._slots if slot.layer == layer), None)

    def _make_room(self) -> None:
        largest = {
            name: max(layer[name].nbytes for layer in self._layers if name in layer)
            for name in {name for layer in self._layers for name in layer}
        }
        for _ in range(min(_AHEAD, len(self._layers))):
            room = {
                name: torch.empty(size, dtype=torch.uint8, device=self._device)
                for name, size in largest.items()
            }
            slot = _Slot(room)
            if self._copying is not None:
                slot.filled, slot.read = torch.cuda.Event(), torch.cuda.Event()
                slot.read.record(torch.cuda.current_stream(self._device))
                for data in room.values():
                    # Its memory belongs to the computing stream, and must not be given away under a copy.
                    data.record_stream(self._copying)
            self._slots.append(slot)

    def _fill(self, slot: _Slot, layer: int) -> None:
        source = self._layers[layer]
        slot.views = {name: slot.payloads[name][: data.nbytes] for name, data in source.items()}
        slot.layer = layer
        if self._copying is None:
            for name, data in source.items():
                slot.views[name].copy_(data)
            return
        assert slot.filled is not None
        assert slot.read is not None
        self._copying.wait_event(slot.read)
        with torch.cuda.stream(self._copying):
            for name, data in source.items():
                slot.views[name].copy_(data, non_blocking=True)
            slot.filled.record(self._copying)


@dataclass(frozen=True)
class StreamedBytes:
    """Packed experts of one layer that are in host memory until they are needed."""

    stream: ExpertStream
    layer: int

    @property
    def size_bytes(self) -> int:
        """The packed bytes of the layer."""
        return self.stream.size_bytes(self.layer)

    def take(self, *, backward: bool) -> Payloads:
        """Return them on the device."""
        return self.stream.take(self.layer, backward=backward)

    def used(self) -> None:
        """Note that what was read so far is in the device's queue."""
        self.stream.used(self.layer)

    def done(self, *, backward: bool) -> None:
        """Let the next ones be fetched."""
        self.stream.done(self.layer, backward=backward)


def _distance(slot: _Slot, layer: int) -> float:
    return float("inf") if slot.layer is None else abs(slot.layer - layer)


def _on_host(data: torch.Tensor, copying: torch.cuda.Stream | None) -> torch.Tensor:
    host = torch.empty(data.shape, dtype=data.dtype, pin_memory=copying is not None)
    return host.copy_(data)
