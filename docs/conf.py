"""Sphinx configuration. Build: sphinx-build -W -b html docs docs/_build/html (no network needed)."""

import re
from importlib import metadata

from meanfield import activations, diagnostics, engines, integrators, losses

project = "meanfield"
author = "the meanfield developers"
copyright = "2026, the meanfield developers"
release = version = metadata.version("meanfield")  # the package must be installed: pip install -e ".[docs]"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
default_role = "code"  # `name` in a docstring is code

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {  # the package's own tables, so that these pages cannot lag behind them
    name: ", ".join(f"`{entry}`" for entry in table)
    for name, table in {
        "activations": activations.ACTIVATIONS,
        "diagnostics": diagnostics.DIAGNOSTICS,
        "engines": engines.ENGINES,
        "losses": losses.LOSSES,
        "schemes": integrators.SCHEMES,
    }.items()
}

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give types and shapes
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = f"meanfield {release}"
html_show_sourcelink = False
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}

_CODE_SPAN = re.compile(r"(``.*?``|`[^`]*`)")
_MARKUP = re.compile(r"[|*]|(?<=\w)_(?!\w)")
_FIELD = re.compile(r"(\w+(?:, \w+)*) : (.+)")
_UNDERLINE = re.compile(r"-{3,}\s*$")


def _as_plain_text(app, what, name, obj, options, lines):
    """Read a docstring as its author sees it: formulas as they stand, indented blocks verbatim.

    Docstrings hold formulas such as max(|x|, |y|) or delta_(x), which reStructuredText would take for markup.
    Outside of code spans `|`, `*` and a trailing `_` are escaped. Outside of the sections an indented block after a
    blank line becomes a literal block, and a line `name : text` an entry of a definition list. A paragraph after a
    section ends it. Napoleon reads the sections afterwards.
    """
    if what == "property" and ": " in lines[0]:  # which napoleon would read as "type: text"
        lines[:1] = lines[0].replace(": ", ":\n", 1).split("\n")
    result, in_block, in_section = [], False, False
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        after_blank = not result or not result[-1].strip()
        indented = line.startswith("  ")
        if _UNDERLINE.match(following):
            in_section = True
        elif in_section and line and after_blank and not indented and not following.startswith("  "):
            result.append("")  # napoleon ends a section at two blank lines
            in_section = False
        if line and not indented:
            in_block = False
        elif indented and after_blank and not in_block and not in_section:
            result += ["::", ""]
            in_block = True
        if not in_block:
            parts = _CODE_SPAN.split(line)
            line = "".join(part if part.startswith("`") else _MARKUP.sub(r"\\\g<0>", part) for part in parts)
        field = None if in_section or in_block else _FIELD.fullmatch(line)
        result += [f"`{field[1]}`", f"    {field[2]}"] if field else [line]
    lines[:] = result


def setup(app):
    app.connect("autodoc-process-docstring", _as_plain_text, priority=400)  # ahead of napoleon, at 500
