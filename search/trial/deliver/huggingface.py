"""A Hugging Face folder that loads anywhere, scored from plain text after loading it again."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from search.trial.checkpoint import folder_whole, load_weights
from search.trial.context import WorkerContext
from search.trial.data import Tokens, TransferSet
from search.trial.evaluate import predict
from search.trial.students import build_student
from search.trial.teacher import load_teacher, load_with_head
from search.trial.vocabulary import write_tokenizer
from spaces.errors import TrialError
from spaces.heads import STOCK
from spaces.task import TASK_HEADS
from spaces.trial import TrialConfig


def deliver(
    config: TrialConfig, teacher: str, weights: Path, folder: Path, transfer: TransferSet, context: WorkerContext
) -> dict[str, Any]:
    """Writes `folder`, loads it as a user would (`AutoModel...`, `AutoTokenizer`) and scores validation and test in
    fp32 from their texts. The metrics are of the folder, not of the training process."""
    from transformers import AutoTokenizer

    vocabulary = transfer.vocabularies[config.vocabulary]
    student = build_student(
        config.shape,
        label_names=transfer.label_names,
        problem_type=transfer.problem_type,
        pad_id=vocabulary.pad_id,
        dropout=config.dropout,
        teacher_config=load_teacher(teacher).config,
        empty=True,
    )
    load_weights(student, weights)
    with folder_whole(folder) as temporary:
        if config.shape.head != STOCK:
            write_code(student, temporary, transfer.task_head)
        student.save_pretrained(temporary)
        write_tokenizer(vocabulary, temporary, max_length=config.shape.max_positions)
    own_code = config.shape.head != STOCK  # the study's own head, which write_code put there
    model = load_with_head(folder, own_code)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    counted = sum(parameter.numel() for parameter in model.parameters())
    num_bytes = sum(path.stat().st_size for path in folder.rglob("model.safetensors"))
    if (counted, num_bytes) != (config.shape.num_parameters, config.shape.num_bytes):
        raise TrialError(
            f"the delivered model has {counted} parameters in {num_bytes} bytes, arithmetic said "
            f"{config.shape.num_parameters} in {config.shape.num_bytes}; please report this"
        )
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        split = transfer.splits[name]
        assert split.texts is not None
        tokens = Tokens.encode(tokenizer, *split.texts, transfer.max_length, transfer.task_head)
        logits = predict(model, tokens, int(tokenizer.pad_token_id), context, exact=True)
        scored = transfer.measure(name, logits)
        metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
    return {"metrics": metrics, "num_parameters": counted, "num_bytes": num_bytes}


def write_code(student: Any, folder: Path, task_head: str = "text") -> None:
    """Beside a student with a head of the study's own: the code that loads it, the head's own file with it."""
    from search.trial.deliver import student_with_head

    head = student.head_class
    (folder / "student_with_head.py").write_text(inspect.getsource(student_with_head))
    (folder / "own_head.py").write_text(Path(inspect.getfile(head.forward)).read_text("utf-8"))
    base = next(each.__name__ for each in type(student).__mro__ if each.__module__ == student_with_head.__name__)
    (folder / "modeling_student.py").write_text(
        f"from .own_head import {head.__name__}\nfrom .student_with_head import {base}\n\n\n"
        f"class Student({base}):\n    head_class = {head.__name__}\n"
    )
    student.config.auto_map = {f"AutoModelFor{TASK_HEADS[task_head]}": "modeling_student.Student"}
