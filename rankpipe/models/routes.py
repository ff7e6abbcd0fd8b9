"""What queries and what documents pass through, where sentence-transformers wrote a Router. No torch here.

A Router has a list of modules for each of its routes, in folders of its own. Only its routes of the names query and
document are followed: those that SentenceTransformer.encode_query and encode_document take.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from rankpipe.errors import ModelError
from rankpipe.models.references import ROUTER_CONFIG, read_json

Role = Literal["query", "document"]
"""Whose vectors an encoder makes."""
Module = tuple[str, Path]
"""Kind and folder of a module."""


def kind_of(module: str, file: Path) -> str:
    """Kind of a module by the name of its class, as a file has it. Raises ModelError for one of another package."""
    if not module.startswith("sentence_transformers."):
        raise ModelError(f"{file}: the module {module} is none of sentence-transformers; its code is not run")
    return module.rpartition(".")[2]


def has_router(modules: Iterable[Module]) -> bool:
    """Whether queries and documents pass through modules of their own."""
    return any(kind == "Router" for kind, _ in modules)


def followed(modules: Iterable[Module], role: Role) -> list[Module]:
    """The modules that a role's texts pass through: in place of a Router those of its route.

    Raises ModelError for a Router with other routes than those of the two roles.
    """
    found: list[Module] = []
    for kind, place in modules:
        found += _route(place / ROUTER_CONFIG, role) if kind == "Router" else [(kind, place)]
    return found


def _route(path: Path, role: Role) -> list[Module]:
    config = read_json(path)
    types, routes, parameters = (config.get(name) or {} for name in ("types", "structure", "parameters"))
    if not (isinstance(types, dict) and isinstance(routes, dict) and isinstance(parameters, dict)):
        raise ModelError(
            f"{path} is not the configuration of a Router: types, structure and parameters, by their names"
        )
    if set(routes) != {"query", "document"}:
        raise ModelError(f"{path}: the routes are {', '.join(routes) or 'none'}; they must be query and document")
    if mapped := parameters.get("route_mappings"):
        raise ModelError(f"{path}: route_mappings is {mapped!r}; only a Router without them is supported")
    try:
        route = [(kind_of(str(types[name]), path), name) for name in routes[role]]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path}: the route {role} is not a list of modules that have a type ({error})") from None
    for _, name in route:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{path}: the module {name!r} is outside of the Router's folder")
    return [(kind, path.parent / name) for kind, name in route]
