"""Compare the analyzer `english` with Lucene's own, and write what the test suite compares it with when Lucene is away.

    python eval/lucene_tokens.py compare FOLDER...      every document and query of folders in BEIR layout
    python eval/lucene_tokens.py porter FOLDER...       the stemmer, over the vocabulary of the folders
    python eval/lucene_tokens.py fuzz --seconds 60      random texts, and the stemmer over made-up words
    python eval/lucene_tokens.py vectors                -> tests/data/lucene_tokens.json
    python eval/lucene_tokens.py digests FOLDER...      -> tests/data/lucene_tokens_digest.json

Exit status 1 if anything differs. See eval/lucene_jvm.py for the environment; rankpipe must be importable there
(PYTHONPATH=. does).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lucene_jvm import Lucene
from nasty_texts import HAND_MADE, random_texts, random_words

from rankpipe.index import porter, word_break
from rankpipe.index.analysis import lower_case, open_analyzer, terms

DATA = Path(__file__).parents[1] / "tests" / "data"
SHOWN = 5  # differences printed of each kind


def main() -> int:
    """Run one of the five commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["compare", "porter", "fuzz", "vectors", "digests"])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=60, help="how long to fuzz (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the random texts (0)")
    arguments = parser.parse_args()
    lucene = Lucene()
    print(f"Lucene {lucene.version}")
    if arguments.command == "vectors":
        return write_vectors(lucene, arguments.seed)
    if arguments.command == "digests":
        return write_digests(lucene, arguments.folders)
    if arguments.command == "fuzz":
        made_up = islice(random_words(random.Random(arguments.seed)), 500_000)
        return max(
            report("random words, stemmed", compare_stems(lucene, made_up)),
            report("random texts", fuzz(lucene, arguments.seed, arguments.seconds)),
        )
    check = compare if arguments.command == "compare" else compare_porter
    return max(report(folder.name, check(lucene, folder)) for folder in arguments.folders)


Difference = tuple[str, list[str], list[str]] | None
"""What was analysed, our tokens, Lucene's; None if they are equal."""


def report(name: str, differences: Iterator[Difference]) -> int:
    """Print the first differences and their number; 1 if there is one."""
    compared = different = 0
    for difference in differences:
        compared += 1
        if difference is not None:
            different += 1
            if different <= SHOWN:
                text, ours, theirs = difference
                print(f"  {text[:200]!a}\n    ours   {ours[:20]!a}\n    Lucene {theirs[:20]!a}")
    print(f"{name}: {compared:,} compared, {different:,} differ", flush=True)
    return int(different > 0)


def compare(lucene: Lucene, folder: Path) -> Iterator[Difference]:
    """Terms of every document and query."""
    ours, theirs = open_analyzer("english"), lucene.english()
    for file in ("corpus", "queries"):
        for text in texts(folder, file):
            yield difference(text, terms(ours, text), lucene.tokens(theirs, text))


def compare_porter(lucene: Lucene, folder: Path) -> Iterator[Difference]:
    """Stem of every word of the documents, in lower case, stop words among them."""
    found = {lower_case(word) for text in texts(folder, "corpus") for word in word_break.words(text)}
    yield from compare_stems(lucene, iter(sorted(found)))


def compare_stems(lucene: Lucene, words: Iterator[str]) -> Iterator[Difference]:
    """Stem of every word."""
    stemmer = lucene.porter_only()
    while some := list(islice(words, 1000)):
        for word, theirs in zip(some, lucene.tokens(stemmer, " ".join(some)), strict=True):
            yield difference(word, [porter.stem(word)], [theirs])


def fuzz(lucene: Lucene, seed: int, seconds: float) -> Iterator[Difference]:
    """Words and terms of random texts."""
    english, tokenizer = lucene.english(), lucene.tokenizer_only()
    ours = open_analyzer("english")
    until = time.monotonic() + seconds
    for text in random_texts(random.Random(seed)):
        yield difference(text, words(text), lucene.tokens(tokenizer, text))
        yield difference(text, terms(ours, text), lucene.tokens(english, text))
        if time.monotonic() > until:
            return


def write_vectors(lucene: Lucene, seed: int) -> int:
    """Write text, words and terms of every hand-made text and of some random ones, as Lucene has them."""
    english, tokenizer = lucene.english(), lucene.tokenizer_only()
    drawn = islice((text for text in random_texts(random.Random(seed)) if len(text) < 40), 200)
    cases = [[text, lucene.tokens(tokenizer, text), lucene.tokens(english, text)] for text in [*HAND_MADE, *drawn]]
    lines = ",\n".join(json.dumps(case) for case in cases)
    path = DATA / "lucene_tokens.json"
    path.write_text(f'{{"lucene": "{lucene.version}", "cases": [\n{lines}\n]}}\n', encoding="ascii")
    print(f"{len(cases)} texts -> {path}")
    differences = (difference(text, words(text), whole) for text, whole, _ in cases)
    return report("vectors", differences)


def write_digests(lucene: Lucene, folders: list[Path]) -> int:
    """Write the sha256 of Lucene's terms of every collection: a line a document, in corpus order, then the queries."""
    english = lucene.english()
    digests = {}
    for folder in folders:
        digest, documents, queries = hashlib.sha256(), 0, 0
        for file in ("corpus", "queries"):
            for text in texts(folder, file):
                digest.update(" ".join(lucene.tokens(english, text)).encode() + b"\n")
                documents, queries = documents + (file == "corpus"), queries + (file == "queries")
        digests[folder.name] = {"documents": documents, "queries": queries, "sha256": digest.hexdigest()}
    path = DATA / "lucene_tokens_digest.json"
    path.write_text(json.dumps({"lucene": lucene.version, "collections": digests}, indent=1) + "\n", encoding="ascii")
    print(f"{len(digests)} collections -> {path}")
    return 0


def words(text: str) -> list[str]:
    """Our words, those without letters left out as in Lucene."""
    return [word for word in word_break.words(text) if word_break.is_word(word)]


def difference(text: str, ours: list[str], theirs: list[str]) -> Difference:
    """None if the tokens are equal."""
    return None if ours == theirs else (text, ours, theirs)


def texts(folder: Path, file: str) -> Iterator[str]:
    """Text of every row of a BEIR file: title, space, text, stripped."""
    path = folder / f"{file}.jsonl"
    compressed = path.with_suffix(".jsonl.gz")
    with gzip.open(compressed, "rt", encoding="utf-8") if compressed.exists() else path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield f"{row.get('title') or ''} {row['text']}".strip()


if __name__ == "__main__":
    sys.exit(main())
