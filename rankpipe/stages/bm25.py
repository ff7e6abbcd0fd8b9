"""BM25: the retriever over an inverted index of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic.dataclasses import dataclass

from rankpipe.stage import SETTINGS, Part, Reference, Stage

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class BM25(Stage):
    """Retrieve the documents that score best by BM25, as Lucene computes it.

    A document that shares no term with the query is not a candidate, so there may be fewer than k, or none.
    Robertson and Zaragoza 2009, in the variant of Lucene's BM25Similarity; see rankpipe.index.bm25.

    k         candidates kept per query
    k1, b     saturation of term frequency, and how much length counts. The defaults are Anserini's, of which the
              published BEIR figures are made
    analyzer  how text becomes terms: "english" (Lucene's), "snowball:LANGUAGE", "whitespace", or the path of a
              Hugging Face tokenizer.json
    fields    the fields of a document, joined by a blank, that are indexed
    engine    "rankpipe", or "rank-bm25": the package of that name, for comparison
    """

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    k: Annotated[int, Gt(0)] = 1000
    k1: Annotated[float, Ge(0)] = 0.9
    b: Annotated[float, Ge(0), Le(1)] = 0.4
    analyzer: Reference = "english"
    fields: Annotated[tuple[str, ...], MinLen(1)] = ("title", "text")
    engine: Literal["rankpipe", "rank-bm25"] = "rankpipe"
