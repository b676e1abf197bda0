"""Sphinx settings. `make docs` builds the pages, with warnings as errors, and runs their examples."""

from importlib.metadata import version as installed_version

project = "cgopt"
author = "the cgopt developers"
copyright = "2026, the cgopt developers"
version = release = installed_version("cgopt")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "numpydoc",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"cgopt {release}"

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc says the types, with their shapes
numpydoc_show_class_members = False  # autodoc lists them already

# The pages' own examples. Those of the docstrings are run by pytest, `make test`.
doctest_test_doctest_blocks = ""
