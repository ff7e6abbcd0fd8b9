"""Scores of pairs, kept on disk: a pair that was scored once is not scored again, also after a process was killed.

$RANKPIPE_HOME/pair-scores/DIGEST.sqlite   DIGEST of what makes the scores: network, adapter, how pairs are read, precision

A pair is known by its texts: 16 bytes of BLAKE2b of the query's, and of the document's as it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rankpipe.data.text import text_digest
from rankpipe.models import tables
from rankpipe.models.cross_encoder import CrossEncoderScorer, Scored
from rankpipe.store import home, key_digest

FORMAT = 1
KEPT = 4096
"""Pairs that are scored before they are kept: what a killed process loses at most."""
COLUMNS = "pair BLOB PRIMARY KEY, score REAL NOT NULL, window INTEGER NOT NULL, truncated INTEGER NOT NULL"
SELECT = "SELECT pair, score, window, truncated FROM scores WHERE pair IN"


class PairScores:
    """The scores of a cross-encoder, from the file where they are there, else computed and kept."""

    def __init__(self, scorer: CrossEncoderScorer) -> None:
        """Name the file; it is made when something is to be kept in it."""
        self._scorer = scorer
        self.file = home() / "pair-scores" / f"{key_digest({'format': FORMAT, **scorer.key()})}.sqlite"
        self.computed = 0
        """Pairs that were scored, and not found."""

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: NDArray[np.int64],
        advance: Callable[[int], None] = lambda _: None,
    ) -> Scored:
        """As CrossEncoderScorer.score. Raises StoreError where the file cannot be read or written."""
        ours, theirs = ([text_digest(text) for text in texts] for texts in (queries, documents))
        keys = [ours[query] + theirs[document] for query, document in pairs.tolist()]
        with tables.opened(self.file, "scores", COLUMNS) as connection:
            known = tables.found(connection, SELECT, list(dict.fromkeys(keys)), tuple)
            missing = list({key: at for at, key in enumerate(keys) if key not in known}.values())
            advance(len(keys) - len(missing))
            for begin in range(0, len(missing), KEPT):
                rows = missing[begin : begin + KEPT]
                new = self._scorer.score(*_told(queries, documents, pairs[rows]), advance)
                values = zip(new.scores.tolist(), new.windows.tolist(), new.truncated.tolist(), strict=True)
                made = {keys[row]: value for row, value in zip(rows, values, strict=True)}
                with connection:
                    connection.executemany(
                        "INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)",
                        [(key, *value) for key, value in made.items()],
                    )
                known |= made
        self.computed += len(missing)
        scores, windows, truncated = zip(*(known[key] for key in keys), strict=True) if keys else ((), (), ())
        return Scored(np.array(scores, np.float32), np.array(windows, np.int32), np.array(truncated, bool))


def _told(
    queries: Sequence[str], documents: Sequence[str], pairs: NDArray[np.int64]
) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Pairs with the texts that they need alone: a scorer tokenises all that it is given."""
    asked, query = np.unique(pairs[:, 0], return_inverse=True)
    read, document = np.unique(pairs[:, 1], return_inverse=True)
    rows = np.stack([query.reshape(-1), document.reshape(-1)], axis=1).astype(np.int64)
    return [queries[int(row)] for row in asked], [documents[int(row)] for row in read], rows
