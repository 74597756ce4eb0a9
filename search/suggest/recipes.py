"""Textbook students as first trials: what each paper settled, in shares of its teacher, which had 12 layers of width 768."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search.suggest.nearest import Wish, nearest
from spaces.architecture import FULL
from spaces.parameters import Value
from spaces.space import SearchSpace
from spaces.student import TeacherShape

# Of twelve layers in six: 0, 2, 4, 7, 9, 11 as DistilBERT took them, or 0, 2, 4, 6, 8, 10.
EVENLY = ("even-with-last", "even")


@dataclass(frozen=True)
class Recipe:
    """One paper's student. `wish` says it for a teacher; what the paper leaves open, such as the learning rate on this task or
    which pieces of the vocabulary are kept, it does not name. Without the `family` it is another student, and no recipe."""

    name: str
    wish: Callable[[TeacherShape], Wish]
    family: str = ""


def wishes_for(teacher: TeacherShape, space: SearchSpace) -> list[Wish]:
    """What the recipes wish for, of those that the space's families allow."""
    return [recipe.wish(teacher) for recipe in _possible(space)]


def recipes_of(
    point: Mapping[str, Value], teacher: TeacherShape, space: SearchSpace, vocabularies: Mapping[str, int]
) -> list[str]:
    """The names of the recipes that come to this very point in this space: several, where it is too coarse to tell them apart."""
    return [one.name for one in _possible(space) if nearest(one.wish(teacher), space, teacher, vocabularies) == point]


def _possible(space: SearchSpace) -> list[Recipe]:
    families = space.parameter("family")
    return [recipe for recipe in RECIPES if not recipe.family or families.contains(recipe.family)]


def _layers(teacher: TeacherShape, of_twelve: int) -> int:
    return max(1, round(teacher.depth * of_twelve / 12))


def _share(part: int, whole: int) -> str:
    return FULL if part == whole else f"{100 * part / whole:g}%"


def _distilbert(teacher: TeacherShape) -> Wish:
    """Half the layers, full width. The losses' weights are the released code's: 5 to the soft targets, 2 to the labels (there
    masked words), 1 to the cosine of the last hidden states."""
    return {
        "family": ("distilbert", "bert"),
        "depth": _layers(teacher, 6),
        "layers": EVENLY,
        "hidden_size": FULL,
        "num_heads": FULL,
        "intermediate_size": FULL,
        "embedding_size": FULL,
        "temperature": 2.0,
        "soft_share": 5 / 7,
        "hidden_share": 1 / 8,
        "hidden_loss": "cosine",
        "hidden_layers": "last",
    }


def _tinybert(of_twelve: int, of_768: int, of_3072: int) -> Callable[[TeacherShape], Wish]:
    """Layers of the teacher evenly spread are each held against one of the student's; soft targets alone at temperature 1. The two
    losses follow each other in the paper, with equal weights; here they are trained together. Its attention loss is left out, and
    its heads, as many as the teacher's and so narrower, are left open: here a student starts from whole ones."""
    return lambda teacher: {
        "family": "bert",
        "depth": _layers(teacher, of_twelve),
        "layers": EVENLY,
        "hidden_size": _share(of_768, 768),
        "intermediate_size": _share(of_3072, 3072),
        "embedding_size": FULL,
        "temperature": 1.0,
        "soft_share": 1.0,
        "hidden_share": 0.5,
        "hidden_loss": "mse",
        "hidden_layers": "even",
    }


def _albert(teacher: TeacherShape) -> Wish:
    """All layers are one, and embeddings have rank 128 of 768. It was not distilled, so that the losses are left open."""
    return {
        "family": "albert",
        "depth": teacher.depth,
        "hidden_size": FULL,
        "num_heads": FULL,
        "intermediate_size": FULL,
        "embedding_size": max(1, round((teacher.embedding_size or teacher.hidden_size) * 128 / 768)),
        "num_hidden_groups": 1,
    }


def _compact(of_twelve: int, of_768: int) -> Callable[[TeacherShape], Wish]:
    """Depth and width shrink together, heads stay as wide as they are; soft targets alone. They were pre-trained, not cut out of
    their teacher, so that which layers are copied is left open."""
    return lambda teacher: {
        "family": "bert",
        "depth": _layers(teacher, of_twelve),
        "hidden_size": _share(of_768, 768),
        "intermediate_size": _share(of_768, 768),
        "num_heads": FULL,
        "embedding_size": FULL,
        "soft_share": 1.0,
    }


RECIPES = (
    Recipe("DistilBERT", _distilbert),  # arXiv:1910.01108
    Recipe("TinyBERT 6-768", _tinybert(6, 768, 3072)),  # arXiv:1909.10351
    Recipe("TinyBERT 4-312", _tinybert(4, 312, 1200)),
    Recipe("ALBERT", _albert, family="albert"),  # arXiv:1909.11942
    Recipe("BERT-Tiny", _compact(2, 128)),  # the compact sizes of arXiv:1908.08962
    Recipe("BERT-Mini", _compact(4, 256)),
    Recipe("BERT-Small", _compact(4, 512)),
    Recipe("BERT-Medium", _compact(8, 512)),
)
