"""Writing a run's checkpoints, and going on from one."""

import shutil
from pathlib import Path

from transformers import TrainerState

from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.records import NoticeLevel
from services.trainer.work.best import BestWeights
from services.trainer.work.callbacks import Telling
from services.trainer.work.checkpoints import (
    BEST,
    Manifest,
    check_checkpoint,
    checkpoint_name,
    copy_linked,
    finish_checkpoint,
    read_weights_into,
    write_weights,
)
from services.trainer.work.environment import library_versions
from services.trainer.work.events import EventWriter
from services.trainer.work.ranks import Ranks


class Saving:
    """The checkpoints of one run."""

    def __init__(
        self,
        directory: RunDirectory,
        trainer: RecipeTrainer,
        best: BestWeights,
        telling: Telling,
        events: EventWriter,
        ranks: Ranks,
    ) -> None:
        self._directory = directory
        self._trainer = trainer
        self._best = best
        self._telling = telling
        self._events = events
        self._ranks = ranks
        self._begun_at = 0
        trainer.hand_checkpoints_to(self.write, self._read)

    def write(self) -> None:
        """Write a checkpoint of the present step and tell of it, unless there is one.

        Every rank must call it after the same step: each has random numbers of its own to write.
        """
        step, epoch = self._trainer.state.global_step, self._trainer.state.epoch or 0.0
        target = self._directory.checkpoints / checkpoint_name(step)
        # The one that the run went on from is in the store; told again, it would be one of this attempt.
        if step <= self._begun_at or target.exists():
            return
        # Hidden from whoever lists checkpoints until it is renamed.
        draft = target.with_name(f".{target.name}.draft")
        if self._ranks.is_first:
            shutil.rmtree(draft, ignore_errors=True)
            write_weights(self._trainer.network, draft, step)
        self._ranks.wait()
        self._trainer.save_state(draft)
        self._ranks.wait()
        if self._ranks.is_first:
            if self._best.keeps:
                copy_linked(self._best.folder, draft / BEST)
            finish_checkpoint(draft, target, step, epoch, self._best.state())
            figures = self._telling.evaluated.get(step, {})
            self._events.checkpoint(step, epoch, f"checkpoints/{target.name}", figures)
        # Asked for once more, all find it written.
        self._ranks.wait()

    def go_on_from(self, path: Path, adapter: bool) -> bool:
        """Make ready to go on from a checkpoint; return whether there is anything left to train.

        Raises:
            BadCheckpoint: it is not whole.
        """
        manifest = check_checkpoint(path, adapter, self._ranks.count)
        self._begun_at = manifest.step
        self._events.notice(f"going on from step {manifest.step}")
        self._remark_on(manifest)
        self._best.restore(manifest.best)
        if (path / BEST).is_dir() and self._ranks.is_first:
            shutil.rmtree(self._best.folder, ignore_errors=True)
            copy_linked(path / BEST, self._best.folder)
        state = TrainerState.load_from_json(str(path / "trainer_state.json"))
        if state.global_step < state.max_steps and not self._best.has_had_enough:
            return True
        # The Trainer would do one step more before it saw that it was done.
        self._trainer.state = state
        self._read(path)
        return False

    def _read(self, path: Path) -> None:
        read_weights_into(self._trainer.network, path, self._begun_at)

    def _remark_on(self, manifest: Manifest) -> None:
        now = library_versions()
        changed = sorted(name for name, version in manifest.versions.items() if now.get(name) != version)
        if changed:
            told = ", ".join(f"{name} {manifest.versions[name]} is now {now.get(name)}" for name in changed)
            message = (
                f"going on with other libraries than before: {told}; the result may differ in its last bits"
            )
            self._events.notice(message, NoticeLevel.WARNING)
