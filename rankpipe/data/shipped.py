"""Where the files are that come with the package: pipelines, cards, the bundled queries and judgements, adapters."""

from __future__ import annotations

from pathlib import Path

from rankpipe.errors import UsageError


def shipped(name: str) -> Path:
    """The folder `pipelines`, `datasets` or `adapters`: inside the installed package, or at the root of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "_shipped" / name, package.parent / name
    if installed.is_dir():
        return installed
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():  # site-packages may hold another `datasets`
        return checkout
    raise UsageError(f"this installation of rankpipe lacks its folder '{name}' ({installed}): install it again")
