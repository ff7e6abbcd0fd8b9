"""The recipes of encoders: of queries and documents together (STAR), and of queries alone (ADORE). No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import Strict, model_validator
from pydantic.dataclasses import dataclass

from rankpipe.models.recipe import PoolingMode, Similarity
from rankpipe.stage import SETTINGS, Reference, Several
from rankpipe.stages.dense import Dense
from rankpipe.stages.dense_index import DenseKind, Flat
from rankpipe.training.click_phases import TextClicks
from rankpipe.training.group_phases import Distil
from rankpipe.training.recipe import DEVELOPMENT_DEPTH, INNER, FromModel, Phase, Recipe
from rankpipe.training.rewrite import Rewrite


@dataclass(frozen=True, kw_only=True, config=INNER)
class Guard:
    """Against negatives that are relevant and not known to be: one that scores too high is none.

    margin    by how much it may be above the best relevant document of its query; below 0, it has to be so much lower
    pipeline  file, or name of a shipped one, of re-rankers that give the scores, such as a cross-encoder; None: the
              scores by which candidates were found
    """

    margin: Annotated[float, Strict()] = 0.0
    pipeline: Reference | None = None


@dataclass(frozen=True, kw_only=True, config=INNER)
class MinedCandidates:
    """Where hard negatives come from.

    pipeline  file, or name of a shipped one, whose ranking is mined; None: exact search by the model itself, before it
              is trained
    depth     candidates of a query, the first ones, that negatives are drawn from
    guard     which of them are too good to be negatives; None: all are good enough
    """

    pipeline: Reference | None = None
    depth: Annotated[int, Strict(), Ge(2)] = 200
    guard: Guard | None = None


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Contrastive(Phase):
    """Learn to tell a relevant document from others: hard ones, random ones, and those of the batch's other queries.

    batch      queries of a step
    hard       negatives of a query that are drawn from its candidates
    random     negatives of a query that are drawn from the whole corpus
    in_batch   whether the documents of the other queries are negatives, too, where they are not relevant
    loss       ranknet or softmax (InfoNCE), see rankpipe.training.batch_losses
    weighting  of ranknet. pooled: every pair the same; alpha: hard negatives of its own, and the mean of random pairs
               (random documents, relevant ones of the other queries) times `alpha`; None: 0.1

    STAR is one hard negative mined by the model, those of the batch, and ranknet: Zhan et al., SIGIR 2021, arXiv
    2104.08051.
    """

    batch: Annotated[int, Ge(1)] = 32
    hard: Annotated[int, Ge(0)] = 1
    random: Annotated[int, Ge(0)] = 0
    in_batch: bool = True
    loss: Literal["ranknet", "softmax"] = "ranknet"
    weighting: Literal["pooled", "alpha"] = "pooled"
    alpha: Annotated[float, Ge(0)] | None = None

    @model_validator(mode="after")
    def _compares(self) -> Contrastive:
        if not (self.hard or self.random or (self.in_batch and self.batch > 1)):
            raise ValueError("no document is a negative; 'hard' or 'random' must be above 0, or 'in_batch' true")
        if self.weighting == "alpha" and not (self.loss == "ranknet" and self.hard):
            raise ValueError("'weighting: alpha' is of 'loss: ranknet' with 'hard' above 0")
        if self.alpha is not None and self.weighting != "alpha":
            raise ValueError("'alpha' is of 'weighting: alpha'")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Adore(Phase):
    """Learn from what is found at this very step: queries are searched, and only their encoder is trained.

    batch    queries of a step
    depth    documents of a query that are found; where none of them is relevant, all relevant ones are put behind them
    gain     what swapping two documents would change, by which a pair weighs: mrr, ndcg; see
             rankpipe.training.losses.delta_ranknet. None: every pair the same
    cutoff   rank beyond which documents do not count in it; None: `depth`
    margin   a document that is not known to be relevant and scores so much above the best relevant one is left out;
             None: none is
    search_with_dropout  whether the vectors that are searched with have their dropout, as the authors' have, which
             disturbs what is found
    index    documents are found with; {kind: flat} is exact. Development always searches exactly

    ADORE: Zhan et al., SIGIR 2021, arXiv 2104.08051.
    """

    batch: Annotated[int, Ge(1)] = 32
    depth: Annotated[int, Ge(2)] = 200
    gain: Literal["mrr", "ndcg"] | None = "mrr"
    cutoff: Annotated[int, Ge(1)] | None = None
    margin: float | None = None
    search_with_dropout: bool = False
    index: DenseKind = Flat()

    @model_validator(mode="after")
    def _weighs(self) -> Adore:
        if self.gain is None and self.cutoff is not None:
            raise ValueError("'cutoff' is of a 'gain'; without one, every pair weighs the same")
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class EncoderRecipe(Recipe, FromModel):
    """What is said of an encoder whichever way it is trained; None is what the model's folder says.

    model            any encoder of sentence-transformers or Hugging Face
    max_length       tokens of a text that are read; what is longer is cut
    fields           of a document, joined by a blank, that are read
    query_prompt     stands before every query; "" for none
    document_prompt  stands before every document; "" for none
    pooling          how the tokens' vectors become one
    similarity       "cosine" or "dot"
    temperature      similarities are divided by it before any loss; None: 0.05 where vectors have length 1, else 1
    dropout          share of the activations that training drops, whatever the model's configuration says
    """

    max_length: Annotated[int, Ge(8)] | None = None
    fields: Annotated[Several[str], MinLen(1)] = ("title", "text")
    query_prompt: str | None = None
    document_prompt: str | None = None
    pooling: PoolingMode | None = None
    similarity: Similarity | None = None
    temperature: Annotated[float, Gt(0)] | None = None
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def dense(self, *, k: int, index: DenseKind | None = None) -> Dense:
        """The stage that searches with the model as it is before training."""
        return Dense(
            model=self.model,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            pooling=self.pooling,
            similarity=self.similarity,
            max_length=self.max_length,
            fields=self.fields,
            k=k,
            index=index or Flat(),
        )


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class BiEncoderRecipe(EncoderRecipe):
    """A bi-encoder: queries and documents as vectors. One network for both, unless the model's folder has two.

    candidates  what hard negatives and teacher scores come from, and what development searches in
    rewrite     how queries are put in other words for the phases that learn from judgements; None: they are not
    """

    name: ClassVar[str] = "bi-encoder"
    phase_kinds: ClassVar[Mapping[str, type[Phase]]] = {
        "contrastive": Contrastive,
        "distil": Distil,
        "clicks": TextClicks,
    }

    candidates: MinedCandidates = MinedCandidates()
    rewrite: Rewrite | None = None

    @property
    def development_depth(self) -> int:
        """Candidates of a development query that are among what development searches in."""
        return self.development.depth or min(DEVELOPMENT_DEPTH, self.candidates.depth)

    @model_validator(mode="after")
    def _reaches(self) -> BiEncoderRecipe:
        contrastive = [phase for phase in self.phases if isinstance(phase, Contrastive)]
        if self.candidates.guard and contrastive and not any(phase.hard for phase in contrastive):
            raise ValueError("'guard' is of hard negatives, and no phase draws any")
        if self.rewrite and not contrastive:
            raise ValueError("'rewrite' is of queries that are judged, and no phase is 'contrastive'")
        if (self.development.depth or 0) > self.candidates.depth:
            raise ValueError(
                f"'development' takes {self.development.depth} candidates of a query, and there are "
                f"{self.candidates.depth} ('candidates', 'depth')"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class QueryEncoderRecipe(EncoderRecipe):
    """The query encoder of a bi-encoder, to be searched with in the vectors that its documents have."""

    name: ClassVar[str] = "query-encoder"
    phase_kinds: ClassVar[Mapping[str, type[Phase]]] = {"adore": Adore}

    @property
    def adore(self) -> tuple[Adore, ...]:
        """The phases as they are run."""
        return tuple(phase for phase in self.planned if isinstance(phase, Adore))

    @model_validator(mode="after")
    def _searches(self) -> QueryEncoderRecipe:
        if other := [phase for phase in self.phases if not isinstance(phase, Adore)]:
            raise ValueError(f"a query encoder has no phase {type(other[0]).__name__}")
        if self.development.depth is not None:
            raise ValueError("'development' has no 'depth' here: it searches in all documents")
        return self
