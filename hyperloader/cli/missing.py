"""Packages of the extras ``train``, ``serve`` and ``search`` that are not installed. Needs none of them."""

INSTALL, INSTALL_SERVE = "pip install 'hyperloader[train]'", "pip install 'hyperloader[serve]'"
INSTALL_SEARCH = "pip install 'hyperloader[search]'"
SEARCH_PACKAGES = ("alembic", "colorlog", "optuna", "sqlalchemy")
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
    extras = {INSTALL: TRAIN_PACKAGES, INSTALL_SERVE: SERVE_PACKAGES, INSTALL_SEARCH: SEARCH_PACKAGES}
    install = next((command for command, names in extras.items() if package in names), f"pip install {package}")
    return f"error: the package {package} is not installed; run: {install}"
