"""What the ranks beside rank 0 do: the same as it, when it says so. They know no server and write nothing.

Images are read from rank 0's state directory, which every rank must see: a team lives on one machine, or on several
with a common file system. So each image is fetched from the server once, whatever the number of ranks. What is erased
there is dropped here too, by its order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from learner.assembly import Assembly, Job, assemble
from learner.augmentation import reader
from learner.batch import Acquaintance
from learner.errors import LearnerError, RoundAborted
from learner.evaluation import evaluate
from learner.examples import Example
from learner.model import Base
from learner.replay import kept_image
from learner.team import Team
from learner.vision import Vision
from learner.workplace import Pace, drop_image

logger = logging.getLogger(__name__)


class Follower:
    """Obeys the orders of `Team.hear`, each a method of its name here."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._base: Base | None = None
        self._vision: Vision | None = None
        self._training: Assembly | None = None
        self._obeyed: dict[str, Callable[..., object]] = {
            "open": self.open,
            "begin": self.begin,
            "prepare": self.prepare,
            "restore": self.restore,
            "step": self.step,
            "skip": self.skip,
            "evaluate": self.evaluate,
            "forget": self.forget,
            "drop": self.drop,
            "close": self.close,
        }

    def run(self) -> int:
        """Until rank 0 dismisses us: 0. Raises `TeamLost` when it is gone."""
        while True:
            what, arguments = self._team.hear()
            if what == "end":
                return 0
            self._obeyed[what](*arguments)

    def open(self, base_dir: Path, device: str, media: Path, feature_cache_bytes: int, shard_base: bool) -> None:
        """Load the model. `media`: rank 0's directory of images."""

        def read(sha256: str) -> bytes:
            content = kept_image(media, sha256)
            if content is None:
                raise LearnerError(f"{media / sha256} is not there; all processes need the same --state")
            return content

        self._base = Base(base_dir, device, self._team if shard_base else None)
        self._vision = Vision(self._base.model, base_dir, reader(read), feature_cache_bytes)

    def begin(self, pace: Pace, job: Job) -> None:
        assert self._base is not None and self._vision is not None, "open comes first"
        self._training = assemble(self._base, self._vision, pace, self._team, job)

    def prepare(self, examples: Sequence[Example], acquaintance: Acquaintance) -> None:
        self._acquainted(acquaintance).collator.complete(examples)

    def restore(self, directory: Path) -> None:
        self._held.trainer.restore(directory)

    def step(self, examples: Sequence[Example], acquaintance: Acquaintance) -> None:
        try:
            self._acquainted(acquaintance).trainer.step(examples)
        except RoundAborted as error:
            logger.info("%s", error)  # as on rank 0, which will say what comes next

    def skip(self) -> None:
        self._held.trainer.skip()

    def evaluate(self, examples: Sequence[Example], acquaintance: Acquaintance, beta: float) -> None:
        training = self._acquainted(acquaintance)
        evaluate(training.policy, training.engine, training.collator, examples, beta)

    def forget(self, groups: set[str]) -> None:
        self._held.collator.forget(groups)

    def drop(self, image: str) -> None:
        if self._vision is not None:
            drop_image(self._vision, image)

    def close(self) -> None:
        if self._training is not None:
            self._training.policy.close()
            self._training = None

    @property
    def _held(self) -> Assembly:
        assert self._training is not None, "begin comes first"
        return self._training

    def _acquainted(self, acquaintance: Acquaintance) -> Assembly:
        self._held.collator.acquaint(acquaintance)
        return self._held
