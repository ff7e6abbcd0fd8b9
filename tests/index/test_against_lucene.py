"""The whole of lexical search against Lucene 9.9.1 over real collections: scores, nDCG@10 and R@100.

Reference: Lucene's IndexSearcher with BM25Similarity(0.9, 0.4) and Anserini's English analysis, over
(title + ' ' + text).strip(), one run a collection.
"""

import os
from pathlib import Path

import ir_measures
import pytest
from ir_measures import R, nDCG

from rankpipe.data.dataset import Dataset
from rankpipe.index.analysis import open_analyzer
from rankpipe.index.inverted import InvertedIndex, build

# The best of a collection's first test query, with Lucene's scores; then Lucene's nDCG@10 and R@100 of the test split.
LUCENE = {
    "scifact": ({"10608397": 6.59882116, "34386619": 5.17067719, "43385013": 5.15747547}, 0.6789, 0.9253),
    "nfcorpus": ({"MED-2429": 9.5898304, "MED-10": 9.57887554, "MED-14": 9.43470383}, 0.3218, 0.2457),
    "vaswani": ({"5502": 8.61036587, "8172": 8.57055664, "7234": 7.311211586}, 0.4368, 0.6186),
    "cranfield": ({"51": 11.5558462, "486": 10.7736664, "184": 9.30886078}, 0.3417, 0.7206),
    "cisi": ({"928": 13.9213257, "429": 13.3527184, "65": 12.0232973}, 0.3644, 0.4314),
}


@pytest.mark.parametrize("name", LUCENE)
def test_scores_and_measures_are_those_of_lucene(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [Path(part) / name for part in os.environ.get("RANKPIPE_DATA", "").split(":") if part]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        pytest.skip(f"needs {name} in a folder of RANKPIPE_DATA")
    monkeypatch.setenv("RANKPIPE_HOME", str(tmp_path_factory.mktemp("home")))
    scores, ndcg, recall = LUCENE[name]
    dataset, analyzer, place = Dataset.load(folder), open_analyzer("english"), tmp_path_factory.mktemp("index")
    corpus, queries = dataset.corpus, dataset.queries("test")
    build(place, corpus.joined_texts(corpus.live_rows()), analyzer, rows=corpus.live_rows())
    index = InvertedIndex.open(place)
    ranking = index.search(index.queries(queries.texts, analyzer), 100, corpus.tie_order, k1=0.9, b=0.4, threads=2)

    ids = corpus.ids(ranking.documents)
    assert dict(zip(ids[:3], ranking.scores[:3].tolist(), strict=True)) == pytest.approx(scores, abs=1e-4)
    run = [
        ir_measures.ScoredDoc(query_id, ids[place], float(last - place))
        for query_id, first, last in zip(queries.ids, ranking.offsets[:-1], ranking.offsets[1:], strict=True)
        for place in range(first, last)
    ]
    measures = [nDCG @ 10, R @ 100]
    values = ir_measures.calc_aggregate(measures, {q: dict(r) for q, r in dataset.qrels("test").items()}, run)
    assert [values[measure] for measure in measures] == pytest.approx([ndcg, recall], abs=0.002)
