"""YAML and JSON that would hang or fill the memory are refused before anything walks them."""

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinetic.errors import KineticError
from kinetic.store.plain import DEPTH, parse_json, parse_yaml, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases stand for"),
        ("a: &a [*a]", "stands for what it lies in"),
        ("a: *nothing", "stands for what it lies in, or for nothing"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"more than {DEPTH} deep"),
        ("[" * 100_000, "deep|nesting"),
        ("a: [1", "line 2"),
        ("!!python/object/apply:os.system ['touch executed']", "constructor"),
        ("a: " + "9" * 5000, "digits"),
        ("x" * (4 * 2**20 + 1), "characters"),
        ("\x00", "characters are not allowed"),
    ],
)
def test_yaml_without_bounds_is_refused_at_once(text, words):
    start = time.monotonic()
    with pytest.raises(KineticError, match=words) as refused:
        parse_yaml(text, name="config.yaml")
    assert "\n" not in str(refused.value)
    assert time.monotonic() - start < 20


def test_depth_counts_through_aliases():
    nested = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, DEPTH + 1))
    with pytest.raises(KineticError, match="deep"):
        parse_yaml(nested, name="config.yaml")


def test_aliases_within_bounds_are_what_they_stand_for():
    assert parse_yaml("a: &a {b: [1, 2.5]}\nc: *a", name="x") == {"a": {"b": [1, 2.5]}, "c": {"b": [1, 2.5]}}


def test_json_is_damaged_or_deep_in_one_line():
    for text in ("[" * 100_000, "{", "1" * 5000, b"\xff\xfe\x00"):
        with pytest.raises(KineticError, match=r"x\.json cannot be read"):
            parse_json(text, name="x.json")


def test_a_file_that_is_none_is_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(KineticError, match="cannot be read"):
            read_yaml(path)


@settings(max_examples=200, deadline=2000)
@given(st.text(alphabet="[]{}&*ab:,-!|>\n '\"#%?01.~", max_size=120))
def test_any_text_is_plain_values_or_one_line(text):
    for parse in (parse_yaml, parse_json):
        with suppress(KineticError):
            parse(text, name="x")
