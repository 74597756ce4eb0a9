"""The floors: what a student has to beat to be worth having."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from search.trial.context import WorkerContext
from search.trial.data import Tokens, TransferSet
from search.trial.evaluate import score
from search.trial.places import NOWHERE
from search.trial.start.initialise import can_copy, initialise, unshared
from search.trial.students import build_student
from search.trial.teacher import load_teacher
from spaces.student import StudentShape

NEAR_WORDS, RARE, MOST_OF_RUN = 10, math.log(10), 5  # of `near_the_question`: words, of a piece, words
MOST_ROWS = 500_000  # that the n-grams are fitted on: their names alone take gigabytes for millions of texts


def majority(transfer: TransferSet) -> dict[str, float]:
    """What the training labels say without a look at the text: the most frequent class or tag, the labels that more than half
    of the texts have, or the mean. Of a context always the first word."""
    labels = transfer.splits["train"].labels
    if transfer.target == "vector":
        constant_C = np.ones(1)
    elif transfer.target in ("class", "tags"):
        constant_C = np.bincount(labels[labels >= 0], minlength=len(transfer.label_names)).astype(np.float32)
    elif transfer.target == "piece":
        constant_C = np.array([np.bincount(labels).argmax()])
    elif transfer.target == "span":
        constant_C = np.ones(len(transfer.label_names), np.float32)  # of equal spans the first, which is one word
    else:
        constant_C = np.atleast_1d(labels.mean(0) - (0.5 if transfer.target == "classes" else 0.0))
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        split = transfer.splits[name]
        scored = transfer.measure(name, np.tile(constant_C, (split.num_outputs, 1)))
        metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
    return metrics


def n_grams(transfer: TransferSet, context: WorkerContext) -> tuple[dict[str, float], int]:
    """A linear model over the pieces and pairs of pieces that stand in two texts or more, tf-idf weighted, with the
    regularisation chosen on validation; and its number of weights. A pair's two sides count apart, and so do the pieces
    that both share: without them matching pairs would look harder for a bag of words than they are. Of more than MOST_ROWS
    texts some are drawn. Where words have tags it is `frequent_tags`, where texts have vectors `bags_alike`, where questions are
    answered `near_the_question`, where pieces are masked `likely_next`."""
    if transfer.target == "tags":
        return frequent_tags(transfer)
    if transfer.target == "vector":
        return bags_alike(transfer)
    if transfer.target == "span":
        return near_the_question(transfer, context)
    if transfer.target == "piece":
        return likely_next(transfer)
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=lambda grams: grams, min_df=2, sublinear_tf=True)
    train, num_labels = transfer.splits["train"], len(transfer.label_names)
    rows = np.arange(len(train.labels))
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
    labels, features = train.labels[rows], vectorizer.fit_transform(_grams(train.tokens["full"], rows))
    if len(np.unique(labels)) < 2:
        return majority(transfer), 0
    others = {
        name: vectorizer.transform(_grams(split.tokens["full"], np.arange(len(split.labels))))
        for name, split in transfer.splits.items()
        if name in ("validation", "test")
    }
    best: tuple[float, dict[str, float], int] | None = None
    for strength in (1.0, 4.0, 16.0):
        context.heartbeat(0, 0)  # a minute each on large data
        model = _linear(transfer.target, strength).fit(features, labels)
        metrics: dict[str, float] = {}
        for name, matrix in others.items():
            outputs = _outputs(model, matrix, num_labels, transfer.target)
            scored = transfer.measure(name, outputs)
            metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
        reached = metrics[f"validation/{next(iter(scored))}"]
        if best is None or reached > best[0]:
            parts = getattr(model, "estimators_", [model])
            fitted = [part for part in parts if hasattr(part, "coef_")]  # a label that no text has needs no weights
            best = (reached, metrics, sum(int(part.coef_.size + np.size(part.intercept_)) for part in fitted))
    assert best is not None
    return best[1:]


def likely_next(transfer: TransferSet) -> tuple[dict[str, float], int]:
    """The piece that most often follows the one before in the training texts, the most frequent where that never occurred; and how
    many it knows."""
    train = transfer.splits["train"]
    ids = train.tokens["full"].shown(train.labels).ids.astype(np.int64)
    pairs, counts = np.unique(np.stack([ids[:-1], ids[1:]]), axis=1, return_counts=True)
    order = np.argsort(counts, kind="stable")  # of the pieces after one the most frequent is written last
    following = np.full(int(ids.max()) + 2, np.bincount(train.labels).argmax())
    following[pairs[0, order]] = pairs[1, order]
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        tokens = transfer.splits[name].tokens["full"]
        assert tokens.places is not None
        places = np.repeat(tokens.offsets[:-1], np.diff(tokens.places.offsets)) + tokens.places.at
        before = np.minimum(tokens.ids[places - 1], len(following) - 1)
        scored = transfer.measure(name, following[before][:, None].astype(np.float32))
        metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
    return metrics, len(np.unique(pairs[0]))


def bags_alike(transfer: TransferSet) -> tuple[dict[str, float], int]:
    """The cosine of two bags of pieces and pairs of pieces, tf-idf weighted by the training texts; and how many it knows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def grams(tokens: Tokens, rows: np.ndarray) -> Iterator[list[Any]]:
        for row in rows:
            pieces = tokens.ids[tokens.offsets[row] + 1 : tokens.offsets[row + 1] - 1].tolist()  # no special tokens
            yield [*((piece,) for piece in pieces), *itertools.pairwise(pieces)]

    train = transfer.splits["train"].tokens["full"]
    rows = np.arange(len(train))
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
    vectorizer = TfidfVectorizer(analyzer=lambda found: found, sublinear_tf=True).fit(grams(train, rows))
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        tokens = transfer.splits[name].tokens["full"]
        bags = vectorizer.transform(grams(tokens, np.arange(len(tokens))))
        cosine = np.asarray(bags[0::2].multiply(bags[1::2]).sum(1)).ravel().clip(0, 1)
        pairs = np.zeros((len(tokens), 2))  # two numbers that have this cosine, for vectors as wide as all bags
        pairs[0::2, 0], pairs[1::2] = 1, np.stack([cosine, np.sqrt(1 - cosine**2)], 1)
        metrics |= {f"{name}/{metric}": value for metric, value in transfer.measure(name, pairs).items()}
    return metrics, len(vectorizer.vocabulary_)


def frequent_tags(transfer: TransferSet) -> tuple[dict[str, float], int]:
    """Each word gets the tag that it has most often in training, wherever it stands; a word that is not there the most frequent of
    all. And how many words that takes. Words are told apart by their pieces: that is all that a model sees of them."""
    train = transfer.splits["train"]
    known: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for word, tag in zip(_words(train.tokens["full"]), train.labels.tolist(), strict=True):
        if word and tag >= 0:
            known[word][tag] += 1
    most = sum(known.values(), Counter[int]()).most_common(1)[0][0]
    best = {word: counts.most_common(1)[0][0] for word, counts in known.items()}
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        tags = [best.get(word, most) for word in _words(transfer.splits[name].tokens["full"])]
        scored = transfer.measure(name, np.eye(len(transfer.label_names), dtype=np.float32)[tags])
        metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
    return metrics, len(best)


def near_the_question(transfer: TransferSet, context: WorkerContext) -> tuple[dict[str, float], int]:
    """The run of rare words, none of them the question's, that has most of the question's words near it, the rare ones counting
    most. And of how many pieces it knows how rare they are. A piece is rare where fewer than one context of training in ten has
    it."""
    train = transfer.splits["train"].tokens["full"]
    counts: Counter[int] = Counter()
    num_rows = min(len(train), MOST_ROWS)
    for _, words in _windows(train.first(num_rows)):
        counts.update({piece for word in words for piece in word})
    rarity = defaultdict(
        lambda: math.log(num_rows), {piece: math.log(num_rows / count) for piece, count in counts.items()}
    )
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        context.heartbeat(0, 0)
        said = [_rare_run(*window, rarity) for window in _windows(transfer.splits[name].tokens["full"])]
        scored = transfer.measure(name, np.concatenate(said))
        metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
    return metrics, len(counts)


def _windows(tokens: Tokens) -> Iterator[tuple[set[int], list[tuple[int, ...]]]]:
    """The question's pieces and the context's words, of each row: what is before the first word is the row's first place."""
    assert tokens.places is not None
    words = _words(tokens)
    for count in np.diff(tokens.places.offsets):
        question, *context = itertools.islice(words, int(count))
        yield set(question), context


def _rare_run(question: set[int], words: list[tuple[int, ...]], rarity: Mapping[int, float]) -> np.ndarray:
    """(1 + W, 2) outputs that say where the run begins and where it ends."""
    shared = [sum(rarity[piece] for piece in word if piece in question) for word in words]
    reach = np.arange(1, 1 + NEAR_WORDS) / NEAR_WORDS
    near = np.convolve(shared, np.concatenate([reach, reach[-2::-1]]))[NEAR_WORDS - 1 :].tolist()
    best, run, total, found = 0.0, 0, 0.0, (0, 0)
    for place, word in enumerate(words, 1):
        rare = max((rarity[piece] for piece in word), default=0.0) > RARE and question.isdisjoint(word)
        run, total = (
            (run + 1, total + near[place - 1]) if rare and run < MOST_OF_RUN else (int(rare), rare * near[place - 1])
        )
        if run and total / run**0.5 > best:
            best, found = total / run**0.5, (place - run + 1, place)
    out = np.full((1 + len(words), 2), -1, np.float32)
    if best:
        out[found, (0, 1)] = best
    return out


def _words(tokens: Tokens) -> Iterator[tuple[int, ...]]:
    """The pieces of each word; none of a word without a place."""
    assert tokens.places is not None
    for row in range(len(tokens)):
        at = tokens.places.at[tokens.places.offsets[row] : tokens.places.offsets[row + 1]]
        ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()
        starts = [place for place in at.tolist() if place != NOWHERE]
        end_of = dict(zip(starts, [*starts[1:], len(ids) - 1], strict=True))  # the last piece is a special token
        yield from (tuple(ids[place : end_of[place]]) if place != NOWHERE else () for place in at.tolist())


def _linear(target: str, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    if target == "number":
        return Ridge(alpha=1 / strength)
    model = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    return model if target == "class" else OneVsRestClassifier(model)


def _outputs(model: Any, matrix: Any, num_labels: int, target: str) -> np.ndarray:
    """(N, C) as METRICS expects them."""
    if target == "number":
        return model.predict(matrix)[:, None]
    if target == "classes":
        return model.decision_function(matrix).reshape(-1, num_labels)
    outputs = np.full((matrix.shape[0], num_labels), -np.inf, np.float32)
    outputs[:, model.classes_] = model.predict_log_proba(matrix)
    return outputs


def _grams(tokens: Tokens, rows: np.ndarray) -> Iterator[list[str]]:
    for index in rows:
        row = tokens.ids[tokens.offsets[index] : tokens.offsets[index + 1]].tolist()
        second = int(tokens.second[index])
        left, right = [f"a{piece}" for piece in row[:second]], [f"b{piece}" for piece in row[second:]]
        pairs = [f"{x} {y}" for side in (left, right) for x, y in itertools.pairwise(side)]
        shared = set(row[1 : second - 1]) & set(row[second:-1])  # without the special tokens
        both = [f"both {piece}" for piece in shared] + ["shared"] * len(shared)
        yield left + right + pairs + both


def cut_teacher(
    folder: str, shape: StudentShape, transfer: TransferSet, vocabulary: str, context: WorkerContext
) -> dict[str, float] | None:
    """The teacher itself with only its vocabulary cut: no training. None where its layers cannot be copied."""
    teacher = load_teacher(folder)
    if not can_copy(teacher.config.model_type, teacher.state_dict()):
        return None
    entry = transfer.vocabularies[vocabulary]
    student = build_student(
        shape,
        label_names=transfer.label_names,
        problem_type=transfer.problem_type,
        pad_id=entry.pad_id,
        teacher_config=teacher.config,
        dropout=0.0,
        empty=True,
    )
    layers = [(layer,) for layer in range(shape.depth)]
    initialise(student, shape, unshared(teacher), teacher.config.model_type, layers, entry)
    return score(student, transfer, vocabulary, ("validation", "test"), context)  # as the teacher itself is scored
