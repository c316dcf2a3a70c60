"""How a run can fail by itself: errors with the fields that weighbridge.errors.v1.Reason names."""

import json


class BadItem(Exception):
    """An item of the data set cannot be used.

    Its one argument is text: a loader's process passes an error on as its type and the text of its traceback.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)

    @classmethod
    def of(cls, item: str, detail: str) -> "BadItem":
        """Return the error about `item`."""
        return cls(json.dumps([item, detail]))

    @property
    def item(self) -> str:
        """Which item."""
        return self._parts()[0]

    @property
    def detail(self) -> str:
        """What is wrong with it."""
        return self._parts()[1]

    def _parts(self) -> tuple[str, str]:
        # After a loader's process has passed it on, the arguments stand at the end of a traceback.
        last = str(self).rstrip().splitlines()[-1]
        item, detail = json.loads(last[last.index("[") :])
        return item, detail


class Diverged(Exception):
    """The loss, or a weight, is infinite or not a number after `step` optimiser steps."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is no finite number after step {step}")
        self.step = step


class BadCheckpoint(Exception):
    """The checkpoint to go on from is not whole."""

    def __init__(self, step: int, detail: str) -> None:
        super().__init__(f"the checkpoint of step {step}: {detail}")
        self.step = step
        self.detail = detail


class FetchFailed(Exception):
    """A model could not be had."""

    def __init__(self, item: str, detail: str) -> None:
        super().__init__(f"{item}: {detail}")
        self.item = item
        self.detail = detail
