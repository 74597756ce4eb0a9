"""How a teacher pools, and what becomes of it: students whose folders others load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from embedding_toys import read, with_modules
from safetensors import safe_open
from student_toys import a_shape

from search.study.searcher import trial_config
from search.study.teachers import find_teacher
from search.suggest.sampling import Sampling
from search.trial import work
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.deliver.formats import Forms, Texts
from search.trial.embedding import EncoderForSentenceEmbedding, PooledHead
from search.trial.evaluate import predict
from search.trial.metrics import cosines, measure
from search.trial.pooling import pooling_of
from search.trial.students import build_student
from search.trial.teacher import load_teacher, load_with_head, teach
from spaces.errors import InputError
from spaces.study import StudySpec, TeacherSpec
from spaces.trial import WorkItem, WorkKind

# how a teacher pools


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
def test_padding_changes_no_vector(base_teacher: Path, tokenizer: Any, tmp_path: Path) -> None:
    model = load_with_head(with_modules(base_teacher, tmp_path / "t")).eval()
    texts = ["soup", "the old guitar was with the new drum", "a ball"]
    tokens = Tokens.encode(tokenizer, texts, None, 32)
    together = predict(model, tokens, 0, WorkerContext(), exact=True)
    for row in range(3):
        alone = predict(model, tokens.taken(np.array([row])), 0, WorkerContext(), exact=True)
        np.testing.assert_allclose(together[row], alone[0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


# a whole trial


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "bert", "hidden_size": "50%", "intermediate_size": "50%", "vocabulary": 100, "hidden_share": 0.3},
        {"family": "albert", "embedding_size": 16, "num_hidden_groups": 1, "group_start": "best"},
        pytest.param({"family": "distilbert", "depth": 3}, marks=pytest.mark.slow),
        pytest.param({"family": "squeezebert", "depth": 3, "num_conv_groups": 1}, marks=pytest.mark.slow),
        pytest.param({"family": "mobilebert", "hidden_size": "50%", "embedding_size": 8}, marks=pytest.mark.slow),
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
    check = forms.write("onnx-int8", tmp_path / "onnx-int8").check
    assert check is not None
    assert 1e-4 < check.largest_difference["test"] < 0.05  # in 8 bits, and nearly the same vectors
    assert min(check.share_equal.values()) > 0.9
    assert check.metrics["test/spearman"] == pytest.approx(told["metrics"]["test/spearman"], abs=0.02)
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
def test_a_whole_study(told: Callable[..., str], tmp_path: Path) -> None:
    """From the files to the report, on a lane: plan, run, front, analyse, report, export."""
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
