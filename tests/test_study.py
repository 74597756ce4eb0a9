"""A whole study on real lanes: killed in the middle, run again to its end, and everything it left behind."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from faults.harness import Study
from safetensors.numpy import load_file
from whole_study import DRIVER, NUM_TRIALS, SECRETS, Ran, environment

from search.record.record import Record, open_storage
from search.results.near import near_front
from search.study.augment import with_parts
from search.study.inputs import read_inputs
from search.study.output import open_record, open_study, spec_of
from search.study.searcher import trial_config
from search.study.tracking.rows import replay, row_of
from search.study.tracking.segments import segments
from search.study.tracking.session import kept_run_id
from search.suggest.sampling import Sampling
from search.trial import work
from search.trial.context import WorkerContext
from spaces.errors import StudyError
from spaces.trial import BestConfig, TrialState, WorkItem, WorkKind
from spaces.yaml_io import load_study

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3600)]

# killed, and run again


def test_no_finished_trial_is_lost_or_run_twice(ran: Ran) -> None:
    finished = {n: outcome for n, outcome in ran.before.items() if outcome.state is not TrialState.RUNNING}
    cut_off = ran.before.keys() - finished.keys()
    assert len(finished) >= 2
    assert cut_off
    for number, outcome in finished.items():
        assert ran.after[number] == outcome
        assert ran.attempts[number] == ran.attempts_before[number] == 1
    # Measured, and killed before its state was written: nothing of it is to be done again.
    measured = {number for number in cut_off if ran.before[number].share >= ran.before[number].until}
    runs = Counter(int(trial) for kind, trial, _ in ran.log if kind == "trial")
    assert {number: runs[number] for number in {*finished, *measured}} == dict.fromkeys({*finished, *measured}, 1)
    for number in cut_off:
        assert ran.after[number].config == ran.before[number].config
        if number in measured:
            assert ran.after[number].measurements == ran.before[number].measurements
            assert (ran.after[number].state, ran.attempts[number]) == (TrialState.DONE, 1)
        else:
            assert ran.attempts[number] >= 2
    assert "continuing: " in ran.stderr


def test_the_fault_harness_finds_nothing_wrong(ran: Ran, tmp_path: Path) -> None:
    """What `make faults` looks at after each blow: measurements, states, the front and what is delivered, temporary files."""
    harness = Study(tmp_path, seed=0)
    harness.output = ran.output
    harness.measured = {
        ("trial", number, each.share): (each.attempt, each.metrics)
        for number, outcome in ran.before.items()
        for each in outcome.measurements
    }
    assert len(harness.measured) >= 1
    assert harness.faults_after([], exit_status=0) == []


def test_the_study_ends_with_every_trial_accounted_for(ran: Ran) -> None:
    assert list(ran.after) == list(range(NUM_TRIALS))
    states = [ran.after[number].state for number in range(NUM_TRIALS)]
    assert states == [TrialState.DONE, TrialState.FAILED, *[TrialState.DONE] * (NUM_TRIALS - 2)]
    assert len({outcome.config.seed for outcome in ran.after.values()}) == NUM_TRIALS
    parameters = [outcome.parameters for outcome in ran.after.values()]
    assert all(parameters.count(one) == 1 for one in parameters)
    assert (ran.after[0].config.shape.family, ran.after[0].config.shape.depth) == ("bert", 1)
    for outcome in ran.after.values():
        if outcome.state is TrialState.DONE:
            assert [measurement.share for measurement in outcome.measurements] == [1.0]
            assert 0 <= outcome.last.metrics["validation/accuracy"] <= 1


def test_a_failing_trial_fails_alone_and_by_name(ran: Ran) -> None:
    assert ran.after[1].error == "this one is to fail"
    assert "trial 1 failed: this one is to fail" in ran.stderr + (ran.path.parent / "killed.txt").read_text()
    assert not any(row["trial"] == "1" for row in ran.front)


def test_the_teacher_reads_the_data_once(ran: Ran) -> None:
    """And for its hidden states once more under each vocabulary; its parts are ranked once."""
    assert ran.fact("teacher_passes") == 3
    did = Counter(kind for kind, *_ in ran.log)
    assert (did["states"], did["rank"]) == (2, 1)
    assert "the teacher's hidden states (used vocabulary) are in the cache" in ran.stderr
    assert sum(kind == "fine_tune" for kind, *_ in ran.log) == 2  # its two parts, once each
    assert len(list((ran.path.parent / "cache" / "teachers").iterdir())) == 1  # no part is left behind
    assert "the teacher's outputs are in the cache" in ran.stderr
    assert len(list((ran.path.parent / "cache" / "rankings").iterdir())) == 1


def test_the_record_says_where_the_time_went(ran: Ran) -> None:
    stages = ran.fact("stages")
    assert next(iter(stages)) == "reading"
    assert len(stages) == 7
    assert all(seconds >= 0 for seconds in stages.values())


def test_how_often_the_data_goes_into_the_object_store(ran: Ran) -> None:
    """For what needs no teacher, with made-up parts, with the teacher's outputs, and with its hidden states where they are not yet
    in the cache; one after the other, so that the last one stays. What Ray itself puts there is small."""
    lines = [line.split() for line in (ran.path.parent / "log.txt.puts").read_text().splitlines()]
    sizes = [int(size) for kind, size in lines if kind == "TransferSet"]
    splits = read_inputs(load_study(ran.path), lambda text: None).transfer.splits.values()
    tokens = [tokens for split in splits for tokens in split.tokens.values()]
    arrays = sum(each.ids.nbytes + each.offsets.nbytes + each.second.nbytes for each in tokens)
    assert len(sizes) == 4 + 3  # killed, and run again
    assert max(sizes) < arrays + 100_000  # tokenizers' files, the test split's texts, labels and outputs
    assert sum(int(size) for kind, size in lines if kind != "TransferSet") < 500_000


# what it left


def test_the_folder_holds_what_the_design_says(ran: Ran) -> None:
    output = ran.output
    trials = [row["trial"] for row in ran.front]
    assert trials
    for name in ("study.yaml", "study.db", "front.csv", "report.html", "best/knee.yaml", "teacher/config.json"):
        assert (output / name).is_file(), name
    study = yaml.safe_load((output / "study.yaml").read_text())
    assert len(study["fingerprint"]) == 16
    assert {"python", "torch", "ray", "optuna", "distilsearch"} <= study["versions"].keys()
    named = {"knee.yaml"} | {f"trial-{trial}" for trial in trials} | {f"trial-{trial}.yaml" for trial in trials}
    assert {path.name for path in (output / "best").iterdir()} == named
    knee = (output / "best" / "knee.yaml").read_text()
    assert [(output / "best" / f"trial-{trial}.yaml").read_text() for trial in trials].count(knee) == 1
    assert {path.name for path in (output / "trials").iterdir()} <= set(trials)  # checkpoints of the front alone
    assert "<html" in (output / "report.html").read_text()


def test_no_secret_is_in_anything_it_left(ran: Ran) -> None:
    """Files, checkpoints, W&B's folder, what was printed."""
    files = [path for path in ran.path.parent.rglob("*") if path.is_file()]
    assert {".wandb", ".safetensors", ".db", ".html", ".csv"} <= {path.suffix for path in files}
    for secret in SECRETS:
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
        assert secret not in ran.stdout + ran.stderr


def test_it_is_one_run_of_weights_and_biases(ran: Ran) -> None:
    """Killed, run again and, in tests before this one, perhaps once more: each row once, and every trial's own run."""
    folder = ran.output / "wandb"
    run_id = kept_run_id(ran.output)
    keys = [key for part in segments(folder, run_id) for key in part.row_keys()]
    assert len(segments(folder, run_id)) >= 2
    assert len(keys) == len(set(keys))
    rows = [row_of(event) for event in replay(ran.after.values())]
    assert {row.key for row in rows if row is not None} <= set(keys)
    assert any(key.startswith("results ") for key in keys)
    assert all(segments(folder, f"{run_id}-{number}") for number in ran.after)


def test_the_front_is_one(ran: Ran) -> None:
    rows = [(int(row["parameters"]), float(row["validation/accuracy"])) for row in ran.front]
    assert rows == sorted(rows)
    assert all(one[1] < other[1] for one, other in itertools.pairwise(rows))  # larger only where better
    done = [outcome for outcome in ran.after.values() if outcome.state is TrialState.DONE]
    for outcome in done:  # nothing finished is better than the front
        values = outcome.values()
        assert any(size <= values["parameters"] and score >= values["accuracy"] for size, score in rows)
    assert max(score for _, score in rows) == max(outcome.values()["accuracy"] for outcome in done)


def test_what_is_near_the_front_was_confirmed_beside_it(ran: Ran) -> None:
    """Of the four trials that finished, on 60 validation rows or so: by the rule itself, and none of it delivered."""
    result = open_study(ran.output)
    num_rows = ran.fact("num_rows")
    assert num_rows["validation"] == len(
        read_inputs(load_study(ran.path), lambda text: None).texts.splits["validation"].labels
    )
    outcomes = list(ran.after.values())
    near = near_front(result.front, outcomes, result.spec, result.references, num_rows["validation"])
    assert [line["trial"] for line in ran.lines if line["standing"] == "near"] == [str(trial) for trial in near]
    again = open_record(spec_of(ran.output))[1].outcomes()
    for trial in near:
        (once,) = [outcome for outcome in again if outcome.labels["of"] == str(trial)]  # the second of two seeds
        assert (once.labels["kind"], once.state) == ("confirm", TrialState.DONE)
        assert once.config.seed != ran.after[trial].config.seed
        assert not (ran.output / "best" / f"trial-{trial}").exists()


def test_each_best_config_says_what_the_record_says(ran: Ran) -> None:
    for row in ran.front:
        best = BestConfig.model_validate(
            yaml.safe_load((ran.output / "best" / f"trial-{row['trial']}.yaml").read_text())
        )
        outcome = ran.after[best.trial]
        assert best.schema_version == 1
        assert best.config == outcome.config
        assert best.metrics["validation/accuracy"] == outcome.last.metrics["validation/accuracy"]
        score = best.metrics["test/accuracy"]
        assert score["seeds"] == 2
        assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
        assert best.sizes["parameters"] == outcome.config.shape.num_parameters == int(row["parameters"])
        model = ran.output / "best" / f"trial-{best.trial}" / "model.safetensors"
        assert best.sizes["bytes"] == model.stat().st_size
        assert best.reproduce == f"distilsearch run best/trial-{best.trial}.yaml"
        assert set(best.metrics["references"]) >= {"teacher", "ngrams", "majority"}
        assert best.provenance["versions"]["torch"]


SCORE = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
data, *folders = sys.argv[1:]
rows = [line.rstrip("\\n").split("\\t") for line in open(data)][1:]
scores = {}
for folder in folders:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model.eval()(**batch).logits.argmax(-1).tolist()
    right = sum(model.config.id2label[i] == label for i, (_, label) in zip(predicted, rows))
    scores[folder] = [right / len(rows), model.config.model_type, len(tokenizer)]
print(json.dumps(scores))
"""


def test_the_models_load_anywhere_and_score_what_is_said(ran: Ran) -> None:
    folders = [ran.output / "best" / f"trial-{row['trial']}" for row in ran.front]
    command = [sys.executable, "-c", SCORE, str(ran.path.parent / "data" / "test.tsv"), *map(str, folders)]
    away = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env=away)
    scores = json.loads(done.stdout.splitlines()[-1])
    assert len(scores) == len(folders) >= 1
    for folder, (accuracy, model_type, num_pieces) in scores.items():
        best = yaml.safe_load(Path(f"{folder}.yaml").read_text())
        assert accuracy == pytest.approx(best["metrics"]["delivered"]["test/accuracy"])
        assert model_type in ("bert", "albert")
        assert num_pieces == best["config"]["shape"]["vocabulary_size"]


# and then


def test_the_same_command_again_trains_nothing(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    from search import cli

    before = ran.log_path.read_text()
    for arguments, words in (
        (["run", str(ran.path)], "This study is done"),
        (["front", str(ran.output), "--json"], ""),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["distilsearch", *arguments])
            with pytest.raises(SystemExit) as end:
                cli.main()
        captured = capsys.readouterr()
        assert (end.value.code or 0) == 0
        assert words in captured.err
    told = json.dumps(json.loads(captured.out))
    assert all(f'"trial": {row["trial"]}' in told for row in ran.front)
    assert ran.log_path.read_text() == before


def test_what_is_written_again_is_the_same(ran: Ran) -> None:
    from search.study.output import rebuild

    kept = {path: path.read_bytes() for path in (ran.output / "best").glob("*.yaml")}
    kept[ran.output / "front.csv"] = (ran.output / "front.csv").read_bytes()
    result, written = rebuild(ran.output)
    assert [str(row.trial) for row in result.rows] == [row["trial"] for row in ran.front]
    assert {path: path.read_bytes() for path in kept} == kept
    assert kept.keys() - {ran.output / "best" / "knee.yaml"} <= set(written)
    assert open_study(ran.output).front == result.front


def test_a_best_config_trains_the_same_student_again(ran: Ran, tmp_path: Path) -> None:
    """Its study of one point, step by step as a run takes them, but in this process: another Ray costs half a minute. Of one
    without a loss on hidden states: the lane had these from files; from the teacher here they differ where fp32 rounds to half."""
    row = [row for row in ran.front if float(row["hidden_share"]) == 0][-1]
    original = ran.after[int(row["trial"])]
    assert original.last is not None
    spec = load_study(ran.output / "best" / f"trial-{row['trial']}.yaml")
    inputs = with_parts(read_inputs(spec, lambda text: None), lambda text: None)
    assert spec.bounds == {}
    parameters, shape = Sampling(spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)
    config = trial_config(spec, parameters, shape, inputs.teacher.depth, 0)
    assert config == original.config
    (kept,) = (spec.cache / "outputs").iterdir()
    transfer = inputs.transfer.with_teacher_logits(load_file(kept))
    item = WorkItem(
        key="trial:0", kind=WorkKind.TRAIN, trial=0, config=config, folder=str(tmp_path),
        payload={"teacher": str(ran.output / "teacher")},
    )  # fmt: skip
    measurement, _ = work.perform(item, WorkerContext(data={"transfer": transfer}))
    assert measurement is not None
    assert measurement.metrics == original.last.metrics
    assert measurement.cost["mean_loss"] == original.last.cost["mean_loss"]
    weights = load_file(tmp_path / "attempt-1" / "weights.safetensors")
    delivered = load_file(ran.output / "best" / f"trial-{row['trial']}" / "model.safetensors")
    assert weights.keys() == delivered.keys()
    assert all(np.array_equal(weights[name], delivered[name]) for name in weights)


@pytest.mark.slow
def test_the_next_study_begins_with_what_this_one_measured(ran: Ran, tmp_path: Path) -> None:
    raw = json.loads(ran.path.read_text()) | {"name": "next", "output": str(tmp_path / "run"), "budget": {"trials": 1}}
    raw |= {"search": {"startup_trials": 3}, "confirm": {"seeds": 1, "without_distillation": "none"}}
    (tmp_path / "study.yaml").write_text(json.dumps(raw))
    command = [sys.executable, "-c", DRIVER, "run", str(tmp_path / "study.yaml"), "--from", str(ran.output)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    measured = {number: outcome for number, outcome in ran.after.items() if outcome.state is TrialState.DONE}
    assert f"beginning with what {len(measured)} trials of {ran.output} measured" in done.stderr
    result = open_study(tmp_path / "run")
    assert result.front.trials == (0,)  # theirs are no trials of this one,
    assert [outcome.number for outcome in result.outcomes] == [0]
    spec = spec_of(tmp_path / "run")
    storage = open_storage(spec.storage, spec.output)
    kept = Record(storage, "next.earlier", spec.objectives).outcomes()
    assert {int(outcome.labels["trial"]): outcome.measurements for outcome in kept} == {
        number: outcome.measurements for number, outcome in measured.items()
    }
    # and its first trial is what TPE makes of them, not what it would draw without
    inputs = read_inputs(spec, lambda text: None)
    below = [outcome.model_copy(update={"number": outcome.number - len(kept)}) for outcome in kept]
    drawn, informed = (
        Sampling(inputs.spec, inputs.teacher, inputs.vocabularies, {}, earlier=earlier).suggest([], 0)
        for earlier in ((), below)
    )
    assert drawn is not None
    assert informed is not None
    assert result.outcomes[0].parameters == informed[0] != drawn[0]


def test_a_folder_without_a_study_has_no_front(tmp_path: Path, ran: Ran) -> None:
    (tmp_path / "study.yaml").write_text((ran.output / "study.yaml").read_text())
    with pytest.raises(StudyError, match="holds no study yet"):
        open_study(tmp_path)
