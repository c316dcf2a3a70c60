"""Messages that the gateway carries without looking inside.

An estimate, a node's snapshot or a run's progress comes from one service and goes on to another or to a
caller. Kept as the bytes that arrived, it loses no field that a newer peer added, and costs no conversion.
"""

from typing import NewType

Packed = NewType("Packed", bytes)
"""A protobuf message's bytes. Which message, the name of what holds it says."""
