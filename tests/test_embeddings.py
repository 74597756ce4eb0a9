"""Sentence embeddings: pairs as rows, losses and scores by hand, what padding does, folders that others load, and a whole trial."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors import safe_open
from student_toys import a_shape

from search.study.inputs import Inputs, read_inputs
from search.study.searcher import trial_config
from search.study.teachers import find_teacher
from search.study.worth import agreement, refuse_chance
from search.suggest.sampling import Sampling
from search.trial import floor, losses, work
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.deliver.formats import Forms, Texts
from search.trial.embedding import EncoderForSentenceEmbedding, PooledHead
from search.trial.evaluate import predict
from search.trial.metrics import METRICS, cosines, measure
from search.trial.pooling import pooling_of, write_modules
from search.trial.students import build_student
from search.trial.teacher import load_teacher, load_with_head, teach
from spaces.errors import InputError
from spaces.study import StudySpec, TeacherSpec
from spaces.trial import WorkItem, WorkKind
from spaces.yaml_io import parse_study

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def scored_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    tiny.write_scored(folder)
    return folder


@pytest.fixture
def embedding(scored_folder: Path, base_teacher: Path, tmp_path: Path) -> Callable[..., StudySpec]:
    """A maker of studies on the tiny pairs; `files` (name -> content) stand in place of its own, None for none."""

    def make(files: dict[str, str | None] | None = None, **changes: Any) -> StudySpec:
        data = {name: str(scored_folder / f"{name}.tsv") for name in SPLITS}
        for name, content in (files or {}).items():
            data.pop(Path(name).stem, None)
            if content is not None:
                (tmp_path / name).write_text(content)
                data[Path(name).stem] = str(tmp_path / name)
        plain = {
            "name": "vectors",
            "task": "sentence-embeddings",
            "data": {"max_length": 32, **data, **changes.pop("data", {})},
            "teacher": str(base_teacher),
            "space": {"depth": [1, 3], "vocabulary": ["used", 100], "hidden_size": ["50%", "full"], "batch_size": [16]},
            "training": {"epochs": 2},
            "tracking": "none",
            "output": str(tmp_path / "run"),
            "cache": str(tmp_path / "cache"),
        }
        return parse_study({**plain, **changes}, "study.yaml", tmp_path)

    return make


def read(spec: StudySpec) -> Inputs:
    return read_inputs(spec, lambda text: None)


PAIRS = "sentence1\tsentence2\tscore\nbread soup\tsoup\t4.5\na ball\tthe guitar\t0\n"


# files


def test_a_pair_is_two_rows_and_training_text_has_no_scores(embedding: Callable[..., StudySpec]) -> None:
    inputs = read(embedding({"validation.tsv": PAIRS, "train.tsv": PAIRS}))
    texts = inputs.texts.splits
    assert list(texts["validation"].texts) == ["bread soup", "soup", "a ball", "the guitar"]
    assert list(texts["train"].texts) == ["bread soup", "soup", "a ball", "the guitar"]
    splits = inputs.transfer.splits
    assert splits["validation"].labels.tolist() == [4.5, 0.0]
    assert splits["validation"].texts == (["bread soup", "soup", "a ball", "the guitar"], None)
    assert (len(splits["validation"]), splits["validation"].num_scored) == (4, 2)
    assert np.isnan(splits["train"].labels).all()
    assert len(splits["train"].labels) == splits["train"].num_scored == 4
    assert not inputs.fine_tunes
    assert len(inputs.transfer.label_names) == inputs.teacher.num_labels == 32


def test_text_alone_is_enough_to_train_on(embedding: Callable[..., StudySpec]) -> None:
    more = {"train.tsv": None, "train.txt": "bread and soup\n\nthe old guitar\n", "unlabelled.txt": "a ball\n"}
    inputs = read(embedding(more))
    assert list(inputs.texts.splits["train"].texts) == ["bread and soup", "the old guitar"]
    joined = inputs.transfer.joined()
    tokens, labels, _, num_labelled = joined.training("full", taught=False)
    assert (len(tokens), len(labels), num_labelled) == (3, 3, 2)  # even where no share of the loss says taught


def test_a_test_split_is_cut_off_pairs(embedding: Callable[..., StudySpec]) -> None:
    inputs = read(embedding({"test.tsv": None}))
    sizes = {name: split.num_scored for name, split in inputs.transfer.splits.items()}
    assert sizes == {"train": 216, "validation": 60, "test": 12}
    assert any("12 rows of train were set aside" in note for note in inputs.notes)


def test_a_cut_vocabulary_keeps_pairs_together(embedding: Callable[..., StudySpec]) -> None:
    split = read(embedding()).transfer.splits["validation"]
    again = read(embedding()).transfer
    kept = again.vocabularies["100"].kept
    words = tiny.vocabulary()
    for row, text in enumerate(tiny.scored(60, 1)[0].values()):
        if row < 2:
            tokens = split.tokens["100"]
            ids = tokens.ids[tokens.offsets[row] + 1 : tokens.offsets[row + 1] - 1]
            pieces = "".join(words[kept[index]].removeprefix("##") for index in ids)
            assert pieces == text.replace(" ", "") or "[UNK]" in pieces
    assert len(split.tokens["100"]) == len(split.tokens["full"]) == 120


HEAD = "sentence1\tsentence2\tscore\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"validation.tsv": HEAD + "a\t \t1\nb\tc\t2\n"},
            "data.validation: row 1 (after the header) has an empty text",
        ),
        ({"train.tsv": HEAD + "a\tb\t1\n\tc\t2\n"}, "data.train: row 2 (after the header) has an empty text"),
        ({"test.tsv": HEAD + "a\tb\t1\nb\tc\thigh\n"}, "row 2 (after the header) has label 'high', which is no number"),
        ({"test.tsv": HEAD + "a\tb\t1\nb\tc\t\n"}, "has label '', which is no number"),
        ({"test.tsv": HEAD + "a\tb\t2\nb\tc\t2\n"}, "data.test: all its pairs have the same score"),
        ({"test.tsv": "sentence1\tsentence2\na\tb\n"}, "data.test: no column looks like the label"),
        ({"test.tsv": "text\tscore\na\t1\n"}, "data.test: no column looks like the text_pair"),
        (
            {"test.tsv": None, "train.tsv": None, "train.txt": "bread\nsoup\n"},
            "data.train: holds no pairs with scores that a test split could be cut off; write validation: FILE",
        ),
    ],
)
def test_bad_files(files: dict[str, str | None], words: str, embedding: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read(embedding(files))
    assert words in str(caught.value)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"class_weights": "balanced"}}, "class_weights is for classes"),
        ({"confirm": {"without_distillation": "all"}}, "sentence-embeddings has no labels to learn from"),
        ({"objectives": {"accuracy": "maximize", "parameters": "minimize"}}, "'accuracy' is not an objective"),
    ],
)
def test_bad_settings(changes: dict[str, Any], words: str, embedding: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read(embedding(**changes))
    assert words in str(caught.value)


def test_what_means_nothing_here_is_left_out(embedding: Callable[..., StudySpec]) -> None:
    spec = embedding(space="default")
    assert spec.confirm.without_distillation == "none"
    inputs = read(spec)
    assert inputs.spec.space.is_fixed("temperature")
    assert not inputs.spec.space.is_fixed("soft_share")
    assert any("temperature is not searched" in note for note in inputs.notes)


@pytest.mark.usefixtures("registries")
def test_a_head_of_ones_own_is_refused(embedding: Callable[..., StudySpec], documented: Callable[[str], Path]) -> None:
    path = documented("mean_head.py")
    with pytest.raises(InputError, match="'mean' cannot stand for what sentence-embeddings pools"):
        read(embedding(heads={"mean": f"{path}:MeanHead"}, space={"head": ["mean"]}))


# how a teacher pools


def with_modules(teacher: Path, folder: Path, modules: Any = None, pooling: Any = None) -> Path:
    """A copy of the teacher with the files of sentence-transformers, some of them as given."""
    shutil.copytree(teacher, folder)
    write_modules(folder, "mean", 32, 32)
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("pooling", "found"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_how_a_folder_pools(pooling: Any, found: str, base_teacher: Path, tmp_path: Path) -> None:
    folder = with_modules(base_teacher, tmp_path / "t", pooling=pooling)
    source = find_teacher(TeacherSpec(model=str(folder)), "embedding")
    assert source.pooling == found
    assert source.fingerprint.endswith(found)  # it is another teacher, by the same weights
    assert load_with_head(folder).head.pooling == found


def module(kind: str, path: str = "") -> dict[str, str]:
    return {"path": path, "type": f"sentence_transformers.models.{kind}"}


BOTH = [module("Transformer"), module("Pooling", "1_Pooling")]


@pytest.mark.parametrize(
    ("modules", "pooling", "words"),
    [
        (
            [*BOTH, module("Dense", "2_Dense")],
            None,
            "names Dense, and only Transformer, Pooling, Normalize are followed",
        ),
        ([module("Transformer")], None, "names no Pooling"),
        (BOTH, {"pooling_mode_max_tokens": True}, "it pools by max, and only mean or cls is followed here"),
        (BOTH, {"pooling_mode": ["cls", "mean"]}, "it pools by cls and mean"),
        (BOTH, {"pooling_mode": "lasttoken"}, "it pools by lasttoken"),
        (BOTH, {}, "it pools by nothing"),
        (BOTH, {"pooling_mode": "mean", "include_prompt": False}, "leaves a prompt out"),
        (BOTH, [1], "cannot be read"),
        ({"a": 1}, None, "cannot be read"),
        ([module("Transformer"), module("Pooling", "elsewhere")], None, "cannot be read"),
    ],
)
def test_a_teacher_that_pools_otherwise(
    modules: Any, pooling: Any, words: str, base_teacher: Path, tmp_path: Path, embedding: Callable[..., StudySpec]
) -> None:
    folder = with_modules(base_teacher, tmp_path / "t", modules, pooling)
    with pytest.raises(InputError) as caught:
        read(embedding(teacher=str(folder)))
    assert "teacher.model" in str(caught.value)
    assert words in str(caught.value)


def test_a_teacher_that_wants_a_prompt(base_teacher: Path, tmp_path: Path) -> None:
    folder = with_modules(base_teacher, tmp_path / "t")
    (folder / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    with pytest.raises(ValueError, match="puts a prompt before every text"):
        pooling_of(folder)


def test_pooling_by_hand() -> None:
    hidden = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]], [[0.0, 2.0], [7.0, 7.0], [7.0, 7.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    config = build_student(
        a_shape(task_head="embedding", num_labels=32), label_names=[str(i) for i in range(32)]
    ).config
    config.hidden_size = config.num_labels = 2
    assert torch.allclose(PooledHead(config)(hidden, mask), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    config.pooling = "cls"
    assert torch.allclose(PooledHead(config)(hidden, mask), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


@torch.no_grad()
def test_padding_changes_no_vector(base_teacher: Path, tokenizer: Any) -> None:
    model = load_with_head(base_teacher_with_modules(base_teacher)).eval()
    texts = ["soup", "the old guitar was with the new drum", "a ball"]
    tokens = Tokens.encode(tokenizer, texts, None, 32)
    together = predict(model, tokens, 0, WorkerContext(), exact=True)
    for row in range(3):
        alone = predict(model, tokens.taken(np.array([row])), 0, WorkerContext(), exact=True)
        np.testing.assert_allclose(together[row], alone[0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def base_teacher_with_modules(base_teacher: Path) -> Path:
    folder = base_teacher.with_name("with_modules")
    return folder if folder.exists() else with_modules(base_teacher, folder)


# losses and scores


def test_the_loss_of_a_vector_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 5.0]])
    expected = (1 - math.sqrt(0.5)) / 2
    assert losses.vector_loss(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert losses.vector_loss(student, teacher, 7.0, num_valid=4).item() == pytest.approx(expected / 2, abs=1e-6)
    assert losses.vector_loss(teacher, teacher, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.vector_loss(student[:0], teacher[:0], 1.0).item() == 0


def test_the_loss_of_how_alike_they_are_by_hand() -> None:
    # cosines of the student 0, of the teacher 0.5: off the diagonal two squares of a quarter, each row's mean over one other
    student = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    teacher = torch.tensor([[2.0, 0.0], [0.5, math.sqrt(0.75)]])  # of another width
    assert losses.similarity_loss(student, teacher).item() == pytest.approx(0.25, abs=1e-6)
    assert losses.similarity_loss(student, teacher, num_valid=4).item() == pytest.approx(0.125, abs=1e-6)
    turned = teacher @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert losses.similarity_loss(turned, teacher).item() == pytest.approx(0.0, abs=1e-6)  # angles are all that counts
    assert losses.similarity_loss(student[:1], teacher[:1]).item() == 0
    assert losses.similarity_loss(torch.zeros(2, 3), teacher).item() == pytest.approx(0.25, abs=1e-6)


def test_both_losses_share_what_there_is() -> None:
    student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
    labels = torch.full((2,), torch.nan)
    each = losses.vector_loss(student, teacher, 1.0).item(), losses.similarity_loss(student, teacher).item()
    for share in (0.0, 0.25, 1.0):
        found = losses.distillation_loss(
            student, teacher, labels, temperature=1.0, soft_share=share, num_valid=2, num_labelled=0, target="vector"
        )
        assert found.item() == pytest.approx(share * each[0] + (1 - share) * each[1], abs=1e-6)


def test_scores_from_vectors_by_hand() -> None:
    # cosines 1, 0.6, 0 and -1
    pairs = np.array([[2, 0], [1, 0], [1, 0], [3, 4], [0, 1], [1, 0], [1, 0], [-2, 0]], np.float32)
    assert cosines(pairs) == pytest.approx([1, 0.6, 0, -1])
    assert METRICS["vector"](pairs, np.array([5.0, 4.0, 3.0, 0.0]))["spearman"] == pytest.approx(1.0)
    found = METRICS["vector"](pairs, np.array([4.0, 5.0, 1.0, 2.0]))  # ranks off by one each: 1 - 6 * 4 / (4 * 15)
    assert found["spearman"] == pytest.approx(0.6)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 0.6, 0, -1], [4, 5, 1, 2])[0, 1])
    assert cosines(np.zeros((2, 3))) == pytest.approx([0])
    assert measure("vector", {}, pairs * 7, np.array([5.0, 4.0, 3.0, 0.0]))["spearman"] == pytest.approx(1.0)


def test_the_floors(embedding: Callable[..., StudySpec]) -> None:
    transfer = read(embedding()).transfer
    assert floor.majority(transfer)["test/spearman"] == 0
    metrics, size = floor.n_grams(transfer, WorkerContext())
    assert metrics["test/spearman"] > 0.8  # scores are the number of shared words
    assert size > 30
    one = {"train.tsv": PAIRS, "validation.tsv": HEAD + "soup\tsoup\t3\nball\tbread\t1\n"}
    assert floor.n_grams(read(embedding(one)).transfer, WorkerContext())[0]["validation/pearson"] == pytest.approx(1)


def test_a_teacher_no_better_than_chance(embedding: Callable[..., StudySpec]) -> None:
    rng = np.random.default_rng(0)
    spec, labels = embedding(), rng.normal(size=200)
    angles = np.arccos(np.tanh(labels))
    pairs = np.zeros((400, 2))
    pairs[0::2, 0], pairs[1::2] = 1, np.stack([np.cos(angles), np.sin(angles)], 1)
    assert agreement("vector", pairs, labels) > 10
    refuse_chance(spec, pairs, labels)
    with pytest.raises(InputError, match="on 200 validation pairs its answers agree"):
        refuse_chance(spec, rng.normal(size=(400, 2)), labels)


# a whole trial


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "bert", "hidden_size": "50%", "intermediate_size": "50%", "vocabulary": 100, "hidden_share": 0.3},
        {"family": "albert", "embedding_size": 16, "num_hidden_groups": 1, "group_start": "best"},
        {"family": "distilbert", "depth": 3},
        {"family": "squeezebert", "depth": 3, "num_conv_groups": 1},
        {"family": "mobilebert", "hidden_size": "50%", "embedding_size": 8},
    ],
)
def test_a_whole_trial(changes: dict[str, Any], embedding: Callable[..., StudySpec], tmp_path: Path) -> None:
    space = {"depth": 2, "batch_size": 16, "layers": "even-with-last", "learning_rate": 3e-3, "vocabulary": "used"}
    spec = embedding(space={name: [value] for name, value in {**space, **changes}.items()})
    inputs = read(spec)
    folder = with_modules(inputs.source.folder, tmp_path / "teacher")
    alone = WorkerContext(data={"transfer": inputs.transfer})
    logits = {
        name: teach(str(folder), split, np.arange(len(split)), 0, alone)
        for name, split in inputs.transfer.splits.items()
    }
    of_teacher = inputs.transfer.measure("test", logits["test"])["spearman"]
    assert of_teacher > 0.5  # of random weights: texts that share words are alike
    work.perform(WorkItem(key="r", kind=WorkKind.RANK, payload={"teacher": str(folder)}), alone)
    students = WorkerContext(data={"transfer": inputs.transfer.with_teacher_logits(logits).joined()})
    parameters, shape = Sampling(spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)
    config = trial_config(spec, parameters, shape, inputs.teacher.depth, 0)

    def trained(name: str, **more: Any) -> float:
        item = WorkItem(
            key=name, kind=WorkKind.TRAIN, trial=0, config=config.model_copy(update=more), evaluate=("test",),
            folder=str(tmp_path / name), payload={"teacher": str(folder), "exact": True},
        )  # fmt: skip
        measurement, _ = work.perform(item, students)
        assert measurement is not None
        return measurement.cost["mean_loss"]

    assert trained("trained", epochs=6.0) < trained("started", steps=1, learning_rate=1e-9)
    weights = tmp_path / "trained" / "attempt-1"
    payload = {"teacher": str(folder), "weights": str(weights)}
    best = tmp_path / "best"
    item = WorkItem(key="d", kind=WorkKind.DELIVER, trial=0, config=config, folder=str(best), payload=payload)
    _, told = work.perform(item, students)
    assert told["num_parameters"] == shape.num_parameters
    held_out = {n: inputs.transfer.splits[n] for n in ("validation", "test")}
    texts = {n: Texts(split.texts, split.labels, "embedding") for n, split in held_out.items() if split.texts}
    forms = Forms(best, texts, lambda *known: measure("vector", {}, *known[:2]), "vector", 32)
    for form in ("hf", "hf-fp16", "onnx"):
        written = forms.write(form, tmp_path / form)
        if form == "hf":
            assert written.bytes == shape.num_bytes
            continue
        assert written.check is not None
        assert written.check.share_equal == {"validation": 1.0, "test": 1.0}
        assert written.check.metrics["test/spearman"] == pytest.approx(told["metrics"]["test/spearman"], abs=2e-3)
    assert not (tmp_path / "onnx" / "modules.json").exists()
    _loads_anywhere(best, tmp_path / "hf", shape.num_labels)


def _loads_anywhere(best: Path, copied: Path, width: int) -> None:
    """What others make of the folder is what we do."""
    from transformers import AutoModel, AutoTokenizer

    texts = ["soup", "the old guitar was with the new drum", "a ball and a coach"]
    ours = load_with_head(best).eval()
    assert isinstance(ours, EncoderForSentenceEmbedding)
    tokenizer = AutoTokenizer.from_pretrained(best)
    expected = predict(ours, Tokens.encode(tokenizer, texts, None, 32), 0, WorkerContext(), exact=True)
    assert expected.shape == (3, width)
    plain = AutoModel.from_pretrained(best).eval()
    assert type(plain).__module__.startswith("transformers.")
    config = json.loads((best / "config.json").read_text())
    assert "id2label" not in config
    assert "pooling" not in config
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = plain(**inputs).last_hidden_state
        kept = inputs["attention_mask"][..., None]
        pooled = (hidden * kept).sum(1) / kept.sum(1)
        if (best / "2_Dense").is_dir():
            with safe_open(best / "2_Dense" / "model.safetensors", "pt") as stored:
                pooled = pooled @ stored.get_tensor("linear.weight").T + stored.get_tensor("linear.bias")
        pooled = torch.nn.functional.normalize(pooled, dim=-1)
    np.testing.assert_allclose(pooled.numpy(), expected, atol=1e-5)
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="comes with the extra `demo`")
    for folder in (best, copied):
        theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
        both = np.stack([np.asarray(theirs), expected], 1).reshape(-1, width)
        np.testing.assert_allclose(cosines(both), 1, atol=1e-5)
        np.testing.assert_allclose(theirs, expected, atol=1e-4)


def test_a_narrower_start_keeps_the_dimensions_at_their_places(
    embedding: Callable[..., StudySpec], tmp_path: Path
) -> None:
    """The linear layer of a student that only lost dimensions puts those that it kept where the teacher has them."""
    from search.trial.start.importance import load_importance, most_important
    from search.trial.start.initialise import unshared
    from search.trial.start.narrow import narrowed

    inputs = read(embedding())
    folder = with_modules(inputs.source.folder, tmp_path / "teacher")
    alone = WorkerContext(data={"transfer": inputs.transfer})
    work.perform(WorkItem(key="r", kind=WorkKind.RANK, payload={"teacher": str(folder)}), alone)
    found = load_importance(str(folder))
    assert found is not None
    assert (found.hidden > 0).all()
    teacher = load_teacher(str(folder))
    shape = a_shape(task_head="embedding", num_labels=32, hidden_size=16, embedding_size=16, num_heads=2)
    state = narrowed(unshared(teacher), "bert", 4, shape, found)
    kept = most_important(found.hidden, 16)
    vector = torch.arange(32.0)
    restored = state["head.linear.weight"] @ vector[torch.from_numpy(kept)]
    assert restored.tolist() == [float(i) if i in kept else 0.0 for i in range(32)]


@pytest.mark.ray
@pytest.mark.slow
def test_a_whole_study(tmp_path: Path) -> None:
    """From the files to the report, on a lane: plan, run, front, analyse, report, export."""
    paths = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "HOME": str(tmp_path / "home")}

    def told(*arguments: object) -> str:
        command = [sys.executable, "-m", "search.cli", *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout

    plain = tiny.study(
        tmp_path,
        task="sentence-embeddings",
        data={**tiny.write_scored(tmp_path / "scored"), "max_length": 32, "augmentation": {"copies": 1}},
        training={"epochs": 4},
        budget={"trials": 3},
        resources={"lanes": 1},
    )
    del plain["confirm"]["without_distillation"]
    path, output = tmp_path / "study.yaml", tmp_path / "run"
    path.write_text(json.dumps(plain))
    assert "time, about" in told("plan", path)
    told("run", path)
    assert pooling_of(output / "teacher") == "mean"
    best = next(folder for folder in sorted((output / "best").iterdir()) if folder.is_dir())
    card = (best / "README.md").read_text()
    for words in ("library_name: sentence-transformers", "pipeline_tag: sentence-similarity", "Spearman correlation"):
        assert words in card
    assert 'SentenceTransformer("path/to/this/folder")' in card
    for command in ("front", "report", "analyse"):
        told(command, output)
    assert "100.00 % of predictions as in PyTorch" in told("export", output, "--format", "onnx,hf-fp16,hf")
