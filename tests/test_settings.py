"""Settings: whatever is written is read back, and what cannot be read is told in one line."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.settings import changed, check_keys, convert, dump, find_recipe, parse

TEXTS = st.text(max_size=20)
"""Any Unicode text but half surrogate pairs: quotes, line ends and control characters are among it."""
PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False),
    TEXTS,
    st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), TEXTS), max_size=4),
)
TABLES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(TEXTS, PLAIN, max_size=4),
    lambda inner: st.dictionaries(
        TEXTS, st.one_of(PLAIN, inner, st.lists(inner, min_size=1, max_size=3)), max_size=4
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(TABLES)
@example({"del": "\x7f", "\x7f": {"\x7f\x7f": {}}})
@example({"text": 'a"b\\c\n\r\n\t\b\f\0\x1f\x85\u2028\ufeff\U0001f600', "": "", "a.b": {"c d": {"'": '"""'}}})
@example({"low": -(2**70), "tiny": 5e-324, "huge": 1.7976931348623157e308, "round": 1e22, "minus": -0.0})
@example({"inf": math.inf, "minus": -math.inf, "list": [math.inf, 1.0, [], [True, ["x"]]]})
@example({"outer": {"inner": {}}, "z": 1, "empty": {}})
@example({"a": [{}, {"x": 1, "b": [{"y": 2}, {}]}, {"c": {"z": 3}}], "b": {"c": [{"d": 4}]}, "e": []})
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    text = dump(values)
    back = tomllib.loads(text)
    assert back == values
    assert repr(back) == repr(reordered(values)), "types and the order of keys too"
    assert parse(dump(back), "again") == values
    assert text.encode().decode() == text


def reordered(values: dict[str, Any]) -> dict[str, Any]:
    """Plain values first, as they are written; of equal kind, in their order."""
    plain = {key: value for key, value in values.items() if not tables_of(value)}
    ordered = {
        key: list(map(reordered, tables_of(value))) for key, value in values.items() if key not in plain
    }
    return {
        **plain,
        **{key: made if isinstance(values[key], list) else made[0] for key, made in ordered.items()},
    }


def tables_of(value: Any) -> list[dict[str, Any]]:
    """Return a table, or those of a list that holds nothing else."""
    listed = cast("list[Any]", value if isinstance(value, list) else [value])
    return listed if all(isinstance(each, dict) for each in listed) else []


def test_a_number_that_is_none_is_written_too() -> None:
    assert math.isnan(tomllib.loads(dump({"x": math.nan}))["x"])


def test_what_is_written_by_hand() -> None:
    values = {
        "table": {"key": 1, "under_neath": {"ä": False}},
        "name": 'say "hi"',
        "nothing": None,
        "list": (1, 2.5, "x"),
        "rate": 0.5,
    }
    assert dump(values) == (
        'name = "say \\"hi\\""\n'
        'list = [1, 2.5, "x"]\n'
        "rate = 0.5\n"
        "\n[table]\nkey = 1\n"
        '\n[table.under_neath]\n"ä" = false\n'
    )


def test_several_tables_of_one_name_are_written_one_after_another() -> None:
    values = {"data": [{"share": 1, "capacities": {"4": 1.0}}, {"share": 2, "none": None}], "seed": 3}
    assert dump(values) == (
        "seed = 3\n\n[[data]]\nshare = 1\n\n[data.capacities]\n4 = 1.0\n\n[[data]]\nshare = 2\n"
    )


def test_none_is_left_out_at_every_depth() -> None:
    assert parse(dump({"a": None, "b": {"c": None, "d": {"e": None, "f": 0}}}), "x") == {"b": {"d": {"f": 0}}}


@pytest.mark.parametrize("values", [{"path": "\udcff.toml"}, {"\ud800": 1}, {"a": {"b": ["\udfff"]}}])
def test_text_that_no_file_can_hold_is_told(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="not UTF-8") as caught:
        dump(values)
    str(caught.value).encode()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
@example("[" * 100_000)
@example("x = " + "[" * 5000)
@example("x = " + "9" * 5000)
@example("x = 2026-13-45")
@example("a = 1\na = 2")
@example("a.b = 1\n[a]\n")
@example("x = '\x7f'")
@example("\ufeffx = 1")
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse(text, "mine.toml")
    except UsageError as error:
        assert str(error).startswith("mine.toml is no TOML: ")
        assert "\n" not in str(error)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    many: dict[str, Inner] = field(default_factory=dict[str, Inner])
    listed: list[Inner] = field(default_factory=list[Inner])
    at_least_one: Annotated[list[Inner], msgspec.Meta(min_length=1)] = field(
        default_factory=lambda: [Inner()]
    )
    source: str = ""


def test_sections_become_values() -> None:
    raw = parse('steps = 3\n[inner]\nrate = 1\n[maybe]\nlabel = "x"\n[many."a b"]\nrate = 2.5\n', "x")
    assert convert(raw, Outer, "x") == Outer(
        steps=3, inner=Inner(rate=1.0), maybe=Inner(label="x"), many={"a b": Inner(rate=2.5)}
    )


def test_lists_of_sections_become_values() -> None:
    raw = parse('steps = 3\n[[listed]]\nrate = 1\n[[listed]]\nlabel = "x"\n[[at_least_one]]\nrate = 2', "x")
    made = convert(raw, Outer, "x")
    assert made.listed == [Inner(rate=1.0), Inner(label="x")] and made.at_least_one == [Inner(rate=2.0)]
    assert convert({"steps": 3, "listed": []}, Outer, "x").listed == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("step = 3", "unknown recipe key 'step': did you mean 'steps'?"),
        ("steps = 3\n[iner]", "unknown recipe key 'iner': did you mean 'inner'?"),
        ("steps = 3\n[inner]\nrates = 1", "unknown recipe key 'inner.rates': did you mean 'inner.rate'?"),
        ("steps = 3\n[maybe]\nlable = 1", "unknown recipe key 'maybe.lable': did you mean 'maybe.label'?"),
        ("steps = 3\n[many.x]\nrat = 1", "unknown recipe key 'many.x.rat': did you mean 'many.x.rate'?"),
        ("steps = 3\nsource = ''", "unknown recipe key 'source'"),
        (
            "steps = 3\n[[listed]]\nrate = 1\n[[listed]]\nrte = 1",
            "unknown recipe key 'listed[2].rte': did you mean 'listed[2].rate'?",
        ),
        (
            "steps = 3\nat_least_one = [{ labl = 1 }]",
            "unknown recipe key 'at_least_one[1].labl': did you mean 'at_least_one[1].label'?",
        ),
        ("steps = 3\n[[lsted]]\nrate = 1", "unknown recipe key 'lsted': did you mean 'listed'?"),
    ],
)
def test_an_unknown_key_offers_the_nearest(text: str, says: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        convert(parse(text, "x"), Outer, "x", hidden=["source"])
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "steps"),
        ("steps = '3'", "$.steps"),
        ("steps = true", "$.steps"),
        ("steps = 2.5", "$.steps"),
        ("steps = 3\ninner = 1", "$.inner"),
        ("steps = 3\ninner = []", "$.inner"),
        ("steps = 3\nmany = 'x'", "$.many"),
        ("steps = 3\nmany.x = 1", "$.many"),
        ("steps = 3\n[inner]\nrate = inf\nlabel = 2", "$.inner.label"),
        ("steps = 3\n[[inner]]\nrate = 1", "$.inner"),
        ("steps = 3\n[listed]\nrate = 1", "$.listed"),
        ("steps = 3\nlisted = [1]", "$.listed[0]"),
        ("steps = 3\nlisted = [{ rate = 'x' }]", "$.listed[0].rate"),
        ("steps = 3\nat_least_one = []", "$.at_least_one"),
    ],
)
def test_a_value_of_another_type_is_told_in_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(parse(text, "my.toml"), Outer, "my.toml")
    assert str(caught.value).startswith("my.toml: ") and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_are_checked_below_a_prefix() -> None:
    check_keys({"rate": 1, "label": 2}, Inner, "arm.")
    with pytest.raises(UnknownNameError, match=r"'arm\.rte': did you mean 'arm\.rate'\?"):
        check_keys({"rte": 1}, Inner, "arm.")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("steps=4", {"steps": 4, "inner": {"rate": 1}}),
        ("inner.rate=0.25", {"steps": 3, "inner": {"rate": 0.25}}),
        (" inner.label = a b", {"steps": 3, "inner": {"rate": 1, "label": "a b"}}),
        ("maybe.label='3'", {"steps": 3, "inner": {"rate": 1}, "maybe": {"label": "3"}}),
        ("source=a=b", {"steps": 3, "inner": {"rate": 1}, "source": "a=b"}),
        ("steps=[1, 2]", {"steps": [1, 2], "inner": {"rate": 1}}),
        ("steps=", {"steps": "", "inner": {"rate": 1}}),
        ("inner=false", {"steps": 3, "inner": False}),
    ],
)
def test_a_key_is_changed(change: str, expected: dict[str, Any]) -> None:
    values = {"steps": 3, "inner": {"rate": 1}}
    assert changed(values, [change]) == expected
    assert values == {"steps": 3, "inner": {"rate": 1}}, "what was read stays"


def test_of_two_changes_the_last_counts() -> None:
    assert changed({}, ["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize(
    "change", ["steps", "", "=3", ".rate=1", "inner.=1", "inner..rate=1", "steps.x=1", "listed.x=1"]
)
def test_what_changes_nothing_is_told(change: str) -> None:
    with pytest.raises(UsageError) as caught:
        changed({"steps": 3, "inner": {"rate": 1}, "listed": [{"x": 2}]}, [change])
    assert repr(change) in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_is_a_file_or_one_of_the_package(tmp_path: Path) -> None:
    file = tmp_path / "embedded-base.toml"
    file.write_bytes(b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")
    assert parse(find_recipe(str(file)), "x") == {"a": 1, "b": 2}
    assert find_recipe("recipes/embedded-base.toml") == find_recipe("embedded-base.toml")
    assert "[model]" in find_recipe("embedded-base.toml")


@pytest.mark.parametrize(
    "name", ["", ".", "embeded-base.toml", "recipes", "no/such/thing", "a\0b", "x" * 5000]
)
def test_what_is_no_recipe_is_told_in_one_line(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_recipe(name)
    assert "\n" not in str(caught.value)
    if name == "embeded-base.toml":
        assert "did you mean 'recipes/embedded-base.toml'?" in str(caught.value)


def test_a_recipe_that_is_no_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"mine\.toml cannot be read: .*utf-8"):
        find_recipe(str(file))
