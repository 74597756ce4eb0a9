"""`training.start`: the folder of a student distilled before, from which students of its shape start."""

from __future__ import annotations

from search.study.teachers import TeacherSource, find_teacher
from search.trial import mirror
from search.trial.data import Vocabulary
from search.trial.start.begun import is_of
from search.trial.vocabulary import load_tokenizer
from spaces.errors import Fault, InputError
from spaces.student import TeacherShape
from spaces.study import StudySpec, TeacherSpec

FOLDER = "start"  # its copy in the output, which is what a study goes on with


def find_begun(spec: StudySpec) -> TeacherSource | None:
    """The student that the study names, if it does. Raises InputError where it holds none."""
    if spec.training.start is None:
        return None
    own = spec.output / FOLDER
    try:
        return find_teacher(TeacherSpec(model=str(own) if mirror.bring(own) else spec.training.start), "masked")
    except InputError as error:
        raise InputError("", [Fault("training.start", fault.problem) for fault in error.faults]) from None


def check_same_pieces(begun: TeacherSource, vocabulary: Vocabulary) -> None:
    """Raises InputError where its word embeddings are of other pieces than the teacher's."""
    from transformers import AutoTokenizer

    where = "training.start"
    try:
        theirs = AutoTokenizer.from_pretrained(begun.folder, trust_remote_code=False).get_vocab()
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError.of("", f"holds no tokenizer that loads: {first}", where) from None
    if theirs != load_tokenizer(vocabulary).get_vocab():
        raise InputError.of(
            "", "its vocabulary is another than the teacher's, so that its word embeddings are of other pieces; name a student "
            "distilled with this teacher's whole vocabulary", where,
        )  # fmt: skip


def check_some_start(spec: StudySpec, begun: TeacherSource, teacher: TeacherShape, vocabularies: dict[str, int]) -> str:
    """What to tell of who starts from it. Raises InputError where nobody can."""
    every = [shape for _, shape in spec.space.architectures(teacher, vocabularies)]
    some = [shape for shape in every if is_of(shape, begun.config)]
    found = begun.shape(1)
    what = f"{found.model_type}, {found.depth} layers, width {found.hidden_size} and {found.intermediate_size}"
    if found.embedding_size:
        what += f", embeddings {found.embedding_size}"
    if not some:
        raise InputError.of(
            "", f"no student of the space is of its shape ({what}); let the space hold that", "training.start"
        )
    return f"{len(some)} of {len(every)} shapes start from {spec.training.start} ({what}), the others from the teacher"
