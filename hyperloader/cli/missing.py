"""Packages of the extra ``train`` that are not installed. Needs none of them."""

INSTALL = "pip install 'hyperloader[train]'"
TRAIN_PACKAGES = (
    "accelerate",
    "datasets",
    "matplotlib",
    "numpy",
    "rich",
    "safetensors",
    "seqeval",
    "tokenizers",
    "transformers",
    "typer",
    "yaml",
)


def missing_package(error: ModuleNotFoundError) -> str:
    """One line: which package is not installed, and what installs it."""
    package = (error.name or str(error)).partition(".")[0]
    install = INSTALL if package in TRAIN_PACKAGES else f"pip install {package}"
    return f"error: the package {package} is not installed; run: {install}"
