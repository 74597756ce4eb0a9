"""The same study and seed on one lane, twice, and a third time killed and continued: the same trials, measurements and weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from faults.harness import Blow, Study
from search.study.output import open_record, spec_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def found_by(study: Study) -> dict[str, Any]:
    """All that a study found but what time and place have a part in."""
    record, again = open_record(spec_of(study.output))
    try:
        trials = {
            f"{name}:{outcome.number}": (
                outcome.state,
                outcome.parameters,
                [(each.share, each.step, each.metrics, each.cost["mean_loss"]) for each in outcome.measurements],
            )
            for name, part in (("trial", record), ("confirm", again))
            for outcome in part.outcomes()
        }
    finally:
        record.close()
    weights = {
        str(path.relative_to(study.output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((study.output / "best").rglob("*.safetensors"))
    }
    assert weights
    return {"trials": trials, "weights": weights}


def test_the_same_study_on_one_lane_finds_the_same_bit_for_bit(tmp_path: Path) -> None:
    found = []
    for name, blows in (("one", []), ("two", []), ("killed", [Blow("driver", 40.0)])):
        (tmp_path / name).mkdir()
        search = {"halving": {"rungs": ["1/3", 1], "reduction": 2}, "startup_trials": 2}
        study = Study(tmp_path / name, seed=3, budget={"trials": 5}, resources={"lanes": 1}, search=search)
        run = study.run(blows)
        if blows:
            assert run.exit_status != 0
            assert all(blow.landed for blow in run.blows)
            run = study.run()
        assert (run.exit_status, run.faults) == (0, [])
        found.append(found_by(study))
    assert found[0] == found[1]
    assert found[0] == found[2]
