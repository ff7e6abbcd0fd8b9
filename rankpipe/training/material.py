"""What a recipe trains on and is judged by, drawn from a data set: groups for every phase, queries held back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Dataset, Qrels, Queries
from rankpipe.errors import UsageError
from rankpipe.pipeline import Pipeline
from rankpipe.run import Run
from rankpipe.training import queries as drawing
from rankpipe.training.candidates import Pool, candidates
from rankpipe.training.examples import Group, Groups, JudgedGroups, Shape, TaughtGroups, mined
from rankpipe.training.recipe import CrossEncoderRecipe, Distil, Labels

DRAW = {"titles": drawing.titles, "sentences": drawing.sentences}

OFTEN = 20
"""Times that a judged query is trained on, beyond which a line says so."""

Taught = dict[str, tuple[Pool, NDArray[np.int32]]]
"""Pools by their sources, each with the documents that its queries were taken from."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that is drawn from a data set.

    groups   of every phase
    run      candidates of the queries that development is measured on, with their judgements; None without judgements
    held     groups that the loss is measured on where there are no judgements
    account  what was drawn and what was left out, as JSON takes it
    """

    groups: list[Groups]
    run: Run | None
    qrels: Qrels | None
    held: list[Group]
    account: dict[str, Any]


def gather(
    recipe: CrossEncoderRecipe, dataset: Dataset, pipeline: Pipeline, *, notify: Callable[[str], None]
) -> Material:
    """Draw everything; candidates are in the store afterwards. `pipeline` is bound to the data set's corpus.

    Raises UsageError where the recipe asks for judgements that the data set does not have.
    """
    return _Gathering(recipe, dataset, pipeline, notify).all()


@dataclass
class _Gathering:
    recipe: CrossEncoderRecipe
    dataset: Dataset
    pipeline: Pipeline
    notify: Callable[[str], None]
    account: dict[str, Any] = field(default_factory=dict)

    def all(self) -> Material:
        """Everything, the cheap things that can fail first."""
        recipe, dataset = self.recipe, self.dataset
        train, development = self._judged()
        avoid = drawing.other_texts(dataset, recipe.split)
        if development is not None:
            avoid |= {drawing.plain_text(text) for text in development.texts}
        pool = None if train is None else self._pool(self._enough(train))
        groups: list[Groups] = []
        held: list[Group] = []
        for number, phase in enumerate(recipe.phases):
            shape = Shape(batch=phase.batch, size=phase.group, random=phase.random, seed=(recipe.seed, number))
            if isinstance(phase, Labels):
                groups.append(self._labels(phase, shape, pool))
            elif isinstance(phase, Distil):
                pools, kept_back = self._taught(phase, number, pool, avoid, hold=development is None)
                groups.append(self._distil(pools, shape))
                if kept_back and not held:
                    held = self._held(kept_back, shape)
                avoid |= {drawing.plain_text(text) for back, _ in kept_back.values() for text in back.queries.texts}
        self.account["phases"] = [one.account() for one in groups]
        self._tell()
        if development is None:
            return Material(groups=groups, run=None, qrels=None, held=held, account=self.account)
        split = self.account["development"]["split"]
        run = self._pool(development).run(self.pipeline, recipe.reranked)
        wanted = set(development.ids)
        qrels = Qrels({query_id: one for query_id, one in dataset.qrels(split).items() if query_id in wanted})
        return Material(groups=groups, run=run, qrels=qrels, held=held, account=self.account)

    def _judged(self) -> tuple[Queries | None, Queries | None]:
        """Queries that are judged and train, and those that development is measured on; None where there are none."""
        recipe, dataset = self.recipe, self.dataset
        if recipe.split not in dataset.splits:
            if any(isinstance(phase, Labels) for phase in recipe.phases):
                raise self._no_judgements()
            if recipe.development.split is None and "dev" not in dataset.splits:
                self.account["development"] = {"held_out": "a share of the queries that were drawn from documents"}
                return None, None
        train = None
        if recipe.split in dataset.splits:
            train, dropped = drawing.judged_queries(dataset, recipe.split)
            self.account["judged"] = {"split": recipe.split, "queries": len(train), "dropped_recurring": dropped}
        split = recipe.development.split or ("dev" if "dev" in dataset.splits else recipe.split)
        if split == recipe.split and train is not None:
            train, development = drawing.held_out(train, recipe.development.held_out, recipe.seed)
            self.account["judged"]["queries"] = len(train)
            out = {}
        else:
            development, dropped = drawing.judged_queries(dataset, split, beside=recipe.split)
            out = {"dropped_recurring": dropped}
        if len(development) > recipe.development.queries:
            drawn = _drawn(len(development), recipe.development.queries, (recipe.seed, 7))
            development = development.select(drawn)
        self.account["development"] = {
            "split": split,
            "queries": len(development),
            "held_out": split == recipe.split,
            "depth": recipe.reranked,
            **out,
        }
        return train, development

    def _enough(self, train: Queries) -> Queries:
        """Judged queries, so many as the phases can take at most: a pipeline runs over no more of them."""
        needed = 0
        for phase in self.recipe.phases:
            groups = phase.steps * phase.batch
            if isinstance(phase, Labels):
                needed = max(needed, groups)
            elif isinstance(phase, Distil) and "judged" in phase.queries:
                needed = max(needed, math.ceil(groups / len(phase.queries)))
        if len(train) <= needed:
            return train
        self.account["judged"]["left_over"] = len(train) - needed
        return train.select(_drawn(len(train), needed, (self.recipe.seed, 8)))

    def _pool(self, queries: Queries) -> Pool:
        return candidates(self.pipeline, queries, self.recipe.candidates.depth)

    def _labels(self, phase: Labels, shape: Shape, pool: Pool | None) -> JudgedGroups:
        dataset, card = self.dataset, self.dataset.card
        if pool is None:
            raise self._no_judgements()
        found = mined(
            pool,
            dataset.qrels(self.recipe.split),
            dataset.corpus,
            relevance_cut=card.relevance_cut,
            self_match=card.self_match,
        )
        if not found.judged:
            raise UsageError(f"split '{self.recipe.split}' of data set '{dataset.name}' calls no document relevant")
        self.account["judged"].update(
            candidates=pool.digest, negatives_masked=found.masked, without_relevant=found.unused
        )
        return JudgedGroups(found.judged, dataset.corpus, shape, phase.positives)

    def _no_judgements(self) -> UsageError:
        there = ", ".join(self.dataset.splits)
        return UsageError(
            f"data set '{self.dataset.name}' has no split '{self.recipe.split}' that a phase 'labels' could be trained on; "
            f"{f'it has {there}' if there else 'it has no judgements at all'}. Phases 'distil' need none: see the recipe "
            "cross-encoder-distilled"
        )

    def _taught(
        self, phase: Distil, number: int, pool: Pool | None, avoid: set[str], *, hold: bool
    ) -> tuple[Taught, Taught]:
        """Pools of a phase by source, and with `hold` those of queries that are kept back from it."""
        recipe = self.recipe
        train: Taught = {}
        back: Taught = {}
        count = math.ceil(phase.steps * phase.batch / len(phase.queries))
        drawn_sources = sum(source != "judged" for source in phase.queries)
        for source in phase.queries:
            if source == "judged":
                if pool is None:
                    self.notify(f"there are no judged queries in '{recipe.split}'; documents give all of them")
                else:
                    train[source] = pool, np.full(len(pool.queries), -1, np.int32)
                continue
            kept_back = math.ceil(recipe.development.queries / drawn_sources) if hold else 0
            found = DRAW[source](self.dataset.corpus, count + kept_back, recipe.seed + number, avoid)
            if not len(found):
                self.notify(f"no document has {source} that can stand for queries")
                continue
            kept_back = min(kept_back, len(found) // 5)
            parts = found.parts(kept_back)
            train[source] = self._pool(parts[0].queries), parts[0].own
            if kept_back:
                back[source] = self._pool(parts[1].queries), parts[1].own
        return train, back

    def _distil(self, pools: Taught, shape: Shape) -> TaughtGroups:
        groups = TaughtGroups(pools, self.dataset.corpus, shape)
        if not len(groups):
            raise UsageError(f"data set '{self.dataset.name}' gives no queries that have candidates to learn from")
        return groups

    def _held(self, pools: Taught, shape: Shape) -> list[Group]:
        count = sum(len(pool.queries) for pool, _ in pools.values())
        whole = Shape(batch=count, size=shape.size, random=shape.random, seed=(*shape.seed, 1))
        groups = TaughtGroups(pools, self.dataset.corpus, whole)
        return groups.step(1) if len(groups) else []

    def _tell(self) -> None:
        """Say in a few lines what there is."""
        if judged := self.account.get("judged"):
            dropped = len(judged["dropped_recurring"])
            also = f"; {dropped} dropped because their text is a query of another split" if dropped else ""
            self.notify(f"{judged['queries']:,} judged queries of '{judged['split']}'{also}")
        for phase, account in zip(self.recipe.phases, self.account["phases"], strict=True):
            if isinstance(phase, Distil):
                parts = ", ".join(f"{one['queries']:,} {source}" for source, one in account["sources"].items())
                self.notify(f"distil: queries: {parts}")
            else:
                self.notify(
                    f"labels: {account['queries']:,} queries, {account['relevant']:,} relevant documents, "
                    f"{account['hard_negatives']:,} hard negatives to draw from"
                )
                if (times := phase.steps * phase.batch / account["queries"]) > OFTEN:
                    self.notify(
                        f"labels: every query is trained on {times:.0f} times; so few are learnt by heart: judge more, or "
                        "choose fewer steps"
                    )


def _drawn(count: int, wanted: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """Rows of `wanted` of `count` queries, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:wanted])
