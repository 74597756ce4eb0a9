"""Fronts by hand, as properties, and against counting; rows of the result table by hand."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from search.results.front import ParetoFront, Reference, dominates, hypervolume, knee, non_dominated
from search.results.students import smallest_within, student_rows
from search.results.table import front_as_json, front_as_text, write_front_csv
from spaces.space import parse_space
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialConfig, TrialOutcome, TrialState

DOWN = ("minimize", "minimize")
REFERENCES = (
    Reference(
        name="teacher",
        label="teacher",
        num_parameters=109_483_778,
        num_bytes=437_960_000,
        metrics={"validation/accuracy": 0.92, "test/accuracy": 0.908},
    ),
    Reference(
        name="teacher_cut",
        label="teacher, vocabulary cut",
        num_parameters=94_900_000,
        num_bytes=379_700_000,
        metrics={"validation/accuracy": 0.915, "test/accuracy": 0.905},
    ),
    Reference(
        name="ngrams",
        label="bag of n-grams",
        num_parameters=170_000,
        num_bytes=680_000,
        metrics={"validation/accuracy": 0.82, "test/accuracy": 0.834},
    ),
    Reference(name="majority", label="majority", metrics={"validation/accuracy": 0.509, "test/accuracy": 0.5}),
)


def a_spec(**changes: Any) -> StudySpec:
    space, faults = parse_space({"depth": {"int": [1, 6]}})
    assert not faults
    raw: dict[str, Any] = {"name": "small", "data": {"builtin": "docstrings"}, "teacher": {"model": "some/teacher"}}
    return StudySpec.model_validate({**raw, "space": space, "output": Path("runs/small"), **changes})


def an_outcome(
    number: int,
    accuracy: float,
    *,
    layers: tuple[int, ...] = (0, 2, 5),
    embedding_size: int = 768,
    state: TrialState = TrialState.DONE,
    test: float | None = None,
    family: str = "bert",
    labels: dict[str, str] | None = None,
    error: str = "",
) -> TrialOutcome:
    shape = StudentShape(
        family=family,
        depth=len(layers),
        hidden_size=768,
        num_heads=12,
        intermediate_size=3072,
        embedding_size=embedding_size,
        num_hidden_groups=len(layers) if family == "bert" else 1,
        vocabulary_size=11_572,
        max_positions=512,
        type_vocabulary_size=2,
        num_labels=2,
    )
    config = TrialConfig(
        shape=shape,
        layers=layers,
        vocabulary="used",
        temperature=2.0,
        soft_share=0.9,
        learning_rate=2e-4,
        batch_size=64,
        warmup_share=0.1,
        weight_decay=0.01,
        dropout=0.1,
        epochs=3,
        seed=number,
    )
    metrics = {"validation/accuracy": accuracy} | ({} if test is None else {"test/accuracy": test})
    measured = Measurement(trial=number, attempt=1, step=900, share=1.0, metrics=metrics, cost={"train_seconds": 12.0})
    return TrialOutcome(
        number=number,
        config=config,
        parameters={"depth": len(layers)},
        state=state,
        measurements=() if state is TrialState.FAILED else (measured,),
        error=error,
        labels=labels or {},
    )


def a_study() -> tuple[StudySpec, list[TrialOutcome], list[TrialOutcome], dict[int, dict[str, float]]]:
    """Five finished trials of which 0, 2 and 3 are the front, one failed; the confirmations of 2."""
    outcomes = [
        an_outcome(0, 0.84, layers=(0,)),
        an_outcome(1, 0.83, layers=(0, 3)),
        an_outcome(2, 0.89, layers=(0, 3)),
        an_outcome(3, 0.90, layers=(0, 2, 5)),
        an_outcome(4, 0.90, layers=(0, 2, 4, 5)),
        an_outcome(5, 0.0, state=TrialState.FAILED, error="TrialError: the loss became NaN at step 3"),
    ]
    confirm = {"kind": "confirm", "of": "2"}
    confirmations = [
        an_outcome(6, 0.88, layers=(0, 3), test=0.88, labels=confirm),
        an_outcome(7, 0.88, layers=(0, 3), test=0.89, labels=confirm),
        an_outcome(8, 0.86, layers=(0, 3), test=0.86, labels={"kind": "without_distillation", "of": "2"}),
        an_outcome(9, 0.1, layers=(0, 3), state=TrialState.FAILED, labels=confirm, error="lost"),
    ]
    return a_spec(), outcomes, confirmations, {2: {"test/accuracy": 0.87}, 3: {"test/accuracy": 0.895}}


# --- pure functions


def test_dominance_by_hand() -> None:
    both = ("maximize", "minimize")
    assert dominates((0.9, 5), (0.9, 6), both)
    assert not dominates((0.9, 5), (0.9, 5), both)
    assert not dominates((0.9, 6), (0.8, 5), both)
    assert not dominates((math.nan, 1), (0.8, 5), both)
    assert non_dominated([(0.8, 5), (0.9, 6), (0.7, 6), (0.9, 6), (math.nan, 0)], both) == [0, 1]


def test_hypervolume_by_hand() -> None:
    # steps (1,3) (2,2) (3,1) under (4,4): columns of width 1 and heights 1, 2, 3
    assert hypervolume([(1, 3), (2, 2), (3, 1)], (4, 4), DOWN) == 6
    assert hypervolume([(1, 3), (2, 2), (3, 1), (3, 3), (9, 0)], (4, 4), DOWN) == 6
    assert hypervolume([], (4, 4), DOWN) == 0
    assert hypervolume([(0.9, 1)], (0.5, 3), ("maximize", "minimize")) == pytest.approx(0.4 * 2)
    # two boxes 2x2x1 and 1x1x2 that share 1x1x1
    assert hypervolume([(1, 1, 2), (2, 2, 1)], (3, 3, 3), ("minimize",) * 3) == 5
    assert hypervolume([(0, 0, 0, 0)], (2, 3, 4, 5), ("minimize",) * 4) == 120


def test_knee_by_hand() -> None:
    assert knee([(0, 10), (2, 2), (10, 0)], DOWN) == 1
    assert knee([(0, 10), (5, 5), (10, 0)], DOWN) == 0  # straight: the first
    assert knee([(0, 10), (8, 8), (10, 0)], DOWN) == 0  # bulges away from the good corner: an end
    assert knee([(3, 3)], DOWN) == 0
    with pytest.raises(ValueError, match="empty"):
        knee([], DOWN)


grid = st.integers(0, 4)


def clouds(width: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    return st.lists(st.tuples(*[grid] * width), max_size=12)


@given(st.integers(2, 4).flatmap(lambda width: st.tuples(st.just(width), clouds(width))))
@settings(max_examples=60, deadline=None)
def test_hypervolume_is_the_count_of_dominated_cells(drawn: tuple[int, list[tuple[int, ...]]]) -> None:
    width, points = drawn
    cells = itertools.product(
        range(5), repeat=width
    )  # the reference is 5 everywhere: a cell is [c, c + 1) on each axis
    counted = sum(any(all(a <= c for a, c in zip(point, cell, strict=True)) for point in points) for cell in cells)
    assert hypervolume(points, (5,) * width, ("minimize",) * width) == counted


@given(clouds(3), st.randoms())
@settings(max_examples=60, deadline=None)
def test_fronts_are_sound_complete_and_blind_to_order(points: list[tuple[int, ...]], chance: random.Random) -> None:
    ways = ("minimize", "maximize", "minimize")
    front = {points[place] for place in non_dominated(points, ways)}
    assert not any(dominates(other, point, ways) for point in front for other in points)
    assert all(point in front or any(dominates(other, point, ways) for other in front) for point in points)
    shuffled = list(points)
    chance.shuffle(shuffled)
    assert {shuffled[place] for place in non_dominated(shuffled, ways)} == front
    assert hypervolume(shuffled, (5, -1, 5), ways) == hypervolume(points, (5, -1, 5), ways)


@given(clouds(2), st.tuples(grid, grid))
@settings(max_examples=60, deadline=None)
def test_hypervolume_never_shrinks(points: list[tuple[int, ...]], more: tuple[int, int]) -> None:
    assert hypervolume([*points, more], (5, 5), DOWN) >= hypervolume(points, (5, 5), DOWN)


# --- the front of a study


def test_the_front_of_a_study() -> None:
    spec, outcomes, confirmations, _ = a_study()
    front = ParetoFront.of([*outcomes, *confirmations], spec, REFERENCES)
    assert front.trials == (0, 2, 3)  # 4 is as good as 3 and larger; confirmations are no candidates
    assert front.reference == {"accuracy": 0.509, "parameters": 109_483_778}
    # by hand, on (error, log10 parameters), error of the majority 0.491
    ends = [*(math.log10(point.values["parameters"]) for point in front.points), math.log10(109_483_778)]
    steps = [(0.84 - 0.509), (0.89 - 0.509), (0.90 - 0.509)]
    assert front.hypervolume == pytest.approx(sum((ends[i + 1] - ends[i]) * step for i, step in enumerate(steps)))
    assert front.knee == 2
    assert ParetoFront.model_validate_json(front.model_dump_json()) == front
    assert ParetoFront.of(list(reversed(outcomes)), spec, REFERENCES) == front


def test_what_never_enters() -> None:
    spec = a_spec()
    twins = [
        an_outcome(3, 0.8),
        an_outcome(1, 0.8),
        an_outcome(0, math.nan),
        an_outcome(2, 0.9, state=TrialState.WAITING),
    ]
    assert ParetoFront.of(twins, spec, REFERENCES).trials == (1,)
    empty = ParetoFront.of([], spec, REFERENCES)
    assert (empty.points, empty.hypervolume, empty.knee) == ((), 0.0, -1)
    with pytest.raises(ValueError, match="teacher"):
        ParetoFront.of(twins, spec, REFERENCES[1:])


def test_bounds_are_kept() -> None:
    _, outcomes, _, _ = a_study()
    spec = a_spec(bounds={"accuracy": {"min": "96%"}})  # 0.8832 of the teacher's 0.92
    assert ParetoFront.of(outcomes, spec, REFERENCES).trials == (2, 3)
    limit = outcomes[2].config.shape.num_parameters
    spec = a_spec(bounds={"parameters": {"max": limit}, "accuracy": {"min": 0.85}})
    assert ParetoFront.of(outcomes, spec, REFERENCES).trials == (2,)
    assert (
        ParetoFront.of(outcomes, a_spec(bounds={"macro_f1": {"min": 0.1}}), REFERENCES).trials == ()
    )  # never measured


# --- the table


def test_rows_by_hand() -> None:
    spec, outcomes, confirmations, delivered = a_study()
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    rows = student_rows(spec, front, outcomes, confirmations, delivered, REFERENCES)
    assert [row.trial for row in rows] == [0, 2, 3]
    row = rows[1]
    assert row.architecture == "bert, layers 0 3, width 768 and 3072, vocabulary used (11,572), embeddings full"
    score = row.test["test/accuracy"]
    assert (score.mean, score.seeds) == (pytest.approx(0.88), 3)
    assert score.std == pytest.approx(statistics.stdev([0.87, 0.88, 0.89]))
    assert row.without_distillation["test/accuracy"].mean == 0.86
    assert row.share_of_teacher == pytest.approx(0.88 / 0.908)
    assert row.lift_kept == pytest.approx((0.88 - 0.834) / (0.908 - 0.834))
    assert row.share_on_validation == pytest.approx(0.89 / 0.92)
    assert row.num_parameters == outcomes[2].config.shape.num_parameters
    assert rows[2].test["test/accuracy"].std is None  # one seed says nothing of the spread
    assert rows[0].scored_on == "validation"
    assert rows[0].score == 0.84
    assert rows[0].share_of_teacher == pytest.approx(0.84 / 0.92)  # like with like


def test_the_smallest_within_three_percent_is_chosen_on_validation() -> None:
    spec, outcomes, confirmations, _ = a_study()
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    rows = student_rows(spec, front, outcomes, confirmations, {3: {"test/accuracy": 0.1}}, REFERENCES)
    chosen = smallest_within(rows)
    assert chosen is not None
    assert chosen.trial == 3  # 0.90 / 0.92 = 97.8 %; 0.89 is 96.7 %
    assert smallest_within(rows, 0.99) is None


def test_architectures_in_words() -> None:
    spec = a_spec()
    outcomes = [an_outcome(0, 0.8, family="albert", embedding_size=128)]
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    row = student_rows(spec, front, outcomes, [], {}, REFERENCES)[0]
    assert (
        row.architecture
        == "albert, layers 0 2 5 in 1 group, width 768 and 3072, vocabulary used (11,572), embeddings 128"
    )


def test_csv_json_and_text(tmp_path: Path) -> None:
    spec, outcomes, confirmations, delivered = a_study()
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    rows = student_rows(spec, front, outcomes, confirmations, delivered, REFERENCES)
    write_front_csv(tmp_path / "front.csv", rows)
    with (tmp_path / "front.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[:10] == [
        "trial",
        "standing",
        "architecture",
        "validation/accuracy",
        "test/accuracy",
        "test/accuracy_std",
        "test/accuracy_low",
        "test/accuracy_high",
        "seeds",
        "without_distillation/test/accuracy",
    ]
    assert [line["trial"] for line in lines] == ["0", "2", "3"]
    assert float(lines[1]["test/accuracy"]) == pytest.approx(0.88)
    assert lines[0]["test/accuracy"] == ""
    assert lines[1]["parameters"] == str(rows[1].num_parameters)
    assert lines[1]["layers"] == "0 3"

    plain = front_as_json(rows, front, REFERENCES)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["knee"] == 2
    assert plain["rows"][1]["test"]["test/accuracy"]["seeds"] == 3

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(front_as_text(spec, rows, front, REFERENCES))
    text = console.export_text()
    assert "3 students worth having" in text
    assert "bag of n-grams" in text
    assert "layers 0 3" in text
    console.print(front_as_text(spec, [rows[0].model_copy(update={"lift_kept": -0.5}), *rows[1:]], front, REFERENCES))
    assert "2 students worth having; 1 more no better than a bag of n-grams" in console.export_text()


def test_an_empty_front_still_has_its_columns(tmp_path: Path) -> None:
    write_front_csv(tmp_path / "front.csv", [])
    assert (tmp_path / "front.csv").read_text().startswith("trial,standing,architecture,parameters,bytes")


def test_results_are_light() -> None:
    code = (
        "import sys, search.results.front, search.results.table, search.results.report, search.results.analysis;"
        "heavy = ('torch', 'ray', 'optuna', 'wandb', 'transformers', 'plotly', 'scipy');"
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
