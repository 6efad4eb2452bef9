"""Formulas as MathML, which browsers set themselves, and the font that they are set in: no script, no network."""

import html
import io
import re
from functools import cache
from importlib.metadata import files

from fontTools import subset
from fontTools.ttLib import TTFont
from math_core import LatexError, LatexToMathML

MACROS = {
    "norm": r"\lVert #1 \rVert",
    "E": r"\mathbb{E}",
    "d": r"\mathrm{d}",
    "inner": r"\langle #1 \rangle",
}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.S)
SIGNS = (  # what formulas are made of: letters, numbers, Greek, punctuation, arrows, operators, mathematical letters
    (0x20, 0x24F),
    (0x300, 0x3FF),
    (0x2000, 0x2BFF),
    (0x1D400, 0x1D7FF),
)


def with_formulas(page: str, *, name: str) -> str:
    """Replace what `pymdownx.arithmatex` marked in the HTML of a page; ValueError for one that cannot be read."""
    converter = LatexToMathML(macros=MACROS)

    def mathml(found: re.Match[str]) -> str:
        tag, inline, display = found.groups()
        source = html.unescape(inline if display is None else display).strip()
        try:
            made = converter.convert_with_local_state(source, displaystyle=display is not None)
        except LatexError as error:
            raise ValueError(f"{name}: the formula {source!r} cannot be read: {error}") from None
        return made if display is None else f'<{tag} class="formula" tabindex="0">{made}</{tag}>'

    return FORMULA.sub(mathml, page)


@cache
def font() -> bytes:
    """STIX Two Math (SIL Open Font License 1.1) as WOFF, with no more than formulas need."""
    held = next(file.read_binary() for file in files("ziamath") or () if file.name == "STIXTwoMath-Regular.ttf")
    options = subset.Options(flavor="woff", layout_features=["*"], name_IDs=["*"], notdef_outline=True)
    made = TTFont(io.BytesIO(held))
    cut = subset.Subsetter(options)
    cut.populate(unicodes=[code for first, last in SIGNS for code in range(first, last + 1)])
    cut.subset(made)
    made.flavor = "woff"
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()
