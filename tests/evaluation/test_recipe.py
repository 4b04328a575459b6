"""Recipes: what they resolve to, that a resolved one is a recipe again, and that no mistake passes in silence."""

from __future__ import annotations

from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.evaluation.methods import PRESETS
from asyncthink.evaluation.recipe import MOST, ArmSettings, Recipe, resolve
from asyncthink.runtime.budget import Limits
from asyncthink.settings import dump, find_recipe, parse

TEXTS = st.text(max_size=15)
COUNTS = st.integers(1, 10**12)
RATES = st.one_of(st.floats(0.001, 100), st.integers(1, 100))
SHARED: dict[str, st.SearchStrategy[Any]] = {
    "model": TEXTS,
    "base_url": TEXTS,
    "api": TEXTS,
    "tokenizer": TEXTS,
    "continuation": TEXTS,
    "max_concurrency": COUNTS,
    "capacity": COUNTS,
    "temperature": RATES,
    "top_p": RATES,
    "max_tokens": COUNTS,
    "max_critical_path": COUNTS,
    "max_organizer_tokens": COUNTS,
    "max_worker_tokens": COUNTS,
    "max_forks": st.integers(0, 99),
    "deadline": RATES,
    "max_cost": RATES,
    "prices": TEXTS,
    "prompts": TEXTS,
    "reminders": st.booleans(),
}
SWEPT = {
    key: st.lists(value, min_size=1, max_size=3, unique=True)
    for key, value in SHARED.items()
    if key not in ("base_url", "tokenizer", "prices", "prompts")  # no sweep, and files that are spelled out
}
ARMS = st.dictionaries(
    TEXTS,
    st.fixed_dictionaries({"method": st.sampled_from(sorted(PRESETS))}, optional=SHARED),
    min_size=1,
    max_size=4,
)
OWN: dict[str, st.SearchStrategy[Any]] = {
    "split": st.sampled_from(["train", "dev", "test"]),
    "seed": st.integers(-(2**70), 2**70),
    "limit": st.integers(1, MOST),
    "problems": TEXTS,
    "samples": st.integers(1, MOST),
    "at_once": st.integers(1, MOST),
}


def again(recipe: Recipe) -> Recipe:
    return resolve(parse(dump(recipe.plain()), "config.toml"), "config.toml")


def one(**settings: Any) -> Recipe:
    return resolve({"task": "countdown", "methods": {"asyncthink": {}}, **settings}, "mine.toml")


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({"task": TEXTS, "methods": ARMS}, optional={**SHARED, **OWN}))
@example({"task": "x", "methods": {'a"b\\c\n\x7f.[é]': {"method": "parallel"}, "": {"method": "sequential"}}})
@example({"task": '\x7f\0\'"""', "methods": {"asyncthink": {"temperature": 1, "deadline": 2}}})
def test_a_resolved_recipe_that_is_written_and_read_is_the_same(raw: dict[str, Any]) -> None:
    recipe = resolve(raw, "mine.toml")
    assert again(recipe) == recipe
    assert dump(again(recipe).plain()) == dump(recipe.plain())


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(sorted(SWEPT)), min_size=1, max_size=3), st.data())
def test_a_sweep_is_the_product_of_its_lists(keys: set[str], data: st.DataObject) -> None:
    swept = {key: data.draw(SWEPT[key], key) for key in sorted(keys)}
    recipe = one(methods={"a": {"method": "asyncthink", **swept}})
    chosen = [tuple(getattr(arm, key) for key in swept) for arm in recipe.methods.values()]
    files = {"tokenizer", "prices", "prompts"}
    spelled = [
        [str(Path(one).absolute()) if key in files else one for one in values]
        for key, values in swept.items()
    ]
    assert chosen == list(product(*spelled)), "each combination once, the last list fastest"
    assert len(set(recipe.methods)) == len(chosen)
    assert again(recipe) == recipe


def test_folders_of_a_pair_are_spelled_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    (arm,) = one(methods={"asyncthink": {"model": "pair:hf:here,embedded"}}).methods.values()
    assert arm.model == f"pair:hf:{tmp_path / 'here'},embedded"


def test_sweeps_by_hand() -> None:
    recipe = one(
        temperature=[0.5, 1.0],
        capacity=[2, 8],
        methods={"asyncthink": {}, "one at a time": {"method": "fork-join-pairs", "capacity": 3}},
    )
    assert [(name, arm.method, arm.temperature, arm.capacity) for name, arm in recipe.methods.items()] == [
        ("asyncthink temperature=0.5 capacity=2", "asyncthink", 0.5, 2),
        ("asyncthink temperature=0.5 capacity=8", "asyncthink", 0.5, 8),
        ("asyncthink temperature=1.0 capacity=2", "asyncthink", 1.0, 2),
        ("asyncthink temperature=1.0 capacity=8", "asyncthink", 1.0, 8),
        ("one at a time temperature=0.5", "fork-join-pairs", 0.5, 3),
        ("one at a time temperature=1.0", "fork-join-pairs", 1.0, 3),
    ]


def test_settings_at_the_top_hold_for_every_arm_that_says_nothing_else() -> None:
    recipe = one(
        max_critical_path=600,
        model="hf:there",
        samples=4,
        methods={"asyncthink": {}, "short": {"method": "sequential", "max_critical_path": 90, "top_p": 0.9}},
    )
    assert recipe.methods == {
        "asyncthink": ArmSettings(method="asyncthink", max_critical_path=600, model="hf:there"),
        "short": ArmSettings(method="sequential", max_critical_path=90, model="hf:there", top_p=0.9),
    }
    assert (recipe.samples, recipe.split, recipe.limit, recipe.at_once) == (4, "dev", None, None)
    assert recipe.methods["short"].limits() == Limits(max_critical_path=90)


def test_files_are_spelled_from_the_root_so_that_a_run_goes_on_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.json").touch()
    arm = {"prices": ["p.toml", "/q.toml"], "model": "scripted:script.json"}
    recipe = one(problems="sub/mine.jsonl", prompts="words.toml", methods={"asyncthink": arm})
    assert recipe.problems == str(tmp_path / "sub/mine.jsonl")
    found = {(each.prompts, each.prices, each.model) for each in recipe.methods.values()}
    here = str(tmp_path)
    assert found == {
        (f"{here}/words.toml", f"{here}/p.toml", f"scripted:{here}/script.json"),
        (f"{here}/words.toml", "/q.toml", f"scripted:{here}/script.json"),
    }
    named = one(problems="hf:owner/data", model="hf:owner/model")
    assert (named.problems, named.methods["asyncthink"].model) == ("hf:owner/data", "hf:owner/model")
    for model in ("scripted:", "hf:", "hf:" + "x" * 5000, "hf:a\0b"):
        assert one(model=model, problems="").methods["asyncthink"].model == model
    assert one(problems="").problems == "", "no file is not the folder one is in"


def test_an_arm_is_what_it_is_called_unless_it_says_so() -> None:
    recipe = one(methods={name: {} for name in PRESETS})
    assert [arm.method for arm in recipe.methods.values()] == list(PRESETS)
    assert one(methods={"parallel": {"method": "sequential"}}).methods["parallel"].method == "sequential"
    assert one(methods={"parallel": {"method": ""}}).methods["parallel"].method == "parallel"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"sample": 4}, "unknown recipe key 'sample': did you mean 'samples'?"),
        ({"metods": {}}, "unknown recipe key 'metods': did you mean 'methods'?"),
        ({"max_critical": 5}, "unknown recipe key 'max_critical': did you mean 'max_critical_path'?"),
        (
            {"methods": {"asyncthink": {"temprature": 1}}},
            "unknown recipe key 'methods.asyncthink.temprature': did you mean 'methods.asyncthink.temperature'?",
        ),
        (
            {"methods": {"asyncthink": {"samples": 4}}},
            "unknown recipe key 'methods.asyncthink.samples'",
        ),
        ({"methods": {"asynchthink": {}}}, "unknown method 'asynchthink': did you mean 'asyncthink'?"),
        (
            {"methods": {"mine": {"method": "sequentil"}}},
            "unknown method 'sequentil': did you mean 'sequential'?",
        ),
        ({"split": "tests"}, "unknown split 'tests': did you mean 'test'?"),
    ],
)
def test_an_unknown_name_offers_the_nearest(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        one(**raw)
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_an_arm_with_a_name_of_its_own_is_told_what_it_needs() -> None:
    with pytest.raises(UsageError, match=r'an arm with a name of its own needs method = "\.\.\."$'):
        one(methods={"asyncthink": {}, "mine": {"temperature": 0.5}})
    with pytest.raises(UnknownNameError) as caught:
        one(methods={"mine": {"method": "yours"}})
    assert "name of its own" not in str(caught.value)


def arm(**settings: Any) -> dict[str, Any]:
    return {"methods": {"parallel": {}, "asyncthink": settings}}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"methods": {}}, "there is no method"),
        ({"methods": ["asyncthink"]}, "methods are tables, as in [methods.sequential]"),
        ({"methods": "asyncthink"}, "methods are tables"),
        ({"methods": {"asyncthink": 1}}, "methods.asyncthink is a table, as in [methods.asyncthink]"),
        ({"task": 3}, "mine.toml: Expected `str`, got `int` - at `$.task`"),
        ({"samples": 0}, "samples must be at least 1 and at most 100000, not 0"),
        ({"samples": -1}, "samples must be at least 1 and at most 100000, not -1"),
        ({"samples": 2.0}, "`$.samples`"),
        ({"samples": True}, "`$.samples`"),
        ({"samples": [1, 2]}, "`$.samples`"),
        ({"limit": 0}, "limit must be at least 1 and at most 100000, not 0"),
        ({"at_once": 0}, "at_once must be at least 1 and at most 100000, not 0"),
        ({"samples": 100_001}, "samples must be at least 1 and at most 100000, not 100001"),
        ({"limit": 10**30}, f"limit must be at least 1 and at most 100000, not {10**30}"),
        ({"seed": "x"}, "`$.seed`"),
        ({"problems": 3}, "`$.problems`"),
        (arm(model=3), "methods.asyncthink: Expected `str`, got `int` - at `$.model`"),
        (
            arm(temperature="hot"),
            "methods.asyncthink: Expected `float | null`, got `str` - at `$.temperature`",
        ),
        (arm(temperature=True), "`$.temperature`"),
        (arm(reminders=1), "`$.reminders`"),
        (arm(base_url=["http://a", "http://b"]), "`$.base_url`"),
        (arm(max_tokens=0), "methods.asyncthink: max_tokens must be above 0, not 0"),
        (arm(max_tokens=[64, -1]), "methods.asyncthink max_tokens=-1: max_tokens must be above 0, not -1"),
        (arm(max_forks=-1), "methods.asyncthink: max_forks must be above 0, not -1"),
        (arm(deadline=float("inf")), "methods.asyncthink: deadline must be above 0, not inf"),
        (arm(deadline=float("nan")), "methods.asyncthink: deadline must be above 0, not nan"),
        (arm(max_cost=0), "methods.asyncthink: max_cost must be above 0, not 0"),
        (arm(max_tokens=[]), "methods.asyncthink.max_tokens is a sweep: a list of different values"),
        (arm(max_tokens=[5, 5]), "methods.asyncthink.max_tokens is a sweep: a list of different values"),
        (arm(temperature=[1, 1.0]), "methods.asyncthink.temperature is a sweep: a list of different values"),
        ({"capacity": [2, 2]}, "capacity is a sweep: a list of different values"),
        (arm(capacity=[[2], 3]), "`$.capacity`"),
        (
            {"samples": 3, **arm(temperature=0)},
            "methods.asyncthink: at temperature 0 all 3 samples are the same text",
        ),
        (
            {"samples": 2, "temperature": [0.5, 0.0]},
            "methods.asyncthink temperature=0.0: at temperature 0 all 2",
        ),
    ],
)
def test_every_bad_value_is_told_in_one_line(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        one(**raw)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_without_a_task_is_told() -> None:
    with pytest.raises(UsageError, match=r"mine\.toml: there is no task"):
        resolve({"methods": {"asyncthink": {}}}, "mine.toml")


def test_two_arms_of_one_name_are_told_and_not_merged() -> None:
    methods = {
        "asyncthink temperature=0.5": {"method": "asyncthink", "temperature": 0.7},
        "asyncthink": {"temperature": [0.5, 1.0]},
    }
    with pytest.raises(UsageError, match=r"two arms are called 'asyncthink temperature=0\.5'"):
        one(methods=methods)
    with pytest.raises(UsageError, match=r"two arms are called 'asyncthink model=1'"):
        one(methods={"asyncthink": {"model": ["1", 1]}})


def test_one_sample_may_be_greedy() -> None:
    assert one(temperature=0).methods["asyncthink"].temperature == 0


def packaged() -> list[str]:
    found = [entry.name for entry in (resources.files("asyncthink") / "recipes").iterdir()]
    return sorted(name for name in found if name.endswith(".toml") and "[methods" in find_recipe(name))


def test_the_packaged_recipes_can_be_resolved_and_written() -> None:
    assert {"learned-capacity.toml", "countdown.toml", "probes.toml"} <= set(packaged())
    for name in packaged():
        recipe = resolve(parse(find_recipe(f"recipes/{name}"), name), name)
        assert again(recipe) == recipe
        assert all(arm.method in PRESETS for arm in recipe.methods.values())
    arms = resolve(parse(find_recipe("learned-capacity.toml"), "x"), "x").methods
    assert {arm.capacity for arm in arms.values()} == {2, 4, 8, 16, 32} and len(arms) == 20
