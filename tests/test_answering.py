"""Question answering through a whole trial: the teacher's head, students of every family, what is delivered and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from student_toys import a_shape

from search.study.export import _splits as windows_again
from search.study.inputs import Inputs, read_inputs
from search.study.searcher import trial_config
from search.study.teachers import find_teacher
from search.study.usage import USE
from search.suggest.sampling import Sampling
from search.trial import floor, work
from search.trial.answers import of_answers
from search.trial.context import WorkerContext
from search.trial.deliver.formats import Forms, Texts
from search.trial.deliver.huggingface import write_code
from search.trial.deliver.onnx import export_onnx, load_session
from search.trial.evaluate import predict
from search.trial.students import build_student
from search.trial.teacher import load_with_head
from spaces.errors import InputError, TrialError
from spaces.families import FAMILIES
from spaces.families.layout import Family
from spaces.heads import register_heads
from spaces.study import StudySpec, TeacherSpec
from spaces.trial import TrialConfig, WorkItem, WorkKind
from spaces.yaml_io import parse_study


def a_study(folder: Path, data: dict[str, str], teacher: Path, space: dict[str, Any]) -> StudySpec:
    plain = {
        "name": "asked", "task": "question-answering", "data": {**data, "max_length": 32, "stride": 8}, "teacher": str(teacher),
        "space": {name: [value] for name, value in {"depth": 2, "batch_size": 16, "vocabulary": "used", **space}.items()},
        "tracking": "none", "output": str(folder / "run"), "cache": str(folder / "cache"),
    }  # fmt: skip
    return parse_study(plain, "study.yaml", folder)


def fine_tuned(folder: Path, base: Path, size: int, epochs: float) -> tuple[dict[str, str], dict[str, float]]:
    """The tiny teacher, fine-tuned as a lane does it: in folder/teacher; the data, and its metrics."""
    data = tiny.write_asked(folder / "asked", (size, 20, 20))
    inputs = read_inputs(a_study(folder, data, base, {}), lambda text: None)
    assert inputs.fine_tunes
    settings = {"epochs": epochs, "learning_rate": 3e-3, "batch_size": 16}
    payload: dict[str, Any] = {"base": str(base), "settings": settings, "seed": 0}
    item = WorkItem(key="f", kind=WorkKind.FINE_TUNE, folder=str(folder / "teacher"), payload=payload)
    alone = WorkerContext(data={"transfer": inputs.transfer})
    _, told = work.perform(item, alone)
    work.perform(WorkItem(key="r", kind=WorkKind.RANK, payload={"teacher": str(folder / "teacher")}), alone)
    return data, told["metrics"]


@pytest.fixture(scope="module")
def hasty(base_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A teacher that has seen its task and not learned it, and the task."""
    folder = tmp_path_factory.mktemp("hasty")
    data, _ = fine_tuned(folder, base_teacher, 24, 1)
    return folder / "teacher", data


def taught(inputs: Inputs, teacher: Path) -> WorkerContext:
    """With the teacher's outputs, as lanes give them."""
    alone = WorkerContext(data={"transfer": inputs.transfer})
    logits = {}
    for name, split in inputs.transfer.splits.items():
        rows = np.random.default_rng(0).permutation(len(split))
        item = WorkItem(key="t", kind=WorkKind.TEACH, payload={"teacher": str(teacher), "split": name, "rows": rows})
        _, told = work.perform(item, alone)
        logits[name] = np.full((len(split.labels), 2), np.nan, np.float32)
        logits[name][split.tokens["full"].numbers(rows)] = told["logits"]
    return WorkerContext(data={"transfer": inputs.transfer.with_teacher_logits(logits)})


def a_trial(
    spec: StudySpec, inputs: Inputs, teacher: Path, folder: Path, **changes: Any
) -> tuple[TrialConfig, Any, Any]:
    """Trained and delivered: its config, its metrics, and what delivery says."""
    students = taught(inputs, teacher)
    parameters, shape = Sampling(spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)
    whole = {"soft_share": 0.5, "learning_rate": 3e-3, **changes}
    config = trial_config(spec, parameters, shape, inputs.teacher.depth, 0).model_copy(update=whole)
    item = WorkItem(
        key="s", kind=WorkKind.TRAIN, trial=0, config=config, folder=str(folder / "kept"),
        payload={"teacher": str(teacher), "exact": True}, evaluate=("validation", "test"),
    )  # fmt: skip
    measurement, _ = work.perform(item, students)
    assert measurement is not None
    payload = {"teacher": str(teacher), "weights": str(folder / "kept" / "attempt-1")}
    item = WorkItem(key="d", kind=WorkKind.DELIVER, trial=0, config=config, folder=str(folder / "out"), payload=payload)
    return config, measurement.metrics, work.perform(item, students)[1]


@pytest.mark.parametrize(
    "space",
    [
        {"family": "bert", "hidden_size": "50%", "hidden_share": 0.3},
        {"family": "albert", "embedding_size": 16, "num_hidden_groups": 1},
        {"family": "distilbert"},
        {"family": "squeezebert", "num_conv_groups": 2},
        {"family": "mobilebert", "bottleneck_size": "50%"},
    ],
    ids=lambda space: space["family"],
)
def test_a_student_of_each_family(space: dict[str, Any], hasty: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Counted right, trained, delivered with the same scores, loaded by Hugging Face's class, exported with the same answers."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    teacher, data = hasty
    spec = a_study(tmp_path, data, teacher, space)
    inputs = read_inputs(spec, lambda text: None)
    assert not inputs.fine_tunes
    config, metrics, delivered = a_trial(spec, inputs, teacher, tmp_path, steps=6)
    assert config.shape.task_head == "span"
    assert delivered["metrics"] == {name: pytest.approx(value) for name, value in metrics.items()}
    assert (delivered["num_parameters"], delivered["num_bytes"]) == (
        config.shape.num_parameters,
        config.shape.num_bytes,
    )

    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").eval()
    assert type(model).__name__.endswith("ForQuestionAnswering")
    assert model.state_dict()["qa_outputs.weight"].shape == (2, config.shape.hidden_size)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    split = inputs.transfer.splits["test"]
    assert split.texts is not None
    assert split.texts[1] is not None
    ours = predict(load_with_head(tmp_path / "out"), split.tokens["used"], 0, WorkerContext(), exact=True)
    batch = tokenizer(split.texts[0][0], split.texts[1][0], return_tensors="pt")
    with torch.no_grad():
        out = model(**batch)
    places = split.tokens["used"].first(1).places
    assert places is not None
    assert places.ends is not None
    for side, (said, at) in enumerate(((out.start_logits, places.at), (out.end_logits, places.ends))):
        np.testing.assert_allclose(said[0, torch.from_numpy(at).long()].numpy(), ours[: len(at), side], atol=1e-4)

    forms = Forms(
        tmp_path / "out", {"test": Texts(split.texts, split.labels, "span", split.questions)},
        lambda outputs, labels, layout: of_answers(outputs, labels, (), layout), "span", 32,
    )  # fmt: skip
    check = forms.write("onnx", tmp_path / "onnx").check
    assert check is not None
    assert check.share_equal["test"] == 1
    assert check.largest_difference["test"] < 1e-3
    assert check.metrics["test/answer_f1"] == pytest.approx(metrics["test/answer_f1"])
    session = load_session(tmp_path / "onnx" / "model.onnx")
    assert [entry.name for entry in session.get_outputs()] == ["start_logits", "end_logits"]


def test_the_head_starts_from_the_teachers(hasty: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """All its layers with its vocabulary cut: it says what the teacher says."""
    teacher, data = hasty
    inputs = read_inputs(a_study(tmp_path, data, teacher, {}), lambda text: None)
    shape = a_shape(task_head="span", vocabulary_size=inputs.vocabularies["used"], num_labels=2)
    found = floor.cut_teacher(str(teacher), shape, inputs.transfer, "used", WorkerContext())
    split = inputs.transfer.splits["test"]
    expected = inputs.transfer.measure(
        "test", predict(load_with_head(teacher), split.tokens["full"], 0, WorkerContext())
    )
    assert found is not None
    assert found["test/answer_f1"] == pytest.approx(expected["answer_f1"], abs=0.02)


def test_what_the_card_says_to_run_gives_the_answer(
    hasty: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, data = hasty
    split = read_inputs(a_study(tmp_path, data, teacher, {}), lambda text: None).transfer.splits["test"]
    assert split.questions is not None
    said = split.questions.texts(predict(load_with_head(teacher), split.tokens["full"], 0, WorkerContext(), exact=True))
    alone = [
        number for number, count in enumerate(np.diff(split.questions.rows)) if count == 1
    ]  # questions of one window
    assert len(alone) > 5
    code = USE["spans"].format(more="", length=32, words=30).split("```python\n")[1].split("```")[0]
    for number in alone[:6]:
        given = code.replace('"path/to/this/folder"', repr(str(teacher)))
        row = split.questions.rows[number]
        assert split.texts is not None
        assert split.texts[1] is not None
        given = given.replace('"a question of yours?"', repr(split.texts[0][row]))
        given = given.replace('"the text in which its answer stands"', repr(split.texts[1][row]))
        assert given.count("of yours") == given.count("path/to") == 0
        exec(compile(given, "card", "exec"), {})
        assert capsys.readouterr().out.rstrip("\n") == said[number]


def test_an_export_is_checked_on_the_same_windows(hasty: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    teacher, data = hasty
    spec = a_study(tmp_path, data, teacher, {})
    splits = read_inputs(spec, lambda text: None).transfer.splits
    with pytest.raises(InputError, match="teacher is gone, and texts are cut by its tokenizer"):
        windows_again(spec, teacher, {}, lambda text: None)
    shutil.copytree(teacher, spec.output / "teacher")
    found = windows_again(spec, teacher, {}, lambda text: None)
    assert set(found) == {"validation", "test"}
    for name, split in found.items():
        assert split.texts == splits[name].texts
        assert (split.labels == splits[name].labels).all()
        mine, its = split.questions, splits[name].questions
        assert mine is not None
        assert its is not None
        assert mine.answers == its.answers
        assert (mine.spans == its.spans).all()


# what is refused


def test_heads_are_of_their_own_task(hasty: tuple[Path, dict[str, str]], teacher: Path) -> None:
    assert find_teacher(TeacherSpec(model=str(hasty[0])), "span").labels == ("start", "end")
    assert find_teacher(TeacherSpec(model=str(hasty[0]))).labels is None
    assert find_teacher(TeacherSpec(model=str(teacher)), "span").labels is None


def test_a_teacher_that_cannot_answer(hasty: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    teacher, data = hasty
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in teacher.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    with pytest.raises(InputError, match="its head has 3 outputs, and an answer has a start and an end"):
        read_inputs(a_study(tmp_path, data, folder, {}), lambda text: None)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "blenderbot"}))
    with pytest.raises(InputError, match="'blenderbot' is no encoder that answers questions"):
        read_inputs(a_study(tmp_path, data, folder, {}), lambda text: None)


def test_a_family_that_has_no_such_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    bert = FAMILIES["bert"]
    own = Family(
        name="own", tensors=bert.tensors, fault=bert.fault, model_type=bert.model_type,
        build=lambda shape, settings: BertForSequenceClassification(BertConfig(**settings)),
    )  # fmt: skip
    monkeypatch.setitem(FAMILIES, "own", own)
    with pytest.raises(TrialError, match="builds BertForSequenceClassification, and the task needs one ForQuestionAns"):
        build_student(a_shape(family="own", task_head="span", num_labels=2), label_names=["start", "end"])


def test_a_head_of_ones_own(tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns two outputs for each token; the model has a name for each, in PyTorch and in ONNX."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "own.py").write_text(
        "import torch\n\n\nclass Plain(torch.nn.Module):\n    @staticmethod\n    def tensors(shape):\n"
        "        return {'out.weight': (shape.num_labels, shape.hidden_size), 'out.bias': (shape.num_labels,)}\n\n"
        "    def __init__(self, config):\n        super().__init__()\n"
        "        self.out = torch.nn.Linear(config.hidden_size, config.num_labels)\n\n"
        "    def forward(self, hidden, mask):\n        return self.out(hidden)\n"
    )
    assert register_heads({"plain": f"{tmp_path}/own.py:Plain"}) == []
    shape = a_shape(task_head="span", head="plain", num_labels=2)
    student = build_student(shape, label_names=["start", "end"])
    assert shape.num_parameters == sum(parameter.numel() for parameter in student.parameters())
    (tmp_path / "out").mkdir()
    write_code(student, tmp_path / "out", "span")
    student.save_pretrained(tmp_path / "out")
    again = load_with_head(tmp_path / "out", own_code=True)
    assert again(torch.ones(2, 5, dtype=torch.int64)).end_logits.shape == (2, 5)
    assert export_onnx(again, tmp_path / "model.onnx") > 0


# whether it is learned


@pytest.mark.slow
def test_a_student_learns_to_answer(base_teacher: Path, tmp_path: Path) -> None:
    data, metrics = fine_tuned(tmp_path, base_teacher, 160, 16)
    assert metrics["validation/answer_f1"] > 0.5
    spec = a_study(tmp_path, data, tmp_path / "teacher", {"layers": "even-with-last"})
    inputs = read_inputs(spec, lambda text: None)
    _, found, _ = a_trial(spec, inputs, tmp_path / "teacher", tmp_path, epochs=8)
    assert found["test/answer_f1"] > 0.4
    assert floor.n_grams(inputs.transfer, WorkerContext())[0]["test/answer_f1"] < 0.2


@pytest.mark.ray
@pytest.mark.slow
def test_a_whole_study(told: Callable[..., str], tmp_path: Path) -> None:
    """From SQuAD's files to the report, on a lane: plan, run, front, analyse, report, export."""
    plain = tiny.study(
        tmp_path,
        task="question-answering",
        data={**tiny.write_asked(tmp_path / "asked", (160, 20, 20)), "max_length": 32, "stride": 8},
        training={"epochs": 4},
        budget={"trials": 3},
        resources={"lanes": 1},
    )
    plain["teacher"]["fine_tune"] |= {"epochs": 16, "learning_rate": 3e-3}
    path, output = tmp_path / "study.yaml", tmp_path / "run"
    path.write_text(json.dumps(plain))
    assert "time, about" in told("plan", path)
    told("run", path)
    assert load_with_head(output / "teacher").__class__.__name__ == "BertForQuestionAnswering"
    best = next(folder for folder in sorted((output / "best").iterdir()) if folder.is_dir())
    card = (best / "README.md").read_text()
    for words in ("pipeline_tag: question-answering", "answer F1", "exact match", "AutoModelForQuestionAnswering"):
        assert words in card
    assert "that stand nearest" in told("front", output)
    for command in ("report", "analyse"):
        told(command, output)
    assert "of predictions as in PyTorch" in told("export", output, "--format", "onnx,onnx-int8")
