"""What a study begins with: textbook students, said in the space's own words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from small_search import TEACHER, VOCABULARIES, a_sampling, a_spec

from search.suggest.first import adapted, first_points
from search.suggest.nearest import nearest
from search.suggest.recipes import RECIPES
from search.suggest.sampling import Sampling
from spaces.space import SearchSpace, parse_space
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.yaml_io import load_study, parse_study, preset_names

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

BERT = tiny.teacher_shape(
    depth=12, hidden_size=768, num_heads=12, intermediate_size=3072, vocabulary_size=30522, max_positions=512,
    num_parameters=109_483_778,
)  # fmt: skip
PIECES = {"full": 30522, "used": 12000}
WHOLE = {  # holds every recipe as its paper has it
    "family": ["bert", "albert", "distilbert"],
    "depth": [2, 4, 6, 8, 12],
    "hidden_size": [128, 256, 312, 512, "full"],
    "num_heads": ["full", 12],
    "intermediate_size": [512, 1024, 1200, 2048, "full"],
    "embedding_size": [128, "full"],
    "num_hidden_groups": {"int": [1, 12], "when": {"family": "albert"}},
    "layers": ["first", "even-with-last"],
    "temperature": {"float": [1, 8], "log": True},
    "soft_share": {"float": [0, 1]},
    "hidden_share": {"float": [0, 0.5]},
    "hidden_loss": ["cosine", "mse"],
    "hidden_layers": ["last", "even"],
    "learning_rate": {"float": [1e-5, 1e-3], "log": True},
}


def space_of(raw: dict[str, Any]) -> SearchSpace:
    space, faults = parse_space(raw)
    assert not faults
    return space


def a_study(space: dict[str, Any], **changes: Any) -> StudySpec:
    raw = {"name": "a", "data": {"builtin": "docstrings"}, "teacher": "x/y", "space": space, **changes}
    return parse_study(raw, "study.yaml", Path("/nowhere"))


def shapes_of(spec: StudySpec, limits: dict[str, tuple[float, float]] | None = None) -> list[StudentShape]:
    first = first_points(spec, BERT, PIECES, limits or {})
    sampling = Sampling(spec, BERT, PIECES, limits or {}, first=first)
    shapes = []
    for number, point in enumerate(first):
        values, shape = sampling.suggest([], number)  # type: ignore[misc]
        assert point.items() <= values.items()
        shapes.append(shape)
    return shapes


# the published sizes


def test_the_recipes_are_the_published_models() -> None:
    """Parameters as the papers' released models have them, without the head on top: this project's head is left out."""
    published = {
        "DistilBERT": 66_362_880,
        "TinyBERT 6-768": 66_955_008,
        "TinyBERT 4-312": 14_350_248,
        "ALBERT": 11_683_584 + 522 * 128,  # whose own vocabulary has 30,000 pieces
        "BERT-Tiny": 4_385_920,
        "BERT-Mini": 11_170_560,
        "BERT-Small": 28_763_648,
        "BERT-Medium": 41_373_184,
    }
    assert [recipe.name for recipe in RECIPES] == list(published)

    def encoder(shape: StudentShape) -> int:
        width = shape.hidden_size
        before = width * (width + 1) if shape.family == "distilbert" else 0  # its layer before the classifier
        return shape.num_parameters - before - shape.num_labels * (width + 1)

    assert sorted(map(encoder, shapes_of(a_study(WHOLE)))) == sorted(published.values())


def test_the_largest_then_the_smallest_then_what_lies_farthest() -> None:
    """In log size of 4.4, 11.2, 11.8, 14.4, 28.8, 41.4, 66.955 and 66.957 million."""
    millions = [round(shape.num_parameters / 1e6, 1) for shape in shapes_of(a_study(WHOLE))]
    assert millions == [67.0, 4.4, 14.4, 28.8, 41.4, 11.2, 11.8, 67.0]


def test_distilbert_as_its_paper_has_it() -> None:
    first = first_points(a_study(WHOLE), BERT, PIECES, {})
    (point,) = [point for point in first if point["family"] == "distilbert"]
    assert point == {
        "family": "distilbert", "depth": 6, "layers": "even-with-last", "hidden_size": "full", "num_heads": "full",
        "intermediate_size": "full", "embedding_size": "full", "temperature": 2.0, "soft_share": 5 / 7,
        "hidden_share": 1 / 8, "hidden_loss": "cosine", "hidden_layers": "last",
    }  # fmt: skip


def test_recipes_are_scaled_to_the_teacher() -> None:
    """Of six layers, width 384: a third are two, 312 of 768 are 156, and ALBERT's rank is 64."""
    small = BERT.model_copy(update={"depth": 6, "hidden_size": 384, "intermediate_size": 1536})
    space = space_of({**WHOLE, "depth": {"int": [1, 6]}, "hidden_size": {"int": [32, 384], "step": 4},
                      "intermediate_size": {"int": [128, 1536], "step": 8}, "embedding_size": {"int": [32, 384]}})  # fmt: skip
    wishes = {recipe.name: nearest(recipe.wish(small), space, small, PIECES) for recipe in RECIPES}
    sizes = {
        name: tuple(point.get(part) for part in ("depth", "hidden_size", "intermediate_size", "embedding_size"))
        for name, point in wishes.items()
    }
    assert sizes == {
        "DistilBERT": (3, 384, 1536, 384),
        "TinyBERT 6-768": (3, 384, 1536, 384),
        "TinyBERT 4-312": (2, 156, 600, 384),
        "ALBERT": (6, 384, 1536, 64),
        "BERT-Tiny": (1, 64, 256, 384),
        "BERT-Mini": (2, 128, 512, 384),
        "BERT-Small": (2, 256, 1024, 384),
        "BERT-Medium": (4, 256, 1024, 384),
    }


# what the space lacks


@pytest.mark.parametrize(
    ("parameter", "wish", "expected"),
    [
        ({"depth": [2, 6]}, {"depth": 4}, {"depth": 6}),  # log: 4 is nearer to 6 (x1.5) than to 2 (x2)
        ({"depth": {"int": [1, 9], "step": 4}}, {"depth": 7}, {"depth": 9}),
        ({"depth": {"int": [1, 3]}}, {"depth": 6}, {"depth": 3}),
        ({"hidden_size": ["50%", "75%"]}, {"hidden_size": "40.625%"}, {"hidden_size": "50%"}),
        ({"hidden_size": [256, 640]}, {"hidden_size": "full"}, {"hidden_size": 640}),
        ({"intermediate_size": [768, "50%"]}, {"intermediate_size": 2000}, {"intermediate_size": "50%"}),
        ({"embedding_size": [64, "full"]}, {"embedding_size": 128}, {"embedding_size": 64}),
        ({"vocabulary": [8000, "used"]}, {"vocabulary": "full"}, {"vocabulary": "used"}),
        ({"vocabulary": ["full", "used"]}, {"vocabulary": 8000}, {"vocabulary": "used"}),
        ({"temperature": {"float": [2, 8]}}, {"temperature": 1.0}, {"temperature": 2.0}),
        ({"hidden_share": [0.0, 0.3]}, {"hidden_share": 0.125}, {"hidden_share": 0.0}),  # 0 has no log
        ({"batch_size": [16, 64]}, {"batch_size": 33}, {"batch_size": 64}),
        ({"family": ["bert", "albert"]}, {"family": ("distilbert", "bert")}, {"family": "bert"}),
        ({"family": ["albert", "distilbert"]}, {"family": "bert"}, {}),  # a word has no nearest
        ({"layers": ["first", "last"]}, {"layers": ("even-with-last", "even")}, {}),
        ({"depth": 3}, {"depth": 6, "temperature": 4.0}, {}),  # what is fixed does not appear
    ],
)
def test_the_nearest_value(parameter: dict[str, Any], wish: dict[str, Any], expected: dict[str, Any]) -> None:
    found = nearest(wish, space_of(parameter), BERT, PIECES)
    assert found == expected
    assert list(map(type, found.values())) == list(map(type, expected.values()))


def test_what_is_not_active_or_depends_on_what_is_open_is_left_out() -> None:
    raw = {"family": ["bert", "albert"], "num_hidden_groups": {"int": [1, 3], "when": {"family": "albert"}}}
    wish = {"num_hidden_groups": 2}
    assert nearest({**wish, "family": "albert"}, space_of(raw), BERT, PIECES) == {"family": "albert", **wish}
    assert nearest({**wish, "family": "bert"}, space_of(raw), BERT, PIECES) == {"family": "bert"}
    assert nearest({**wish, "family": "distilbert"}, space_of(raw), BERT, PIECES) == {}
    assert nearest(wish, space_of({**raw, "family": "albert"}), BERT, PIECES) == wish


@settings(max_examples=25)
@given(number=st.integers(0, 500))
def test_a_point_of_the_space_is_its_own_nearest(number: int) -> None:
    spec = a_spec()
    values, _ = a_sampling(spec).suggest([], number)  # type: ignore[misc]
    fixed = {"layers", "hidden_size", "num_heads", "intermediate_size", "group_start", "head", "soft_share", "batch_size",
             "hidden_share", "hidden_loss", "hidden_layers", "warmup_share", "weight_decay", "dropout"}  # fmt: skip
    searched = {name: value for name, value in values.items() if name not in fixed}
    assert nearest(values, spec.space, TEACHER, VOCABULARIES) == searched
    assert adapted([values, values], spec.space, TEACHER, VOCABULARIES, {}, spec.deployment) == [searched]


def test_recipes_that_come_out_the_same_are_given_once_and_invalid_ones_not() -> None:
    space = {"depth": {"int": [1, 2]}, "hidden_size": [300, "full"]}  # 300 is no multiple of a head's 64
    points = first_points(a_study(space), BERT, PIECES, {})
    assert points == ({"depth": 2, "hidden_size": "full"},)
    assert len(first_points(a_study({**space, "num_heads": ["full", 12]}), BERT, PIECES, {})) > 1


def test_recipes_keep_the_bounds() -> None:
    shapes = shapes_of(a_study(WHOLE), {"parameters": (5e6, 20e6)})
    assert sorted(round(shape.num_parameters / 1e6, 1) for shape in shapes) == [11.2, 11.8, 14.4]


def test_an_albert_that_shares_nothing_is_no_recipe() -> None:
    others = {name: raw for name, raw in WHOLE.items() if name != "num_hidden_groups"}
    points = first_points(a_study({**others, "family": ["bert", "distilbert"]}), BERT, PIECES, {})
    assert len(points) == 7
    assert all(point.get("embedding_size") == "full" for point in points)


# when they come, and where


def test_recipes_come_where_nothing_else_says_how_to_begin() -> None:
    given_points = [{"family": "bert", "depth": 1}]

    def number(**search: Any) -> int:
        return len(first_points(a_spec(search=search), TEACHER, VOCABULARIES, {}))

    plenty = number()
    assert plenty > 3
    assert number(first=given_points) == 1
    assert number(sampler="random") == 0
    assert number(recipes=False) == 0
    assert number(**{"from": "/nowhere/else"}) == 0
    assert number(recipes=True, first=given_points) == plenty + 1
    assert number(recipes=True, sampler="random") == number(recipes=True, **{"from": "/nowhere/else"}) == plenty
    assert number(startup_trials=2) == 2  # whose place they take
    one_point = a_study({"family": "bert", "depth": 1}, search={"recipes": True})
    assert first_points(one_point, BERT, PIECES, {}) == ()


def test_the_studys_own_come_first_and_what_was_best_elsewhere_second() -> None:
    own, best = (
        {"family": "bert", "depth": 1},
        {"family": "albert", "depth": 9, "num_hidden_groups": 2, "hidden_size": "50%"},
    )
    spec = a_spec(search={"first": [own], "recipes": True})
    points = first_points(spec, TEACHER, VOCABULARIES, {}, [best, own])
    assert points[0] == own
    assert points[1] == {"family": "albert", "depth": 4, "num_hidden_groups": 2}
    assert points[2:]
    assert own not in points[1:]
    assert points == first_points(spec, TEACHER, VOCABULARIES, {}, [best, own])


def test_a_study_tries_them_by_number_and_samples_what_they_leave_open() -> None:
    spec = a_spec()
    first = first_points(spec, TEACHER, VOCABULARIES, {})
    sampling = Sampling(spec, TEACHER, VOCABULARIES, {}, first=first)
    assert sampling.num_first == len(first)
    rates = set()
    for number, point in enumerate(first):
        values, shape = sampling.suggest([], number)  # type: ignore[misc]
        assert point.items() <= values.items()
        assert shape in sampling.open_to(number)
        rates.add(values["learning_rate"])
    assert len(rates) == len(first)
    assert sampling.suggest([], len(first)) == a_sampling(spec).suggest([], len(first))


@pytest.mark.parametrize("name", preset_names("studies"))
def test_the_shipped_studies_begin_with_their_own(name: str) -> None:
    spec = load_study(name)
    vocabularies = {**PIECES, **{each: int(each) for each in spec.space.vocabularies if each.isdigit()}}
    mini = {"depth": 6, "hidden_size": 384, "intermediate_size": 1536}
    teacher = BERT if "bert-base" in spec.teacher.model else BERT.model_copy(update=mini)
    assert first_points(spec, teacher, vocabularies, {}) == spec.search.first
    asked = spec.model_copy(update={"search": spec.search.model_copy(update={"recipes": True})})
    more = first_points(asked, teacher, vocabularies, {})[len(spec.search.first) :]
    assert len(more) >= 3
    sampling = Sampling(asked, teacher, vocabularies, {}, first=(*spec.search.first, *more))
    sizes = [sampling.open_to(number)[0].num_parameters for number in range(len(spec.search.first), sampling.num_first)]
    assert max(sizes) / min(sizes) > math.sqrt(2)


def test_a_trial_says_which_recipe_it_began_with() -> None:
    """And only one that was begun with it: a sampled student like it is the search's own find."""
    spec = a_study(WHOLE)
    first = first_points(spec, BERT, PIECES, {})
    sampling = Sampling(spec, BERT, PIECES, {}, first=first)
    names = [sampling.recipe_of(number, sampling.suggest([], number)[0]) for number in range(len(first) + 1)]  # type: ignore[index]
    assert names[-1] == ""
    assert sorted(names[:-1]) == sorted(recipe.name for recipe in RECIPES)
    values = sampling.suggest([], names.index("DistilBERT"))[0]  # type: ignore[index]
    assert (values["depth"], values["hidden_size"], values["temperature"]) == (6, "full", 2.0)
    assert (
        sampling.recipe_of(names.index("DistilBERT"), {**values, "depth": 3}) == ""
    )  # what was given was not to be had
    own = a_study(WHOLE, search={"first": [first[0]], "recipes": False})
    assert Sampling(own, BERT, PIECES, {}).recipe_of(0, {**values, **first[0]}) == ""  # its own, whatever the books say
