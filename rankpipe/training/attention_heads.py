"""Finding the heads of a language model that attend to what is relevant: from a recipe to a file of heads.

OUTPUT/
    heads.json      the heads and their weights, the score of every head, on which queries they were found, and how they
                    rank others
    manifest.json   recipe, versions, machine

Every query's prompt is read once; what every head attends to in every document is kept in the store, so that another
method, or a search that was killed, reads none of them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe import npy
from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.evaluation.manifest import qrels_digest, queries_digest, versions
from rankpipe.machine import machine
from rankpipe.models.attention import AttentionScorer, AttentionSettings
from rankpipe.models.attention_scores import HEADS_FORMAT, document_scores
from rankpipe.models.runtime import Runtime
from rankpipe.pipeline import Pipeline
from rankpipe.progress import counted
from rankpipe.stages.attention import read_texts
from rankpipe.store import replacing_folder, resumable
from rankpipe.training.attention_heads_recipe import AttentionHeadsRecipe
from rankpipe.training.candidates import Pool, candidates
from rankpipe.training.head_scores import Example, contrastive_scores, logistic_weights, ndcg, retrieval_scores
from rankpipe.training.queries import judged_queries, no_judgements

FORMAT = 1
"""Of what is kept of a prompt."""
KINDS = ("filtered", "calibrated", "raw")
"""What is kept of every document and head: the calibrated sum without outliers, with them, and the sum uncalibrated."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A query that is read.

    documents  (N,) rows in the corpus, ranked
    grades     (N,) of the documents
    ideal      (R,) grades of all relevant documents, falling
    """

    query_id: str
    query: str
    documents: NDArray[np.int32]
    grades: NDArray[np.float64]
    ideal: NDArray[np.float64]


def find_heads(
    recipe: AttentionHeadsRecipe,
    dataset: Dataset,
    output: Path,
    runtime: Runtime,
    *,
    command: str,
    force: bool,
    notify: Callable[[str], None],
) -> str:
    """Find heads, write their file, and say how they rank the queries that were held out.

    Raises UsageError where the data set has no judgements of the recipe's split, or too few queries that say something.
    """
    began, started = datetime.now(timezone.utc), perf_counter()
    if recipe.split not in dataset.splits:
        raise no_judgements(dataset, recipe.split)
    queries, dropped = judged_queries(dataset, recipe.split)
    pipeline = Pipeline.load(recipe.candidates.pipeline, corpus=dataset.corpus, runtime=runtime)
    pool = candidates(pipeline, queries, recipe.candidates.depth)
    tasks = _tasks(recipe, dataset, pool)
    out = round(len(tasks) * recipe.held_out)
    if len(tasks) - out < 2:
        raise UsageError(
            f"{len(tasks)} queries of split '{recipe.split}' have a relevant document and another one among their first "
            f"{recipe.candidates.depth} candidates, of which {out} are held out; at least two are needed to find heads with"
        )
    notify(f"{len(tasks):,} of {len(queries):,} judged queries of '{recipe.split}' are read, {out:,} of them held out")
    folder, scorer = _read(recipe, dataset, pool, tasks, runtime)
    layers, heads = scorer.shape
    features = [np.load(folder / f"{at}.npy", allow_pickle=False).astype(np.float64) for at in range(len(tasks))]
    chosen_on, held = slice(0, len(tasks) - out), slice(len(tasks) - out, len(tasks))
    taken = np.repeat(_taken(recipe, layers), heads)
    scores, weights, told = _weights(recipe, tasks[chosen_on], features[chosen_on], taken)
    measured = _measured(tasks[held], features[held], weights) if out else None
    content = {
        "format": HEADS_FORMAT,
        "method": recipe.method,
        "seed": recipe.seed,
        "model": {"reference": recipe.model, "weights": scorer.weights, "layers": layers, "heads": heads},
        "heads": [
            {
                "layer": int(at) // heads,
                "head": int(at) % heads,
                "weight": float(weights[at]),
                "score": float(scores[at]),
            }
            for at in sorted(np.flatnonzero(weights), key=lambda at: (-abs(weights[at]), -scores[at], at))
        ],
        "scores": np.round(scores, 6).reshape(layers, heads).tolist(),
        **told,
        "data": {
            "name": dataset.name,
            "split": recipe.split,
            "corpus": dataset.corpus.digest,
            "queries": queries_digest(dataset.queries(recipe.split)),
            "qrels": qrels_digest(dataset.qrels(recipe.split)),
            "dropped_recurring": dropped,
            "chosen_on": [task.query_id for task in tasks[chosen_on]],
            "held_out": [task.query_id for task in tasks[held]],
        },
        "measured": measured,
    }
    manifest = {
        "command": command,
        "recipe": recipe.described(),
        "versions": versions(),
        "machine": machine(),
        "seconds": round(perf_counter() - started, 1),
        "started": began.isoformat(timespec="seconds"),
    }
    with replacing_folder(output, force=force) as place:
        for name, told in (("heads", content), ("manifest", manifest)):
            (place / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    kept = f"{len(content['heads'])} of {layers * heads} heads"
    if measured is None:
        return kept
    return (
        f"{kept}; nDCG@10 of {out} queries held out: candidates {measured['candidates']:.4f}, all heads "
        f"{measured['all']:.4f}, these heads {measured['chosen']:.4f}"
    )


def _tasks(recipe: AttentionHeadsRecipe, dataset: Dataset, pool: Pool) -> list[_Task]:
    """Queries in the order in which they are drawn, that have a relevant document and another one to tell apart."""
    qrels = dataset.qrels(recipe.split)
    found: list[_Task] = []
    for row in np.random.default_rng([recipe.seed, 11]).permutation(len(pool.queries)).tolist():
        query_id = pool.queries.ids[row]
        judged = {doc_id: float(grade) for doc_id, grade in qrels.get(query_id, {}).items() if grade > 0}
        documents, _ = pool.of(row)
        grades = np.array([judged.get(doc_id, 0.0) for doc_id in dataset.corpus.ids(documents)])
        if (grades > 0).any() and (grades == 0).any():
            ideal = np.sort(np.array(list(judged.values())))[::-1]
            one = _Task(
                query_id=query_id, query=pool.queries.texts[row], documents=documents, grades=grades, ideal=ideal
            )
            found.append(one)
        if len(found) == recipe.queries:
            break
    return found


def _read(
    recipe: AttentionHeadsRecipe, dataset: Dataset, pool: Pool, tasks: Sequence[_Task], runtime: Runtime
) -> tuple[Path, AttentionScorer]:
    """Folder of (3, N, L * H) float32 for every task, by KINDS, and the open model."""
    settings = AttentionSettings(prompt=recipe.prompt, filter_sigma=None)
    scorer = AttentionScorer(recipe.model, settings, runtime)
    key = {
        "format": FORMAT,
        "reading": scorer.key(),
        "filter_sigma": recipe.filter_sigma,
        "corpus": dataset.corpus.digest,
        "candidates": pool.digest,
        "tasks": [task.query_id for task in tasks],
        "texts": [recipe.max_words, list(recipe.fields)],
        "order": [recipe.order, recipe.seed if recipe.order == "random" else None],
    }

    def make(folder: Path) -> None:
        done = [at for at in range(len(tasks)) if (folder / f"{at}.npy").is_file()]
        with counted(len(tasks), "queries", done=len(done)) as advance:
            for at, task in enumerate(tasks):
                if at not in done:
                    npy.save(folder / f"{at}.npy", _features(recipe, dataset, scorer, task, at))
                    advance(1)

    return resumable("attention-heads", key, make), scorer


def _features(
    recipe: AttentionHeadsRecipe, dataset: Dataset, scorer: AttentionScorer, task: _Task, at: int
) -> NDArray[np.float32]:
    """(3, N, L * H) what every head attends to in every document, by KINDS."""
    count = len(task.documents)
    order = np.arange(count)[::-1]
    if recipe.order == "random":
        order = np.random.default_rng([recipe.seed, 13, at]).permutation(count)
    texts, _ = read_texts(dataset.corpus, task.documents[order], recipe.fields, recipe.max_words)
    listed = scorer.listed(texts)
    whose = f"query {task.query_id!r}"
    if scorer.most_documents(listed, task.query) < count:
        raise UsageError(
            f"{whose}: {count} candidates make a prompt of {scorer.tokens(listed, task.query):,} tokens, and the model "
            f"reads {scorer.limit:,}; choose a smaller max_words ({recipe.max_words}) or depth"
        )
    scorer.check_memory(scorer.tokens(listed, task.query), whose)
    raw, calibrated = scorer.attention(scorer.read(listed), task.query)
    found = np.empty((len(KINDS), count, scorer.shape[0] * scorer.shape[1]), np.float32)
    kinds = ((calibrated, recipe.filter_sigma), (calibrated, None), (raw, None))
    for place, (rows, sigma) in enumerate(kinds):
        tokens = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
        found[place, order] = document_scores(tokens, listed.begins, listed.ends, sigma=sigma).T
    return found


def _examples(tasks: Sequence[_Task], features: Sequence[NDArray[np.float64]], kind: str) -> list[Example]:
    place = KINDS.index(kind)
    return [Example(one[place], task.grades, task.ideal) for task, one in zip(tasks, features, strict=True)]


def _taken(recipe: AttentionHeadsRecipe, layers: int) -> NDArray[np.bool_]:
    """(L,) layers that heads are taken from. Raises UsageError for those that the model lacks."""
    first, last = recipe.layers or (0, layers - 1)
    if last >= layers:
        raise UsageError(f"layers is [{first}, {last}]; the model has the layers 0 to {layers - 1}")
    places = np.arange(layers)
    return (first <= places) & (places <= last)


def _weights(
    recipe: AttentionHeadsRecipe,
    tasks: Sequence[_Task],
    features: Sequence[NDArray[np.float64]],
    taken: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, Any]]:
    """(F,) scores and (F,) weights of the heads, and what else the file says of them.

    taken  (F,) heads that may have a weight
    """
    weights = np.zeros(len(taken))
    if recipe.method == "logistic":
        scores = retrieval_scores(_examples(tasks, features, "filtered"))
        allowed = [one._replace(features=one.features[:, taken]) for one in _examples(tasks, features, "calibrated")]
        found = logistic_weights(allowed, recipe.seed)
        if not found.weights.any():
            raise UsageError(
                "the regression finds no head that tells relevant documents from others; take 'method: qr'"
            )
        weights[taken] = found.weights
        by_share = {str(share): round(value, 6) for share, value in found.by_share.items()}
        return scores, weights, {"penalty": {"share": found.share, "nDCG@10": by_share}}
    if recipe.method == "core":
        scores = contrastive_scores(_examples(tasks, features, "raw"), recipe.temperature)
    else:
        scores = retrieval_scores(_examples(tasks, features, "filtered"))
    best = np.argsort(-np.where(taken, scores, -np.inf), kind="stable")[: min(recipe.kept, int(taken.sum()))]
    weights[best] = 1.0
    return scores, weights, {}


def _measured(
    tasks: Sequence[_Task], features: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]
) -> dict[str, float]:
    """Mean nDCG@10 of the candidates as they were, and by the calibrated sums over all heads and over the chosen ones."""
    values = []
    for one in _examples(tasks, features, "calibrated"):
        columns = (-np.arange(len(one.grades), dtype=float), one.features.sum(1), one.features @ weights)
        values.append(ndcg(np.stack(columns, axis=1), one.grades, one.ideal))
    first, everything, chosen = np.mean(values, axis=0).tolist()
    return {"candidates": first, "all": everything, "chosen": chosen}
