"""Qrels: which documents answer which query, and how well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral

from rankpipe.errors import UsageError


class Qrels(Mapping[str, Mapping[str, int]]):
    """Relevance judgements: {query_id: {doc_id: relevance}}, in the order of their source.

    Relevance is a whole number; 0 and less mean judged and not relevant. A document that is not here is unjudged.
    """

    __slots__ = ("_judgements",)

    def __init__(self, judgements: Mapping[str, Mapping[str, int]]) -> None:
        for query_id, judged in judgements.items():
            for doc_id, relevance in judged.items():
                if isinstance(relevance, bool) or not isinstance(relevance, Integral):
                    raise UsageError(
                        f"relevance of document {doc_id!r} for query {query_id!r} is {relevance!r}, not a whole number"
                    )
        self._judgements = {
            query_id: {doc_id: int(relevance) for doc_id, relevance in judged.items()}
            for query_id, judged in judgements.items()
        }

    @classmethod
    def of(cls, qrels: Qrels | Mapping[str, Mapping[str, int]]) -> Qrels:
        """The judgements themselves, or a mapping of them checked."""
        return qrels if isinstance(qrels, Qrels) else cls(qrels)

    def __getitem__(self, query_id: str) -> Mapping[str, int]:
        return self._judgements[query_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._judgements)

    def __len__(self) -> int:
        return len(self._judgements)

    @property
    def size(self) -> int:
        """Number of judgements."""
        return sum(map(len, self._judgements.values()))

    def __repr__(self) -> str:
        return f"Qrels({len(self)} queries, {self.size} judgements)"
