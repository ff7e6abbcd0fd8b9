"""Queries to train with: those that are judged, and texts of documents in the place of queries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus, Dataset, Qrels, Queries
from rankpipe.errors import UsageError
from rankpipe.training.recipe import HELD_OUT, Recipe

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])")
"""Where a sentence ends: a full stop before a blank, and no small letter after it."""
TITLE_WORDS = (2, 40)
SENTENCE_WORDS = (5, 40)
"""Words, from and to, of what is taken for a query."""
BLOCK = 1024
"""Documents whose texts are looked at together."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Queries of one source.

    own  (Q,) int32: row of the document that a query was taken from, -1 for judged queries
    """

    queries: Queries
    own: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.queries)

    def parts(self, last: int) -> tuple[Drawn, Drawn]:
        """All but the last ones, and the last ones."""
        cut = len(self) - last
        return (
            Drawn(self.queries.select(slice(0, cut)), self.own[:cut]),
            Drawn(self.queries.select(slice(cut, len(self))), self.own[cut:]),
        )


def train_and_development(
    recipe: Recipe, dataset: Dataset, account: dict[str, Any], *, needed: bool
) -> tuple[Queries | None, Queries | None]:
    """Queries that are judged and train, and those that development is measured on; None where there are none.

    account  is told what was taken and what was left out, under "judged" and "development"
    needed   whether judged queries to train with have to be there; without, UsageError is raised
    """
    judged = recipe.split in dataset.splits
    if needed and not judged:
        raise no_judgements(dataset, recipe.split)
    split = recipe.development.split or ("dev" if "dev" in dataset.splits else recipe.split)
    if recipe.development.held_out != HELD_OUT and not (judged and split == recipe.split):
        if split in dataset.splits:
            why = f"has a split '{split}', on which development is then measured"
        else:
            why = f"has no split '{recipe.split}' of which they could be held out"
        instead = f"to hold some out nevertheless, give it 'split: {recipe.split}'" if judged else "leave it out"
        raise UsageError(
            f"'development' holds out no training queries ('held_out'), for data set '{dataset.name}' {why}; {instead}"
        )
    if not judged and recipe.development.split is None and split == recipe.split:
        account["development"] = {"held_out": "a share of the queries that were drawn from documents"}
        return None, None
    train = None
    if judged:
        train, dropped = judged_queries(dataset, recipe.split)
        account["judged"] = {"split": recipe.split, "queries": len(train), "dropped_recurring": dropped}
    if split == recipe.split and train is not None:
        train, development = held_out(train, recipe.development.held_out, recipe.seed)
        account["judged"]["queries"] = len(train)
        out = {}
    else:
        development, dropped = judged_queries(dataset, split, beside=recipe.split)
        out = {"dropped_recurring": dropped}
    if not len(development):
        raise UsageError(
            f"no query of split '{split}' of data set '{dataset.name}' is left for development: the text of each is a query "
            "of another split, too"
        )
    _check_measurable(dataset, split, development)
    if len(development) > recipe.development.queries:
        rows = drawn(len(development), recipe.development.queries, (recipe.seed, 7))
        development = development.select(rows)
    account["development"] = {"split": split, "queries": len(development), "held_out": split == recipe.split, **out}
    return train, development


def _check_measurable(dataset: Dataset, split: str, queries: Queries) -> None:
    """Raise UsageError where every measurement would be 0, whatever was trained."""
    qrels = dataset.qrels(split)
    relevant = [doc_id for query_id in queries.ids for doc_id, grade in qrels.get(query_id, {}).items() if grade > 0]
    if not (dataset.corpus.rows(relevant) >= 0).any():
        why = "nothing that is relevant is in the corpus" if relevant else "nothing is relevant"
        raise UsageError(
            f"nothing can be measured on split '{split}' of data set '{dataset.name}': of what is judged for its "
            f"{len(queries)} queries {why}"
        )


def no_judgements(dataset: Dataset, split: str) -> UsageError:
    """The error for a data set without the judgements that a recipe asks for."""
    there = ", ".join(dataset.splits)
    return UsageError(
        f"data set '{dataset.name}' has no split '{split}' that a phase could learn judgements from; "
        f"{f'it has {there}' if there else 'it has no judgements at all'}. What needs none are phases 'distil': see the "
        "recipe cross-encoder-distilled"
    )


def qrels_of(queries: Queries, dataset: Dataset, split: str) -> Qrels:
    """The judgements of some queries of a split."""
    wanted = set(queries.ids)
    return Qrels({query_id: one for query_id, one in dataset.qrels(split).items() if query_id in wanted})


def drawn(count: int, wanted: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """Rows of `wanted` of `count` queries, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:wanted])


def plain_text(text: str) -> str:
    """A query's text as it is compared with others: blanks and capitals do not count."""
    return " ".join(text.casefold().split())


def judged_queries(dataset: Dataset, split: str, *, beside: str | None = None) -> tuple[Queries, list[str]]:
    """Queries of a split, and the ids of those left out because their text is that of a query of another split.

    beside  a split that leaves out what it has in common with this one itself
    """
    others = other_texts(dataset, split, *([] if beside is None else [beside]))
    queries = dataset.queries(split)
    recurs = [plain_text(text) in others for text in queries.texts]
    kept = queries.select([row for row, one in enumerate(recurs) if not one])
    return kept, [query_id for query_id, one in zip(queries.ids, recurs, strict=True) if one]


def other_texts(dataset: Dataset, *splits: str) -> set[str]:
    """Texts of the queries of all splits but some, as plain_text has them."""
    others = [other for other in dataset.splits if other not in splits]
    return {plain_text(text) for other in others for text in dataset.queries(other).texts}


def held_out(queries: Queries, share: float, seed: int) -> tuple[Queries, Queries]:
    """Queries to train with, and a share of them to judge by; both in their order. Raises UsageError for too few.

    A text that is judged by trains nothing: queries that have it, too, are held out beside that share.
    """
    count = round(share * len(queries))
    texts = [plain_text(text) for text in queries.texts]
    chosen = np.random.default_rng([seed, len(queries)]).permutation(len(queries))[:count].tolist()
    judged_by = {texts[row] for row in chosen}
    out = np.array([text in judged_by for text in texts], bool)
    if not 0 < out.sum() < len(queries):
        raise UsageError(f"a share of {share:g} of {len(queries)} training queries cannot be held out")
    return queries.select(np.flatnonzero(~out)), queries.select(np.flatnonzero(out))


def titles(corpus: Corpus, count: int, seed: int, avoid: Iterable[str] = ()) -> Drawn:
    """Titles of at most `count` documents drawn at random."""
    rng = np.random.default_rng([seed, 1])
    return _drawn("title", _titles(corpus, rng), count, avoid)


def sentences(corpus: Corpus, count: int, seed: int, avoid: Iterable[str] = ()) -> Drawn:
    """At most `count` sentences out of documents' texts: one of each document, then another one, and so on."""
    rng = np.random.default_rng([seed, 2])
    return _drawn("sentence", _sentences(corpus, rng), count, avoid)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text that can stand for a query by their length; a short text without a stop is one."""
    least, most = SENTENCE_WORDS
    return [one for one in SENTENCE_END.split(text.strip()) if least <= len(one.split()) <= most]


def _drawn(kind: str, found: Iterable[tuple[int, str]], count: int, avoid: Iterable[str]) -> Drawn:
    """The first `count` texts that are new and not to be avoided."""
    seen = set(avoid)
    texts: list[str] = []
    own: list[int] = []
    for row, text in found:
        if len(texts) >= count:
            break
        if (plain := plain_text(text)) not in seen:
            seen.add(plain)
            texts.append(" ".join(text.split()))
            own.append(row)
    ids = tuple(f"{kind}-{number}" for number in range(1, len(texts) + 1))
    return Drawn(Queries(ids, tuple(texts)), np.array(own, np.int32))


def _titles(corpus: Corpus, rng: np.random.Generator) -> Iterator[tuple[int, str]]:
    least, most = TITLE_WORDS
    for row, title in _texts(corpus, "title", rng.permutation(corpus.live_rows())):
        if least <= len(title.split()) <= most:
            yield row, title


def _sentences(corpus: Corpus, rng: np.random.Generator) -> Iterator[tuple[int, str]]:
    rows = rng.permutation(corpus.live_rows())
    turn, more = 0, True
    while more:
        more = False
        for row, text in _texts(corpus, "text", rows):
            found = sentences_of(text)
            more |= len(found) > turn + 1
            if turn < len(found):
                yield row, found[int(np.random.default_rng(row).permutation(len(found))[turn])]
        turn += 1


def _texts(corpus: Corpus, field: str, rows: NDArray[np.int32]) -> Iterator[tuple[int, str]]:
    """Rows and their texts, read block by block."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        yield from zip(block.tolist(), corpus.texts(block, field), strict=True)
