"""What a student is worth before any training, by shape: how much of the teacher its initialisation alone keeps.

    python benchmarks/starts.py DIR VOCABULARY

DIR is a study's folder: its teacher and its data are taken. VOCABULARY is one of its space's, such as 4000.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from search.study.inputs import read_inputs
from search.study.output import spec_of
from search.trial import teacher
from search.trial.context import WorkerContext
from search.trial.evaluate import score
from search.trial.start.importance import load_importance, rank
from search.trial.start.initialise import initialise, spans, unshared
from search.trial.start.narrow import is_narrower, narrowed
from search.trial.students import build_student
from spaces.architecture import InvalidStudent, copied_layers

POLICIES = ("even-with-last", "first-and-last", "skip-first")
WIDTHS = list(itertools.product(("full", "75%", "50%"), ("full", "67%", "50%", "33%", "25%", "17%", "8%")))


def main(folder: Path, vocabulary: str) -> None:
    spec = spec_of(folder)
    inputs = read_inputs(spec, print)
    transfer, kept = inputs.transfer, inputs.transfer.vocabularies[vocabulary]
    source = teacher.load_teacher(str(folder / "teacher"))
    alone = WorkerContext(data={"transfer": transfer})
    train = transfer.splits["train"]
    importance = load_importance(str(folder / "teacher")) or rank(
        source, train.tokens["full"], train.labels, transfer.target, transfer.vocabularies["full"].pad_id, alone
    )
    state, kind = unshared(source), source.config.model_type
    print(
        f"| layers | width | feed-forward | parameters | validation {spec.quality}, untrained |\n|---|---|---|---|---|"
    )
    seen = set()
    for depth, policy, (hidden, inner) in itertools.product(range(inputs.teacher.depth, 0, -1), POLICIES, WIDTHS):
        values = {
            "depth": depth,
            "layers": policy,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "vocabulary": vocabulary,
        }
        try:
            shape = spec.space.shape(values, inputs.teacher, inputs.vocabularies)
        except InvalidStudent:
            continue
        layers = copied_layers(policy, depth, inputs.teacher.depth)
        if (layers, shape) in seen:
            continue
        seen.add((layers, shape))
        student = build_student(
            shape, label_names=transfer.label_names, problem_type=transfer.problem_type, pad_id=kept.pad_id, dropout=0.0,
            teacher_config=source.config, empty=True,
        )  # fmt: skip
        its = (
            narrowed(state, kind, inputs.teacher.num_heads, shape, importance)
            if is_narrower(shape, source.config)
            else state
        )
        initialise(student, shape, its, kind, spans(shape, layers), kept)
        found = score(student, transfer, vocabulary, ("validation",), alone)[f"validation/{spec.quality}"]
        cells = (
            " ".join(map(str, layers)),
            shape.hidden_size,
            shape.intermediate_size,
            f"{shape.num_parameters / 1e6:.2f} M",
        )
        print(f"| {' | '.join(map(str, cells))} | {found:.3f} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
