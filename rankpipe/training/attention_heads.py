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
import math
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
from rankpipe.stages.generative import cut_to
from rankpipe.store import resumable
from rankpipe.training.attention_heads_recipe import AttentionHeadsRecipe
from rankpipe.training.candidates import Pool, candidates
from rankpipe.training.head_scores import Example, contrastive_scores, logistic_weights, ndcg, retrieval_scores
from rankpipe.training.queries import judged_queries, no_judgements, plain_text
from rankpipe.writing import replacing_folder

FORMAT = 1
"""Of what is kept of a prompt."""
KINDS = ("filtered", "calibrated", "raw")
"""What is kept of every document and head: the calibrated sum without outliers, with them, and the sum uncalibrated."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A query that is read.

    grades  (N,) of the documents, as they are ranked
    ideal   (R,) grades of all relevant documents, falling
    order   (N,) places of the documents in the ranking, in the order in which they are read
    texts   (N,) what is read of them, in that order
    """

    query_id: str
    query: str
    grades: NDArray[np.float64]
    ideal: NDArray[np.float64]
    order: NDArray[np.int64]
    texts: Sequence[str]


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
    scorer = AttentionScorer(recipe.model, AttentionSettings(prompt=recipe.prompt, filter_sigma=None), runtime)
    tasks, too_long = _tasks(recipe, dataset, pool, scorer)
    longer = f"; left out, being too long for the model whatever max_words is: {len(too_long):,}" if too_long else ""
    out = round(len(tasks) * recipe.held_out)
    chosen_on, held = _parted(tasks, out)
    if len(chosen_on) < 2:
        raise UsageError(
            f"{len(tasks)} queries of split '{recipe.split}' have a relevant document and another one among their first "
            f"{recipe.candidates.depth} candidates, of which {len(held)} are held out; at least two are needed to find "
            "heads with" + longer
        )
    notify(
        f"{len(tasks):,} of {len(queries):,} judged queries of '{recipe.split}' are read, {len(held):,} of them held out{longer}"
    )
    folder = _read(recipe, dataset, pool, tasks, scorer)
    layers, heads = scorer.shape
    features = [np.load(folder / f"{at}.npy", allow_pickle=False).astype(np.float64) for at in range(len(tasks))]
    taken = np.repeat(_taken(recipe, layers), heads)
    own, others = ([features[at] for at in part] for part in (chosen_on, held))
    scores, weights, told = _weights(recipe, [tasks[at] for at in chosen_on], own, taken)
    measured = _measured(recipe, [tasks[at] for at in held], others, weights) if held else None
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
            "dropped_too_long": too_long,
            "chosen_on": [tasks[at].query_id for at in chosen_on],
            "held_out": [tasks[at].query_id for at in held],
        },
        "measured": measured,
    }
    manifest = {
        "command": command,
        "recipe": recipe.described(),
        "queries": {
            "read": len(tasks),
            "held_out": len(held),
            "dropped_recurring": len(dropped),
            "dropped_too_long": len(too_long),
        },
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
        f"{measured['all']:.4f}, these heads {measured['chosen']:.4f} (by {measured['by']})"
    )


def _tasks(
    recipe: AttentionHeadsRecipe, dataset: Dataset, pool: Pool, scorer: AttentionScorer
) -> tuple[list[_Task], list[str]]:
    """Queries in the order in which they are drawn, that have a relevant document and another one to tell apart.

    And the ids of those that are left out: with a single word of each document, the model could not read their prompt.
    """
    qrels = dataset.qrels(recipe.split)
    found: list[_Task] = []
    too_long: list[str] = []
    for row in np.random.default_rng([recipe.seed, 11]).permutation(len(pool.queries)).tolist():
        query_id, query = pool.queries.ids[row], pool.queries.texts[row]
        judged = {doc_id: float(grade) for doc_id, grade in qrels.get(query_id, {}).items() if grade > 0}
        documents, _ = pool.of(row)
        if dataset.card.self_match:
            documents = documents[documents != dataset.corpus.rows([query_id])[0]]
        grades = np.array([judged.get(doc_id, 0.0) for doc_id in dataset.corpus.ids(documents)])
        if (grades > 0).any() and (grades == 0).any():
            ideal = np.sort(np.array(list(judged.values())))[::-1]
            order = np.arange(len(documents))[::-1]
            if recipe.order == "random":
                order = np.random.default_rng([recipe.seed, 13, len(found)]).permutation(len(documents))
            texts, _ = read_texts(dataset.corpus, documents[order], recipe.fields, recipe.max_words)
            shortest = scorer.listed([cut_to(text, 1)[0] for text in texts])
            if scorer.tokens(shortest, query) > (scorer.limit or math.inf):
                too_long.append(query_id)
            else:
                found.append(
                    _Task(query_id=query_id, query=query, grades=grades, ideal=ideal, order=order, texts=texts)
                )
        if len(found) == recipe.queries:
            break
    return found, too_long


def _parted(tasks: Sequence[_Task], out: int) -> tuple[list[int], list[int]]:
    """Places of the tasks that heads are chosen on, and of the last `out`, with those that have the text of one of these."""
    texts = [plain_text(task.query) for task in tasks]
    judged_by = set(texts[len(tasks) - out :])
    places = range(len(tasks))
    return [at for at in places if texts[at] not in judged_by], [at for at in places if texts[at] in judged_by]


def _read(
    recipe: AttentionHeadsRecipe, dataset: Dataset, pool: Pool, tasks: Sequence[_Task], scorer: AttentionScorer
) -> Path:
    """Folder of (3, N, L * H) float32 for every task, by KINDS."""
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
        left = [at for at in range(len(tasks)) if not (folder / f"{at}.npy").is_file()]
        if not left:
            return
        at_once = _at_once(recipe, [tasks[at] for at in left], scorer)
        with counted(len(tasks), "queries", done=len(tasks) - len(left)) as advance:
            for at, found in scorer.each(lambda at: _features(tasks[at], scorer, recipe.filter_sigma), left, at_once):
                npy.save(folder / f"{at}.npy", found)
                advance(1)

    return resumable("attention-heads", key, make)


def _at_once(recipe: AttentionHeadsRecipe, tasks: Sequence[_Task], scorer: AttentionScorer) -> int:
    """How many queries are read at once.

    Raises UsageError where a prompt is longer than the model reads, RankpipeError where it needs more memory than is free.
    """
    tokens, task = max(
        ((scorer.tokens(scorer.listed(task.texts), task.query), task) for task in tasks), key=lambda one: one[0]
    )
    whose = f"query {task.query_id!r}"
    if tokens > (scorer.limit or math.inf):
        raise UsageError(
            f"{whose}: {len(task.texts)} candidates make a prompt of {tokens:,} tokens, and the model reads "
            f"{scorer.limit:,}; choose a smaller max_words ({recipe.max_words}) or depth"
        )
    return scorer.at_once(tokens, whose)


def _features(task: _Task, scorer: AttentionScorer, sigma: float | None) -> NDArray[np.float32]:
    """(3, N, L * H) what every head attends to in every document, by KINDS.

    sigma  of the filter of outliers
    """
    listed = scorer.listed(task.texts)
    raw, calibrated = scorer.attention(scorer.read(listed), task.query)
    found = np.empty((len(KINDS), len(task.texts), scorer.shape[0] * scorer.shape[1]), np.float32)
    for place, (rows, taken) in enumerate(((calibrated, sigma), (calibrated, None), (raw, None))):
        tokens = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
        found[place, task.order] = document_scores(tokens, listed.begins, listed.ends, sigma=taken).T
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
    recipe: AttentionHeadsRecipe,
    tasks: Sequence[_Task],
    features: Sequence[NDArray[np.float64]],
    weights: NDArray[np.float64],
) -> dict[str, Any]:
    """Mean nDCG@10 of the candidates as they were, and by the calibrated sums over all heads and over the chosen ones.

    That is what the stage gives with `filter_sigma: null` where it reads in the recipe's order: the filter goes by the
    tokens' sums over the chosen heads, and of tokens nothing is kept.
    """
    values = []
    for one in _examples(tasks, features, "calibrated"):
        columns = (-np.arange(len(one.grades), dtype=float), one.features.sum(1), one.features @ weights)
        values.append(ndcg(np.stack(columns, axis=1), one.grades, one.ideal))
    first, everything, chosen = np.mean(values, axis=0).tolist()
    by = f"calibrated sums without filter_sigma, candidates in the order '{recipe.order}'"
    return {"by": by, "candidates": first, "all": everything, "chosen": chosen}
