"""The way through a study. Starting and continuing are one path: what the record holds is not done again."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import ray

from search.lanes.pool import LanePool
from search.lanes.quiet import start_ray, stop_ray
from search.lanes.room import growing_room, wait_for_room
from search.lanes.trainable import run_segments
from search.record.lease import Lease, holder_of
from search.record.record import Record, storage_errors
from search.results.answers import weak_teacher
from search.results.front import ParetoFront, reference_named
from search.results.near import near_front
from search.study.budget import Budget
from search.study.confirm import confirm, num_missing
from search.study.delivery import Delivery
from search.study.disk import remove_leftovers
from search.study.earlier import Earlier, earlier_of, read_earlier
from search.study.extension import Extension, is_finished, nothing_to_extend, wish
from search.study.floors import Floors
from search.study.inputs import Inputs, read_inputs
from search.study.lane_hours import LaneHours
from search.study.limits import known_limits, limits_of
from search.study.output import (
    StudyResult,
    claim_output,
    fingerprint,
    from_record,
    open_record,
    result_of,
    send_results,
    versions,
    write_results,
)
from search.study.prepare import Prepared, prepare
from search.study.progress import Display, Silent
from search.study.searcher import StudySearcher
from search.study.shape_costs import ShapeCosts
from search.study.stages import Stages
from search.study.standing import Standing, Standings
from search.study.stopping import Stopping, ended_in_order
from search.study.tokens import refuse_too_few_tokens, trial_tokens
from search.study.tracking import make_tracker
from search.suggest.first import first_points
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from search.trial import mirror
from spaces.deployment import COSTS
from spaces.errors import InputError, StudyError
from spaces.remote import refuse_sqlite, url_of, written
from spaces.study import DEFAULT_CACHE, StudySpec
from spaces.trial import TrialOutcome, TrialState

SILENCE_SECONDS = 300.0  # a lane that says nothing for so long is killed


def run_study(spec: StudySpec, display: Display | None = None, more: int | None = None) -> StudyResult:
    """Runs the study, or continues it; with `more`, to so many trials beyond those in its record. Raises InputError for what
    the user can mend, StudyError for the rest."""
    show, begun, stages = display or Silent(), time.monotonic(), Stages()
    spec = _in_place(spec)
    extension, result = _so_far(spec, more)
    spec = extension.applied(spec)
    if result is not None:
        return result
    if not mirror.there(spec.output / "study.yaml"):
        read_earlier(spec)  # made for its errors, before the output is claimed
    output_id = claim_output(spec)
    show.say("reading the data and the teacher")
    inputs = read_inputs(spec, show.say)
    asked, spec = spec, inputs.spec
    for note in inputs.notes:
        show.say(note)
    refuse_too_few_tokens(inputs)
    stages.ended("reading")
    # An empty space is refused before Ray starts.
    shapes = Sampling(spec, inputs.teacher, inputs.vocabularies, known_limits(inputs)).shapes
    with ExitStack() as stack:
        stack.enter_context(ended_in_order())
        stack.enter_context(storage_errors(spec.storage))
        record, again = open_record(spec)
        stack.callback(record.close)
        stack.enter_context(Lease(record))
        remove_leftovers(spec.output)
        stack.callback(shutil.rmtree, spec.output / ".ray", ignore_errors=True)
        stack.callback(remove_leftovers, spec.output)  # of lanes that died in this run
        _same_output(record, inputs, output_id)
        num_rows = {name: split.num_scored for name, split in inputs.transfer.splits.items()}
        record.keep("num_rows", num_rows)
        earlier = earlier_of(asked, inputs, known_limits(inputs), record)
        if earlier.note:
            show.say(earlier.note)
        record.keep("runs", [*(record.fact("runs") or []), time.time()])
        if extension.more:
            record.keep("more", extension.model_dump())
        show.say("starting Ray")
        stack.enter_context(_ray())
        num_lanes = wait_for_room(spec.resources, show.say)
        lane_hours = LaneHours(spec, record, num_lanes=num_lanes, begun=begun)
        stack.callback(lane_hours.keep)
        stages.ended("starting Ray")
        provenance = {
            "teacher": {"model": spec.teacher.model, "fingerprint": inputs.source.fingerprint},
            "data_fingerprint": inputs.texts.fingerprint,
            "num_rows": num_rows,
            "study_fingerprint": fingerprint(spec),
            "versions": versions(),
        }
        tracker = make_tracker(spec, provenance)
        stack.callback(tracker.close)
        pool = stack.enter_context(
            LanePool(
                spec.resources,
                num_lanes,
                mirror.for_lanes(spec.output),
                spec.output / ".ray",
                silence_seconds=SILENCE_SECONDS,
                room=growing_room(spec),
                grown=lane_hours.of_lanes,
            )
        )
        stack.enter_context(Stopping(pool, show.say))
        stack.callback(show.watch, dict, Standing)  # whoever watches must not ask a Ray that is gone
        show.watch(pool.status, lambda: Standing("preparing"))
        # Of each worker, while the other lanes are idle.
        threads = max(1, int(num_lanes * spec.resources.cpus_per_worker))
        reference = ray.put(inputs.transfer)
        inputs = replace(inputs, transfer=ray.get(reference))  # from here on the arrays are in the object store alone
        floors = Floors(inputs, record, pool)
        floors.ask_early(reference)  # one lane alone fine-tunes
        shape_costs = ShapeCosts(inputs, record, pool, reference)
        shape_costs.ask_early(shapes)
        prepared = prepare(inputs, reference, pool, threads, show.say)
        if shape_costs.needed:
            show.say("measuring what the teacher and some students cost where they will run")
        references = shape_costs.look_at_first(prepared.teacher_folder, prepared.references)
        prepared = replace(prepared, references=references)
        if len(shape_costs.processors) > 1:
            show.say(f"latencies are of different processors and do not compare: {', '.join(shape_costs.processors)}")
        record.keep("teacher_passes", (record.fact("teacher_passes") or 0) + prepared.teacher_passes)
        if record.fact("references") is None:  # for whoever looks at the front while it grows; the floors come later
            record.keep("references", [reference.model_dump() for reference in prepared.references])
        payload: dict[str, Any] = {"teacher": str(prepared.teacher_folder), "refs": {"transfer": prepared.transfer}}
        if prepared.begun_folder is not None:
            payload["start"] = str(prepared.begun_folder)
        stages.ended("preparation, and the lanes' start")

        deadline = _deadline(spec, begun, lane_hours)
        if deadline is not None:
            floors.ask(payload)  # before any time is given to trials

        tracker.begun(record.outcomes(), again.outcomes(), prepared.references)

        def told(outcome: TrialOutcome) -> None:
            lane_hours.keep()
            tracker.told(outcome)
            show.told(outcome)

        searcher, budget = _search(
            spec,
            inputs,
            record,
            pool,
            prepared,
            payload,
            show,
            told,
            floors,
            deadline,
            extension.begun,
            earlier,
            shape_costs,
            standings := Standings(spec, lane_hours, num_lanes, prepared.references, begun),
        )
        stages.ended("search")
        outcomes = searcher.ordered
        front = ParetoFront.of(outcomes, spec, prepared.references)
        if not front.points:
            raise StudyError(_why_no_front(spec, outcomes))
        what = f"confirming and delivering {len(front.points)} students"
        show.watch(pool.status, partial(standings.made, searcher, budget, what))
        near = near_front(front, outcomes, spec, prepared.references, num_rows["validation"])
        show.say(f"{len(front.points)} students on the front; confirming them")
        delivery = Delivery(spec, front, outcomes, record, pool, payload)
        confirmations = confirm(spec, front, near, outcomes, again, pool, budget, payload, told, meanwhile=delivery.ask)
        stages.ended("confirmation")
        delivered = delivery.collect()
        references = floors.collect(prepared.references)
        if warning := weak_teacher(spec, references):
            show.say(f"warning: {warning}")
        stages.ended("delivery")
        idle = pool.status()
        record.keep("provenance", provenance)
        result = result_of(spec, front, outcomes, confirmations, delivered, references, num_rows)
        record.keep("lanes", {"status": idle, "wall_seconds": time.monotonic() - begun})
        record.keep("stages", stages.seconds)  # for the report, which is a stage itself
        write_results(result, record, confirmations)
        send_results(result)
        tracker.finished(result)
        stages.ended("tables, report, tracking")
        record.keep("stages", stages.seconds)
        missing = num_missing(spec, front, outcomes, confirmations)
        if missing > 0:
            show.say(f"the time was spent before {missing} confirmations; `run` with more of it adds them")
        failures = record.fact("delivery_failures") or {}
        for trial, error in failures.items():
            show.say(f"trial {trial} could not be delivered: {error}")
        if not failures:
            record.keep("finished", wish(spec))
    return result


def _search(
    spec: StudySpec,
    inputs: Inputs,
    record: Record,
    pool: LanePool,
    prepared: Prepared,
    payload: dict[str, Any],
    show: Display,
    told: Callable[[TrialOutcome], None],
    floors: Floors,
    deadline: float | None,
    since: int,
    earlier: Earlier,
    shape_costs: ShapeCosts,
    standings: Standings,
) -> tuple[StudySearcher, Budget]:
    limits = limits_of(spec, prepared.references)
    teacher = prepared.references[0]
    scores = {name: teacher.value(name) for name in spec.objectives if name not in COSTS}
    first = first_points(spec, inputs.teacher, inputs.vocabularies, limits, earlier.first)
    majority = reference_named(prepared.references, "majority")
    worst = {name: majority.value(name) for name in scores if majority and math.isfinite(majority.value(name))}
    worst |= {name: teacher.value(name) for name in shape_costs.costs.measured}
    sampling = Sampling(
        spec,
        inputs.teacher,
        inputs.vocabularies,
        limits,
        scores,
        worst,
        first=first,
        earlier=earlier.outcomes,
        costs=shape_costs.costs,
    )
    budget = Budget(
        spec,
        num_lanes=pool.num_lanes,
        tokens_per_text=inputs.num_train_tokens / len(inputs.transfer.splits["train"]),
        deadline=deadline,
        scoring_share=_scoring_share(inputs),
        front_size=lambda: len(searcher.front.points),
        # As the lanes have it: with made-up texts.
        trial_tokens=partial(
            trial_tokens, ray.get(prepared.transfer) if spec.budget.training_tokens else inputs.transfer
        ),
        references=prepared.references,
        since=since,
    )

    searcher = StudySearcher(
        spec,
        record,
        sampling,
        budget,
        Ladder(spec, limits),
        references=prepared.references,
        teacher_depth=inputs.teacher.depth,
        payload=payload,
        told=told,
        shape_costs=shape_costs,
        # For the lane that has nothing to do until the others' last trials end.
        no_more_trials=lambda: floors.ask(payload),
        on_hold=lambda: pool.on_hold,
    )
    done = sum(outcome.state is TrialState.DONE for outcome in searcher.ordered)
    if searcher.ordered:
        show.say(f"continuing: {done} of {spec.budget.trials} trials are done")
    num_given = min(len(first), spec.budget.trials)
    begins = f"; the first {num_given} trials are given" if first else ""
    show.say(f"searching {len(set(sampling.shapes)):,} shapes on {pool.num_lanes} lanes{begins}")
    show.watch(pool.status, partial(standings.made, searcher, budget))
    run_segments(
        searcher, pool.broker, pool.broker_name, max_concurrent=lambda: pool.num_lanes + 1, storage=spec.output / ".ray"
    )
    if pool.on_hold:
        raise KeyboardInterrupt  # and nothing runs any more
    show.say(f"no more trials: {searcher.ended}")
    return searcher, budget


def _deadline(spec: StudySpec, begun: float, lane_hours: LaneHours) -> float | None:
    """When this command has to be over, by the monotonic clock."""
    minutes = spec.budget.minutes
    ends = (None if minutes is None else begun + 60 * minutes, lane_hours.deadline)
    return min((end for end in ends if end is not None), default=None)


def _scoring_share(inputs: Inputs) -> float:
    """Validation and test read once, against training's forward and backward passes (one and two) over its epochs."""
    sizes = {name: len(split.tokens["full"].ids) for name, split in inputs.transfer.splits.items()}
    trained = inputs.spec.training.epochs * sizes["train"]
    return (sizes["validation"] + sizes["test"]) / (3 * max(1.0, trained))


# -- the record and the output folder


def _in_place(spec: StudySpec) -> StudySpec:
    """With an output at a URL the cache is there too, unless it has another place: what lanes need of it comes that way."""
    refuse_sqlite(written(spec.output), spec.storage)
    if url_of(spec.output) is None or spec.cache != DEFAULT_CACHE.expanduser().resolve():
        return spec
    return spec.model_copy(update={"cache": spec.output / ".cache"})


def _so_far(spec: StudySpec, more: int | None) -> tuple[Extension, StudyResult | None]:
    """How far the study goes, and its result if it ran that far to its end before."""
    if not mirror.there(spec.output / "study.yaml", patient=False) or not (
        spec.storage != "sqlite" or (spec.output / "study.db").is_file()
    ):
        if more is not None:
            raise nothing_to_extend(spec)
        return Extension(of=spec.budget.trials, trials=spec.budget.trials), None
    claim_output(spec)
    record, again = open_record(spec)
    extension = Extension.of_study(spec, record, more)
    spec = extension.applied(spec)
    if not is_finished(spec, record):
        return extension, None
    claim_output(spec)
    result = from_record(spec, record, again)
    if any(not mirror.there(spec.output / "best" / f"trial-{trial}") for trial in result.front.trials):
        return extension, None
    if holder_of(record) is None:  # who ended it may have been killed before tidying
        remove_leftovers(spec.output)
    return extension, replace(result, already_done=True)


def _same_output(record: Record, inputs: Inputs, output_id: str) -> None:
    """A record belongs to one study on one data set, and to one output: storages are shared, and files change."""
    spec, before = inputs.spec, record.fact("made_from")
    now = {"data": inputs.transfer.fingerprint, "study": fingerprint(spec), "output": output_id}
    if before is None:
        record.keep("made_from", {**now, "begun_in": str(spec.output)})
    elif before["study"] != now["study"]:
        raise InputError.of("storage", f"it holds another study named {spec.name!r}; give this one another name")
    elif before.get("output", output_id) != output_id:
        raise InputError.of(
            "storage",
            f"it holds the same study, {spec.name!r}, of another output (begun in {before['begun_in']}), and two would write one "
            "record. Give this one another name, or a database of its own; or go on with that output",
        )
    elif before["data"] != now["data"]:
        raise InputError.of(
            "data", "the data or the teacher changed since this study began; name another output, or restore them"
        )


@contextmanager
def _ray() -> Iterator[None]:
    if ray.is_initialized():  # the caller's: left as it is
        yield
        return
    start_ray()
    try:
        yield
    finally:
        stop_ray()


def _why_no_front(spec: StudySpec, outcomes: Sequence[TrialOutcome]) -> str:
    failed = [outcome for outcome in outcomes if outcome.state is TrialState.FAILED]
    done = [outcome for outcome in outcomes if outcome.state is TrialState.DONE]
    if done:
        best = max(done, key=lambda outcome: outcome.values()[spec.quality])
        bounds = {name: bound.model_dump(exclude_none=True) for name, bound in spec.bounds.items()}
        return (
            f"{len(done)} trials finished, and none is within the bounds {bounds}; the best reached {spec.quality} "
            f"{best.values()[spec.quality]:.3f} with {best.config.shape.num_parameters:,} parameters. "
            "Widen the bounds, or raise budget.trials and run again"
        )
    if failed:
        return f"all {len(failed)} trials failed; the last: {failed[-1].error}"
    return "the budget was spent before a trial ended. What was prepared is kept: raise the budget, or run again for new minutes"
