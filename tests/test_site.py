"""What is made for the site: pages from the code, formulas, and no fetching from elsewhere. Skips without the extra."""

import io
import json
from types import SimpleNamespace

import pytest

from docs.making.house import ROOT
from docs.making.layers import picture, rooms
from kinetic.cli import interface

pytest.importorskip("math_core", reason="the extra docs is not installed")

from fontTools.ttLib import TTFont
from mkdocs.exceptions import PluginError

from docs.making import api, hooks, options, results
from docs.making.mathematics import font, with_formulas

NAMED = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))


@pytest.fixture(scope="module")
def commands():
    return options.pages()


def test_every_option_of_every_command_is_on_its_page(commands):
    """Kills: a group of the parser, or an option taken before it, left out of the tables."""
    hidden = ("print_shtab", "run_option")
    for name, entry in json.loads(interface.FILE.read_text())["commands"].items():
        if name == "study":
            continue
        page = commands[f"{name.replace(' ', '-')}.md"]
        for option in entry["options"]:
            if option in hidden or option.endswith((".help", "+")) or (option == "run" and name != "train"):
                continue
            assert f"--{option}" in page, f"{name}: --{option}"


def test_a_default_and_a_choice_are_shown(commands):
    sample = commands["sample.md"].split("\n")
    assert "| `--guidance W` | `1.0` | classifier-free; 1 is none |" in sample
    assert any(line.startswith("| `--steps STEPS` | `100` |") for line in sample)
    train = commands["train.md"]
    assert "| `--model.coupling {independent,ot}` | `independent` |" in train
    assert "| `--model.compile {true,false}` | `False` |" in train
    assert "| `--dry-run` |  |" in train


def test_formulas_become_mathml():
    page = r'<p><span class="arithmatex">\(\norm{v}^2 &lt; 1\)</span></p><div class="arithmatex">\[E = \tfrac12\]</div>'
    made = with_formulas(page, name="x.md")
    assert "arithmatex" not in made
    assert made.count("<math") == 2
    assert "&lt;" in made
    assert 'display="block"' in made


def test_formula_that_cannot_be_read_is_named():
    with pytest.raises(ValueError, match=r"x\.md: the formula .*frac"):
        with_formulas(r'<span class="arithmatex">\(\frac{1}\)</span>', name="x.md")


def test_font_holds_the_signs_of_formulas():
    """Kills: a subset without integrals, norms or the tables that tall brackets are made of."""
    held = TTFont(io.BytesIO(font()))
    assert {ord(sign) for sign in "∫‖𝑣𝔼²½ηταβ∈≥⟨"} <= set(held.getBestCmap())
    assert "MATH" in held


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://x.org/a.js">',
        '<img alt="a" src="//x.org/a.png">',
        '<link rel="stylesheet" href="https://x.org">',
    ],
)
def test_page_that_fetches_from_elsewhere_is_refused(page):
    with pytest.raises(PluginError, match=r"a\.md fetches from elsewhere"):
        hooks.on_post_page(page, NAMED)
    fine = '<a href="https://x.org">x</a><img src="pictures/a.png"><link rel="canonical" href="https://x.org">'
    assert hooks.on_post_page(fine, NAMED) == fine


def test_picture_of_the_layers_shows_what_the_code_imports():
    drawn = picture()
    assert "callbacks uses training in" in drawn
    assert "nn uses data" not in drawn
    assert "| `kinetic.flow` | The mathematics" in rooms()


def test_api_has_a_page_for_every_room_and_every_public_name():
    pages = api.pages()
    folders = {path.name for path in (ROOT / "kinetic").iterdir() if (path / "__init__.py").is_file()}
    assert {f"{name}.md" for name in folders} | {"callbacks.md", "ground.md", "index.md"} == set(pages)
    assert "::: kinetic.flow.integration.integrate" in pages["index.md"]
    assert "::: callbacks.kpe\n" in pages["callbacks.md"]
    assert "::: kinetic.tensors\n" in pages["ground.md"]


def test_reference_by_the_name_that_people_import_leads_to_its_place():
    page = "[a][kinetic.callbacks.KPECallback] [b][kinetic.integrate] [c][kinetic.flow.shaping.KTS]"
    places = "[a][callbacks.kpe.KPECallback] [b][kinetic.flow.integration.integrate] [c][kinetic.flow.shaping.KTS]"
    assert api.with_places(page) == places


def test_reference_to_what_no_page_has_is_refused():
    """Kills: a reference that is shown as it is written, which the strict build lets pass."""
    with pytest.raises(PluginError, match=r"a\.md refers to kinetic\.nothing"):
        hooks.on_post_page("<p>[x][kinetic.nothing]</p>", NAMED)


def test_every_section_of_the_results_is_a_page():
    pages = results.pages()
    sections = [line for line in (ROOT / "RESULTS.md").read_text().split("\n") if line.startswith("## ")]
    assert len(pages) == len(sections) + 1
    assert all(f"]({name})" in pages["index.md"] for name in pages if name != "index.md")
