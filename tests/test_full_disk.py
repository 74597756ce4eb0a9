"""A disk that takes no more, for real: a small file system. The record keeps what it acknowledged; with room it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_search import a_point, a_spec
from test_searcher import a_searcher, asked, result_of

from search.record.record import Record, open_storage, storage_errors
from search.trial.worker import describe
from spaces.errors import StudyError
from spaces.trial import Measurement, TrialState


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.name != "posix" or os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def opened(disk: Path) -> Record:
    spec = a_spec(disk)
    return Record(open_storage("sqlite", disk), spec.name, spec.objectives)


def write_trials(record: Record, acknowledged: list[int], up_to: int) -> None:
    """Each is acknowledged once it is written in full."""
    space = a_spec().space
    while record.next_number() < up_to:
        config, parameters = a_point(0)
        number = record.start(config, parameters, space).number
        metrics = {f"validation/{name}": 0.5 for name in ("accuracy", "macro_f1")}
        record.measured(Measurement(trial=number, attempt=1, step=3, share=1.0, metrics=metrics))
        record.set_state(number, TrialState.DONE, [0.5, 1000.0])
        acknowledged.append(number)


def test_the_record_keeps_what_it_acknowledged_and_goes_on(disk: Path) -> None:
    filler = disk / "filler"
    filler.write_bytes(b"x" * 400_000)
    record, acknowledged = opened(disk), list[int]()
    with (
        pytest.raises(
            StudyError, match=r"study.db cannot be read or written: .*(full|disk I/O).*mend that and run again"
        ),
        storage_errors("sqlite"),
    ):
        write_trials(record, acknowledged, up_to=5000)
    record.close()
    assert acknowledged
    filler.unlink()
    again = opened(disk)
    done = [outcome for outcome in again.outcomes() if outcome.state is TrialState.DONE]
    assert [outcome.number for outcome in done] == acknowledged
    assert all(len(outcome.measurements) == 1 for outcome in done)
    before = len(acknowledged)
    write_trials(again, acknowledged, up_to=before + 3)
    assert len(acknowledged) > before
    again.close()


def test_a_lane_without_room_ends_the_study_and_fails_no_trial(disk: Path, tmp_path: Path) -> None:
    """Else each trial would fail after the other, and for good."""
    searcher, record = a_searcher(tmp_path)
    item = asked(searcher)
    with pytest.raises(OSError, match="No space left") as full:
        (disk / "weights.safetensors").write_bytes(b"x" * 2_000_000)
    with pytest.raises(
        StudyError, match=r"trial 0: .*No space left on device.*Make room and run the same command again"
    ):
        searcher.finished(item.key, result_of(item, error=describe(full.value)))
    (outcome,) = record.outcomes()
    assert outcome.state is TrialState.RUNNING  # taken up by the same command
