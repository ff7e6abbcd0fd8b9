"""The bundled collection: the docstrings of Python's standard library, read from the Python that is running.

A document is a public function, class, method or property of one of MODULES. Its id is the name people write:
`os.path.split`, `collections.Counter.most_common`, and without `builtins.` in front, `str.split`.

Who owns a docstring. A name counts if its module exports it (`__all__`; where there is none, what the module defines).
A method belongs to the first public class that offers it: subclasses that only inherit do not repeat it, and what
stands in a private base class belongs to the public class built on it. A class is public under its own name, not under
an alias (socket.SocketType), and what other packages hang into standard classes at run time does not count. Left out
are names that begin with an underscore, docstrings inherited from elsewhere, and docstrings that are nothing but the
form of a call. A class that has no docstring is described by the one of its `__init__`.

Duplicates. Names whose docstrings are equal (white space aside) are one document: the same object under two names
always, `set.union` and `frozenset.union` too. The id is a name that is no alias of a class (OSError, not IOError), of
those the shortest, of those the first in code-point order. It depends on the names alone, so neither the order of a
dict nor the order of MODULES can change it.

The title is the id, then its parts in brackets. A word tokenizer (UAX#29) keeps `os.path.split` and `most_common`
each as one word, so a searcher's "split" or "most common" would not meet them otherwise:
`collections.Counter.most_common (collections Counter most_common most common)`.

The text is the signature, where Python knows one and the docstring does not open with it, then the docstring.

The file needs nothing but the standard library, so that it also runs alone under other Pythons (eval/python_docs_ids.py).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["FORMAT", "MODULES", "Record", "fingerprint", "fresh_records", "records"]

FORMAT = 2
"""Rises whenever the same Python would give other records than before."""

# On every platform and in every version from 3.10 to 3.14, quiet on import, and never missing because a C library
# was absent when Python was built (which keeps out sqlite3, ssl, bz2, lzma, ctypes, curses, readline and tkinter).
_MODULE_LIST = """
    builtins abc argparse array ast asyncio base64 binascii bisect calendar cmath codecs collections collections.abc
    colorsys concurrent.futures configparser contextlib contextvars copy csv dataclasses datetime decimal difflib
    email email.message email.utils enum filecmp fileinput fnmatch fractions ftplib functools gc getpass gettext
    glob graphlib gzip hashlib heapq hmac html html.parser http.client http.cookies http.server imaplib importlib
    importlib.metadata importlib.resources inspect io ipaddress itertools json linecache locale logging
    logging.config logging.handlers math mimetypes multiprocessing operator os os.path pathlib pickle platform
    plistlib pprint queue random re sched secrets selectors shelve shlex shutil signal smtplib socket socketserver
    stat statistics string struct subprocess sys tarfile tempfile textwrap threading time timeit tokenize traceback
    tracemalloc types typing unicodedata unittest unittest.mock urllib.parse urllib.request uuid warnings wave
    weakref webbrowser xml.dom.minidom xml.etree.ElementTree xml.sax.saxutils zipfile zlib zoneinfo
"""
MODULES = tuple(_MODULE_LIST.split())

_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    functools._lru_cache_wrapper,
)
_PROPERTIES = (property, functools.cached_property)

# A docstring without a sentence: "ParseResult(scheme, netloc)", "Add", and what enum gave its subclasses before 3.12.
_WORDLESS = re.compile(r"[\w.]*(\(.*\))?|An enumeration\.")
# ThreadPool -> Thread Pool, HTTPServer -> HTTP Server, most_common -> most common.
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")


class Record(NamedTuple):
    """One document of the collection."""

    doc_id: str
    title: str
    text: str


def records() -> Iterator[Record]:
    """Every document, in rising code-point order of the ids.

    Raises DataError where this Python lacks one of MODULES or was told to drop docstrings (-OO).
    """
    if sys.flags.optimize >= 2:
        raise _data_error("python-docs reads docstrings, and this Python was told to drop them (-OO): run it without")
    offered: dict[str, Any] = {}
    for module in MODULES:
        offered.update(_public_names(module))
    classes = {name: member for name, member in offered.items() if isinstance(member, type)}
    classes = {name: owner for name, owner in classes.items() if not _is_alias(name, owner)}
    public = set(classes.values())
    for name, owner in classes.items():
        offered.update((f"{name}.{part}", member) for part, member in _own_members(owner, public))

    canonical: dict[str, str] = {}  # docstring, white space aside -> the id it is kept under
    for name in sorted(offered, key=lambda name: (_is_alias(name, offered[name]), len(name), name)):
        if docstring := _docstring(offered[name]):
            canonical.setdefault(" ".join(docstring.split()), name)
    for name in sorted(canonical.values()):
        is_method = name.rpartition(".")[0] in classes
        yield Record(name, _title(name), _text(name, offered[name], is_method))


def fresh_records() -> list[Record]:
    """The records as a fresh process of this Python reads them, with nothing imported but this file.

    Packages change the standard library when they are imported (exceptiongroup gives traceback its own `format`), and
    what the collection holds must not depend on what else a program uses.

    Raises DataError where that process fails.
    """
    if not sys.executable:  # Python inside another program: there is no other process to ask
        return list(records())
    command = [sys.executable, "-I", "-S", __file__]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)  # noqa: S603
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise _data_error(f"python-docs cannot be read by {sys.executable}: {said}")
    return [Record(*json.loads(line)) for line in done.stdout.splitlines()]


def fingerprint() -> str:
    """What the records depend on: format, module list, and the Python and platform they are read from."""
    modules = hashlib.sha256(" ".join(MODULES).encode()).hexdigest()[:12]
    version = ".".join(map(str, sys.version_info[:3]))
    return f"python-docs-{FORMAT}-{modules}-{sys.implementation.name}-{version}-{sys.platform}"


def _data_error(message: str) -> Exception:
    from rankpipe.errors import DataError  # not at the top: this file also runs alone

    return DataError(message)


def _public_names(module_name: str) -> Iterator[tuple[str, Any]]:
    """The functions and classes that a module offers under its own name, as (qualified name, object)."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # deprecated names warn when looked at; reading their docstrings is no use of them
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise _data_error(
                f"python-docs reads the standard module '{module_name}', which this Python lacks ({error}): "
                f"use a complete Python {sys.version_info[0]}.{sys.version_info[1]}"
            ) from error
        exported = getattr(module, "__all__", None)
        # None: a submodule that __all__ names and nothing has imported yet
        members = {name: getattr(module, name, None) for name in exported or vars(module) if not name.startswith("_")}
    homes = {module_name, f"_{module_name}"}  # signal's functions stand in _signal
    if module_name == "builtins":
        homes |= {"io", "_io"}  # open
    prefix = "" if module_name == "builtins" else f"{module_name}."
    for name, member in members.items():
        original = vars(module).get(f"__{name}__")  # of a hook that a program may have replaced: sys.excepthook
        if isinstance(original, _FUNCTIONS):
            member = original
        if exported is None and getattr(member, "__module__", None) not in homes:
            continue
        if isinstance(member, (type, *_FUNCTIONS)) and _is_standard(member):
            yield prefix + name, member


def _own_members(owner: type, public: set[type]) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class that no public class above it offers already."""
    above = [base for base in owner.__mro__[1:] if base in public]
    for name in dir(owner):
        if name.startswith("_"):
            continue
        member = inspect.getattr_static(owner, name)
        if any(inspect.getattr_static(base, name, None) is member for base in above):
            continue
        if isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        if isinstance(member, _FUNCTIONS + _PROPERTIES) and _is_standard(member):
            yield name, member


def _is_standard(member: Any) -> bool:
    """False for what another package has put into a standard module or class while running in this process."""
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, functools.cached_property):
        member = member.func
    home = getattr(member, "__module__", None) or "builtins"  # methods written in C name no module
    return home.partition(".")[0] in sys.stdlib_module_names


def _is_alias(name: str, member: Any) -> bool:
    return isinstance(member, type) and member.__name__ != name.rpartition(".")[2]


def _docstring(member: Any) -> str | None:
    """The docstring written for this very object, without its indentation; None where it says nothing."""
    docstring = member.__doc__
    if isinstance(member, type):
        docstring = vars(member).get("__doc__")
        initializer = vars(member).get("__init__")
        if docstring is None and isinstance(initializer, types.FunctionType):
            docstring = initializer.__doc__
    if not isinstance(docstring, str):
        return None
    docstring = inspect.cleandoc(docstring).strip()
    return None if _WORDLESS.fullmatch(docstring) else docstring


def _title(name: str) -> str:
    """The id, followed in brackets by its parts and by the words that underscores and capitals join in them."""
    words: list[str] = []
    for part in name.split("."):
        split = _WORD.findall(part)
        if part != name:
            words.append(part)
        if len(split) > 1 and all(len(word) > 1 for word in split):  # IPv4Network would become I Pv4 Network
            words.extend(split)
    return f"{name} ({' '.join(words)})" if words else name


def _text(name: str, member: Any, is_method: bool) -> str:
    docstring = _docstring(member) or ""
    short = name.rpartition(".")[2]
    signature = _signature(member, is_method)
    if not signature or docstring.startswith((f"{short}(", f"{name}(")):
        return docstring
    return f"{short}{signature}\n\n{docstring}"


def _signature(member: Any, is_method: bool) -> str:
    """The public parameters without self, with plain defaults, no annotations; empty where Python cannot tell them."""
    if isinstance(member, _PROPERTIES):
        return ""
    try:
        signature = inspect.signature(member)
    except (ValueError, TypeError, NameError):  # C code without a signature; annotations that name missing types
        return ""
    parameters = list(signature.parameters.values())
    if is_method and parameters and parameters[0].name in ("self", "cls", "type"):
        del parameters[0]
    parameters = [
        parameter.replace(
            annotation=parameter.empty,
            default=parameter.default if _is_plain(parameter.default) else _Ellipsis(),
        )
        for parameter in parameters
        if not parameter.name.startswith("_")
    ]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def _is_plain(default: Any) -> bool:
    """Whether a default is written alike in every process and on every machine."""
    if isinstance(default, str):
        return len(default) < 2 or not ("/" in default or "\\" in default)  # a path is this machine's own
    if type(default) is int:
        return default != sys.maxsize
    return default is None or default is inspect.Parameter.empty or type(default) in (bool, float, bytes)


class _Ellipsis:
    """Stands for a default value that has no fixed text."""

    def __repr__(self) -> str:
        return "..."


if __name__ == "__main__":
    for record in records():
        print(json.dumps(record))
