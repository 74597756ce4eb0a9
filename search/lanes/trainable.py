"""Tune's side: a trainable that waits for one segment, a searcher that submits them, and the Tuner around both."""

from __future__ import annotations

import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from search.lanes.broker import POLL_SECONDS, ask
from spaces.errors import StudyError
from spaces.trial import WorkItem, WorkResult

SEGMENTS_A_RUN = 500  # of Tune, which holds some 25 kB of each until it ends
LOSSES_ALLOWED = 3  # of the Tune actor that waits for a segment; the segment itself is none the worse


class Segment(tune.Trainable):
    """One trial's training from one rung to the next: waits until the lanes are through with it.

    `config`: broker (its name) and key. Work and results do not pass through Tune, which copies, flattens, prints and
    saves whatever it is given; they stay with the broker until the driver has recorded them.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._broker = ray.get_actor(config["broker"])
        self._key: str = config["key"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._key = new_config["key"]
        return True

    def step(self) -> dict[str, Any]:
        while not ray.get(self._broker.settled.remote(self._key, POLL_SECONDS)):
            pass
        return {"done": True, "key": self._key}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None


class SegmentSearcher(Searcher, ABC):
    """What the study implements: `next_item` and `finished`, both called in the driver's main thread.

    What they raise ends the run and comes out of `run_segments`. Each result is acknowledged when `finished` returns:
    record it there.

    Tune pickles its searcher into tuner.pkl when the Tuner is made, though it would read that only to restore. What
    is pickled here is an empty shell, so a searcher may hold databases, locks and displays. Nothing is saved or
    restored by Tune; the record is elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self._broker: ActorHandle | None = None
        self._broker_name = ""
        self._keys: dict[str, str] = {}  # of the segments now with Tune, by Tune's trial id
        self._lost: list[str] = []  # keys whose Tune actor died: only the waiting has to be done again
        self._losses: dict[str, int] = {}
        self._begun, self._is_over = 0, False
        self._most: Callable[[], int] = lambda: 1

    @abstractmethod
    def next_item(self, trial_id: str) -> WorkItem | Literal["finished"] | None:
        """The next segment, or None to be asked again once another has finished, or "finished" for no more.

        None is allowed only while a segment is with the lanes: Tune would sleep, second by second, for ever.
        """

    @abstractmethod
    def finished(self, key: str, result: WorkResult) -> None:
        """A segment came back; with `result.error` if it failed."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.error is not None:
            return Searcher.FINISHED
        try:
            return self._suggest(trial_id)
        except Exception as error:  # Tune would wrap it, or go on
            self.error = error
            return Searcher.FINISHED

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        assert self._broker is not None, "use run_segments"
        if len(self._keys) >= self._most():
            return None
        if self._begun == SEGMENTS_A_RUN:
            return Searcher.FINISHED
        if self._lost:
            key = self._lost.pop()
        else:
            item = self.next_item(trial_id)
            if item == "finished":
                self._is_over = True
                return Searcher.FINISHED
            if item is None:
                assert self._keys, "next_item must not return None while no segment is with the lanes"
                return None
            assert isinstance(item, WorkItem)
            ray.get(self._broker.submit_segment.remote(item))
            key = item.key
        self._keys[trial_id] = key
        self._begun += 1
        return {"broker": self._broker_name, "key": key}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        key = self._keys.pop(trial_id, None)
        if key is None or self.error is not None:
            return
        try:
            self._complete(key)
        except Exception as problem:
            self.error = problem

    def _complete(self, key: str) -> None:
        assert self._broker is not None
        # Raises StudyError where the pool has given up, which is also why the trainable may have failed.
        result = ask(self._broker.wait.remote(key, 0))
        if result is not None:
            self.finished(key, result)
            self._broker.acknowledge.remote(key)
            return
        self._losses[key] = self._losses.get(key, 0) + 1
        if self._losses[key] > LOSSES_ALLOWED:
            raise StudyError(f"Tune lost the actor that waits for {key} {self._losses[key]} times")
        self._lost.append(key)

    def take_back(self) -> bool:
        """A run of Tune has ended. Whether another has to begin: there are more segments, or one is still with the lanes: told that
        there are no more, Tune asks for none in place of one whose actor died."""
        for trial_id in list(self._keys):
            self.on_trial_complete(trial_id, error=True)
        self._begun = 0
        return self.error is None and (bool(self._lost) or not self._is_over)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        return None

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> SegmentSearcher:
        return self


def run_segments(
    searcher: SegmentSearcher,
    broker: ActorHandle,
    broker_name: str,
    *,
    max_concurrent: Callable[[], int],
    storage: Path,
) -> None:
    """Run the searcher's segments until it says "finished" and the last is back. Raises what the searcher raised.

    `max_concurrent`, which may change, above the number of lanes keeps work queued, so that no lane waits for Tune. `storage`
    takes Tune's own files and is free of them afterwards.
    """
    searcher._most = max_concurrent
    searcher._broker, searcher._broker_name = broker, broker_name
    folder = storage.resolve() / f"tune-{uuid.uuid4().hex[:8]}"

    def tuner() -> tune.Tuner:
        return tune.Tuner(
            # No CPUs: the lanes own them. The resource exists once in a cluster, and puts the trainables on the head node.
            tune.with_resources(Segment, tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="segments",
                storage_path=str(folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
            ),
        )

    try:
        again = True
        while again:
            try:
                tuner().fit()
                again = searcher.take_back()
                shutil.rmtree(folder, ignore_errors=True)  # at its end Tune writes 10 kB of each segment
            except RuntimeError as error:  # of an actor that was killed for memory Tune thinks that it cannot be
                if not isinstance(error.__cause__, OutOfMemoryError):
                    raise
                searcher.take_back()
    except RayError as error:
        raise StudyError(f"Ray failed: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if searcher.error is not None:
        raise searcher.error


def _trial_name(trial: Trial) -> str:
    return trial.trial_id
