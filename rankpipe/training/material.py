"""What a recipe trains on and is judged by, drawn from a data set: groups for every phase, queries held back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus, Dataset, Qrels, Queries
from rankpipe.errors import UsageError
from rankpipe.pipeline import Pipeline
from rankpipe.pipeline.order import CANDIDATES
from rankpipe.run import Run
from rankpipe.training import queries as drawing
from rankpipe.training.batches import Batches
from rankpipe.training.candidates import Pool, candidates, no_candidates
from rankpipe.training.click_lists import ClickBatches, click_lists, in_words, nothing_judged, trainable
from rankpipe.training.click_log import read_click_log
from rankpipe.training.click_phases import TextClicks
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.encoder_recipe import BiEncoderRecipe, Contrastive, Guard
from rankpipe.training.examples import Group, Groups, JudgedGroups, Shape, TaughtGroups
from rankpipe.training.group_phases import Distil, Labels
from rankpipe.training.negatives import TABLE, Guarding, Judged, Mined, OwnScores, mined_split, scored_by
from rankpipe.training.recipe import Phase
from rankpipe.training.rewriting import TABLE as REWRITES
from rankpipe.training.rewriting import Rewrites, check_prompt, rewrite_queries

DRAW = {"titles": drawing.titles, "sentences": drawing.sentences}

OFTEN = 20
"""Times that a judged query is trained on, beyond which a line says so."""

Drawn = Groups | Batches | ClickBatches
"""What the steps of a phase are drawn from."""

Taught = dict[str, tuple[Pool, NDArray[np.int32]]]
"""Pools by their sources, each with the documents that its queries were taken from."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that is drawn from a data set.

    groups    of every phase; batches, of one that learns from whole batches or from clicks
    mined     what became of every candidate of the judged queries; None where no phase learns from judgements
    rewrites  what became of the judged queries themselves; None where they are as they were
    run       candidates of the queries that development is measured on, with their judgements; None without judgements
    held      groups that the loss is measured on where there are no judgements
    account   what was drawn and what was left out, as JSON takes it
    """

    groups: list[Drawn]
    mined: Mined | None
    rewrites: Rewrites | None
    run: Run | None
    qrels: Qrels | None
    held: list[Group]
    account: dict[str, Any]

    def write_tables(self, folder: Path, corpus: Corpus) -> dict[str, Any]:
        """Write what became of every candidate and every rewritten query into a folder; what the manifest should say."""
        if self.mined is not None:
            self.mined.write_table(folder / TABLE, corpus)
        if self.rewrites is None:
            return {}
        self.rewrites.write_table(folder / REWRITES, corpus)
        return {"rewriting": dict(self.rewrites.counts)}


def gather(
    recipe: CrossEncoderRecipe | BiEncoderRecipe,
    dataset: Dataset,
    pipeline: Pipeline,
    *,
    notify: Callable[[str], None],
) -> Material:
    """Draw everything; candidates are in the store afterwards. `pipeline` is bound to the data set's corpus.

    Raises UsageError where the recipe asks for judgements that the data set does not have, DataError for a log that is
    wrong.
    """
    return _Gathering(recipe, dataset, pipeline, notify).all()


@dataclass
class _Gathering:
    recipe: CrossEncoderRecipe | BiEncoderRecipe
    dataset: Dataset
    pipeline: Pipeline
    notify: Callable[[str], None]
    account: dict[str, Any] = field(default_factory=dict)
    mined: Mined | None = None
    rewrites: Rewrites | None = None
    judged: list[Judged] = field(default_factory=list)

    def all(self) -> Material:
        """Everything, the cheap things that can fail first."""
        recipe, dataset = self.recipe, self.dataset
        if recipe.rewrite is not None:
            check_prompt(recipe.rewrite)
        train, development = drawing.train_and_development(
            recipe, dataset, self.account, needed=any(_judges(phase) for phase in recipe.planned)
        )
        logs = self._logs(development)
        avoid = drawing.other_texts(dataset, recipe.split)
        if development is not None:
            self.account["development"]["depth"] = recipe.development_depth
            avoid |= {drawing.plain_text(text) for text in development.texts}
        pool = None
        if train is not None:
            enough = self._enough(train)
            pool = self._pool(enough) if any(map(_takes_candidates, recipe.planned)) else no_candidates(enough)
        groups: list[Drawn] = []
        held: list[Group] = []
        for number, phase in enumerate(recipe.planned):
            seed = (recipe.seed, number)
            if number in logs:
                groups.append(logs[number])
            elif isinstance(phase, Contrastive):
                groups.append(self._contrastive(phase, seed, self._judged(pool, avoid)))
            elif isinstance(phase, Labels):
                groups.append(self._labels(phase, self._shape(phase, seed), self._judged(pool, avoid)))
            elif isinstance(phase, Distil):
                shape = self._shape(phase, seed)
                pools, kept_back = self._taught(phase, number, pool, avoid, hold=development is None)
                groups.append(self._distil(pools, shape))
                if kept_back and not held:
                    held = self._held(kept_back, shape)
                avoid |= {drawing.plain_text(text) for back, _ in kept_back.values() for text in back.queries.texts}
        self.account["phases"] = [one.account() for one in groups]
        self._tell()
        run = qrels = None
        if development is not None:
            judged_by = self._pool(development)
            self.account["development"]["candidates"] = judged_by.digest
            run = judged_by.run(self.pipeline, recipe.development_depth)
            qrels = drawing.qrels_of(development, dataset, self.account["development"]["split"])
        return Material(
            groups=groups,
            mined=self.mined,
            rewrites=self.rewrites,
            run=run,
            qrels=qrels,
            held=held,
            account=self.account,
        )

    def _logs(self, development: Queries | None) -> dict[int, ClickBatches]:
        """Lists that were clicked, of phases that learn from a log, by the phases' numbers."""
        recipe, dataset, found = self.recipe, self.dataset, {}
        for number, phase in enumerate(recipe.planned):
            if isinstance(phase, TextClicks):
                if development is None:
                    raise nothing_judged(dataset)
                log = read_click_log(phase.log, dataset.queries(None), dataset.corpus)
                lists = click_lists(phase, log, trainable(dataset, recipe.split, development), dataset.corpus)
                found[number] = ClickBatches(lists, phase.batch, (recipe.seed, number), recipe.subset)
        return found

    def _shape(self, phase: Labels | Distil, seed: tuple[int, int]) -> Shape:
        return Shape(batch=phase.batch, size=phase.group, random=phase.random, seed=seed, subset=self.recipe.subset)

    def _enough(self, train: Queries) -> Queries:
        """Judged queries, so many as the phases can take at most: a pipeline runs over no more of them."""
        needed = 0
        for phase in self.recipe.planned:
            groups = phase.steps * phase.batch
            if _judges(phase):
                needed = max(needed, groups)
            elif isinstance(phase, Distil) and "judged" in phase.queries:
                needed = max(needed, math.ceil(groups / len(phase.queries)))
        if len(train) <= needed or self.recipe.subset is not None:
            return train
        self.account["judged"]["left_over"] = len(train) - needed
        return train.select(drawing.drawn(len(train), needed, (self.recipe.seed, 8)))

    def _pool(self, queries: Queries) -> Pool:
        return candidates(self.pipeline, queries, self.recipe.candidates.depth)

    def _labels(self, phase: Labels, shape: Shape, judged: list[Judged]) -> JudgedGroups:
        only_found = phase.relevant == "candidates"
        return JudgedGroups(judged, self.dataset.corpus, shape, phase.positives, only_found=only_found)

    def _contrastive(self, phase: Contrastive, seed: tuple[int, int], judged: list[Judged]) -> Batches:
        return Batches(
            judged,
            self.dataset.corpus,
            batch=phase.batch,
            hard=phase.hard,
            random=phase.random,
            in_batch=phase.in_batch,
            seed=seed,
            subset=self.recipe.subset,
        )

    def _judged(self, pool: Pool | None, avoid: set[str]) -> list[Judged]:
        """Judged queries to train with, rewritten once for all phases where the recipe says so.

        avoid  queries of other splits, as plain_text has them
        """
        found, rewrite = self._mined(pool).judged, self.recipe.rewrite
        if rewrite is None:
            return found
        if self.rewrites is None:
            self.rewrites = rewrite_queries(
                rewrite,
                found,
                self.dataset.corpus,
                fields=self.recipe.fields,
                queries=self.dataset.queries(self.recipe.split).texts,
                elsewhere=avoid,
            )
            self.account["judged"]["rewrites"] = self.rewrites.account()
            self.judged = self.rewrites.of(found)
        return self.judged

    def _mined(self, pool: Pool | None) -> Mined:
        """What the judged queries' candidates are, decided once for all phases."""
        if self.mined is not None:
            return self.mined
        dataset, split = self.dataset, self.recipe.split
        if pool is None:
            raise drawing.no_judgements(dataset, split)
        guard = getattr(self.recipe.candidates, "guard", None)
        guarding = None if guard is None else self._guard(guard, pool, dataset.qrels(split))
        self.mined = found = mined_split(pool, dataset, split, guarding)
        self.account["judged"].update(
            candidates=pool.digest, candidates_by_fate=found.counts(), without_relevant=found.unused
        )
        if guard is not None:
            self.account["judged"].update(unguarded=found.unguarded, guard=getattr(found.guard, "digest", "own scores"))
        return found

    def _guard(self, guard: Guard, pool: Pool, qrels: Qrels) -> Guarding:
        if guard.pipeline is None:
            return OwnScores(pool, guard.margin)
        dataset = self.dataset
        pipeline = Pipeline.load(guard.pipeline, corpus=dataset.corpus, runtime=self.pipeline.runtime, given=CANDIDATES)
        cut = dataset.card.relevance_cut
        return scored_by(pipeline, pool, qrels, dataset.corpus, relevance_cut=cut, margin=guard.margin)

    def _taught(
        self, phase: Distil, number: int, pool: Pool | None, avoid: set[str], *, hold: bool
    ) -> tuple[Taught, Taught]:
        """Pools of a phase by source, and with `hold` those of queries that are kept back from it."""
        recipe = self.recipe
        train: Taught = {}
        back: Taught = {}
        # of a subset, the turns take a part of these
        count = math.ceil(recipe.phases[number].steps * phase.batch / len(phase.queries))
        drawn_sources = sum(source != "judged" for source in phase.queries)
        for source in phase.queries:
            if source == "judged":
                if pool is None:
                    self.notify(f"there are no judged queries in '{recipe.split}'; documents give all of them")
                else:
                    # a document with the query's id is the query itself, where the card says so
                    itself = self.dataset.card.self_match
                    own = self.dataset.corpus.rows(pool.queries.ids) if itself else np.full(len(pool.queries), -1)
                    train[source] = pool, own.astype(np.int32)
                continue
            kept_back = math.ceil(recipe.development.queries / drawn_sources) if hold else 0
            apart = list(back.values())
            if hold:  # what is kept back of this source is none of what others train on, either
                apart += [one for name, one in train.items() if name != "judged"]
            others = {drawing.plain_text(text) for one, _ in apart for text in one.queries.texts}
            found = DRAW[source](self.dataset.corpus, count + kept_back, recipe.seed + number, avoid | others)
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
        return TaughtGroups(pools, self.dataset.corpus, replace(shape, seed=(*shape.seed, 1), subset=None)).each()

    def _tell(self) -> None:
        """Say in a few lines what there is."""
        judged = self.account.get("judged")
        if judged and judged["queries"] > judged.get("left_over", 0):  # not where no phase takes any
            dropped = len(judged["dropped_recurring"])
            also = f"; {dropped} dropped because their text is a query of another split" if dropped else ""
            self.notify(f"{judged['queries']:,} judged queries of '{judged['split']}'{also}")
        if self.rewrites is not None:
            self.notify(self.rewrites.told())
        for phase, account in zip(self.recipe.planned, self.account["phases"], strict=True):
            name = self.recipe.kind_of(phase)
            if isinstance(phase, Distil):
                parts = ", ".join(f"{one['queries']:,} {source}" for source, one in account["sources"].items())
                self.notify(f"{name}: queries: {parts}")
            elif isinstance(phase, TextClicks):
                self.notify(f"{name}: {in_words(account)}")
            else:
                self.notify(
                    f"{name}: {account['queries']:,} queries, {account['relevant']:,} relevant documents, "
                    f"{account['hard_negatives']:,} hard negatives to draw from"
                )
                used = account["queries"]
                if (subset := self.recipe.subset) is not None and subset.kind == "fixed":
                    used = math.ceil(subset.ratio * used)
                if (times := phase.steps * min(phase.batch, used) / used) > OFTEN:
                    self.notify(
                        f"{name}: every query is trained on {times:.0f} times; so few are learnt by heart: judge more, or "
                        "choose fewer steps"
                    )


def _judges(phase: Phase) -> bool:
    """Whether a phase learns from judgements."""
    return isinstance(phase, (Labels, Contrastive))


def _takes_candidates(phase: Phase) -> bool:
    """Whether a phase takes candidates of judged queries, or only their judgements."""
    return phase.hard > 0 if isinstance(phase, Contrastive) else isinstance(phase, (Labels, Distil))
