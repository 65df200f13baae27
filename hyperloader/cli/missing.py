"""Packages of the extras ``train`` and ``serve`` that are not installed. Needs none of them."""

INSTALL, INSTALL_SERVE = "pip install 'hyperloader[train]'", "pip install 'hyperloader[serve]'"
SERVE_PACKAGES = ("fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn")
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
    extras = {**dict.fromkeys(TRAIN_PACKAGES, INSTALL), **dict.fromkeys(SERVE_PACKAGES, INSTALL_SERVE)}
    install = extras.get(package, f"pip install {package}")
    return f"error: the package {package} is not installed; run: {install}"
