"""The site that `make docs` builds, without network."""

from importlib.metadata import version as version_of

project = "hyperloader"
author = copyright = "the hyperloader authors"
version = release = version_of("hyperloader")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"hyperloader {version}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
