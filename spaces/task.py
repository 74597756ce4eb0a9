"""The tasks: what their labels are, which head gives the outputs, and the metrics they are judged by. The registries are dicts to
read."""

from __future__ import annotations

from typing import Literal

from spaces.student import Frozen, TaskHead

METRIC_WORDS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "entity_f1": "entity F1",
    "entity_precision": "entity precision",
    "entity_recall": "entity recall",
    "answer_f1": "answer F1",
    "exact_match": "exact match",
    "masked_accuracy": "accuracy at masked pieces",
    "order_accuracy": "order of two halves told right",
}  # every metric is maximised and at most 1


# A head gives an output for each text, for each token, or two for each token, of which one is chosen as the first of a span and one
# as its last; or makes a vector of each text; or says which piece is masked. What Hugging Face calls the models that have one: the
# last name but one is ours.
TASK_HEADS = {
    "text": "SequenceClassification",
    "token": "TokenClassification",
    "span": "QuestionAnswering",
    "embedding": "SentenceEmbedding",
    "masked": "MaskedLM",
}
SPAN_ENDS = ("start", "end")  # the outputs of a head for spans
OUTSIDE = "O"  # the tag of a word that belongs to no entity


class Task(Frozen):
    """`target`: a row's label is one class, any number of classes, a number, a tag for each of its words, or the span of its words
    that answers a question; or the row is one of a pair and wants a vector, and the pair has a score; or some of the row's own
    pieces are masked, and are to be told. `metrics` are measured on
    every split, the first of them is the objective where the study names none; `f1` is of the second class and exists for two
    classes only. `problem_type` is Hugging Face's word, which it has for texts alone."""

    target: Literal["class", "classes", "number", "tags", "span", "vector", "piece"]
    metrics: tuple[str, ...]
    problem_type: str | None = None
    constant: str  # what the simplest model says, in words
    floor: str = "a bag of n-grams"  # what a student has to beat, in words
    task_head: TaskHead = "text"


TASKS = {
    "text-classification": Task(
        target="class",
        metrics=("accuracy", "f1", "macro_f1", "matthews"),
        problem_type="single_label_classification",
        constant="always the most frequent class",
    ),
    "multi-label-classification": Task(
        target="classes",
        metrics=("micro_f1", "macro_f1", "accuracy"),  # accuracy: of whole sets of labels
        problem_type="multi_label_classification",
        constant="always the labels that most texts have",
    ),
    "text-regression": Task(
        target="number",
        metrics=("spearman", "pearson"),
        problem_type="regression",
        constant="always the mean",
    ),
    "token-classification": Task(
        target="tags",
        metrics=("entity_f1", "entity_precision", "entity_recall", "accuracy"),  # accuracy: of words
        constant="always the most frequent tag",
        floor="the most frequent tag of each word",
        task_head="token",
    ),
    "question-answering": Task(
        target="span",
        metrics=("answer_f1", "exact_match"),
        constant="always the first word of the context",
        floor="the rare words that stand nearest to the question's",
        task_head="span",
    ),
    "sentence-embeddings": Task(
        target="vector",
        metrics=("spearman", "pearson"),  # of the cosine of a pair's vectors and its score
        constant="every pair as alike as any other",
        task_head="embedding",
    ),
    "masked-language-modelling": Task(
        target="piece",
        metrics=("masked_accuracy",),
        constant="always the most frequent piece",
        floor="the piece that most often follows the one before",
        task_head="masked",
    ),
}
