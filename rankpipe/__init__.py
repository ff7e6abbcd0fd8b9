"""Search systems as pipelines of stages, written in YAML, trained and measured.

Everything below is imported on first use, so that `import rankpipe` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from rankpipe.data import Corpus, Dataset, Qrels, Queries
    from rankpipe.errors import RankpipeError
    from rankpipe.evaluation import compare, evaluate
    from rankpipe.models.runtime import Runtime
    from rankpipe.pipeline import Pipeline
    from rankpipe.pipeline.registry import register
    from rankpipe.run import Run
    from rankpipe.stage import Chain, Stage
    from rankpipe.stages.attention import Attention
    from rankpipe.stages.bm25 import BM25
    from rankpipe.stages.cross_encoder import CrossEncoder
    from rankpipe.stages.cut import Cut
    from rankpipe.stages.dense import Dense
    from rankpipe.stages.expansion import Keywords, Original, Query2doc
    from rankpipe.stages.features import Features
    from rankpipe.stages.feedback import RM3, Bo1, Rocchio
    from rankpipe.stages.fuse import Fuse
    from rankpipe.stages.hyde import Hyde
    from rankpipe.stages.interpolate import Interpolate
    from rankpipe.stages.learned import Learned
    from rankpipe.stages.likelihood import Likelihood
    from rankpipe.stages.listwise import Listwise
    from rankpipe.stages.multi_query import MultiQuery
    from rankpipe.stages.pointwise import Pointwise
    from rankpipe.stages.rescore import Rescore
    from rankpipe.stages.run_file import RunFile
    from rankpipe.stages.setwise import Setwise
    from rankpipe.stages.sparse import Sparse
    from rankpipe.stages.vector_feedback import VectorFeedback

_MODULES = {
    "RM3": "rankpipe.stages.feedback",
    "Attention": "rankpipe.stages.attention",
    "BM25": "rankpipe.stages.bm25",
    "Bo1": "rankpipe.stages.feedback",
    "Chain": "rankpipe.stage",
    "Corpus": "rankpipe.data",
    "CrossEncoder": "rankpipe.stages.cross_encoder",
    "Cut": "rankpipe.stages.cut",
    "Dataset": "rankpipe.data",
    "Dense": "rankpipe.stages.dense",
    "Features": "rankpipe.stages.features",
    "Fuse": "rankpipe.stages.fuse",
    "Hyde": "rankpipe.stages.hyde",
    "Interpolate": "rankpipe.stages.interpolate",
    "Keywords": "rankpipe.stages.expansion",
    "Learned": "rankpipe.stages.learned",
    "Likelihood": "rankpipe.stages.likelihood",
    "Listwise": "rankpipe.stages.listwise",
    "MultiQuery": "rankpipe.stages.multi_query",
    "Original": "rankpipe.stages.expansion",
    "Pipeline": "rankpipe.pipeline",
    "Pointwise": "rankpipe.stages.pointwise",
    "Qrels": "rankpipe.data",
    "Queries": "rankpipe.data",
    "Query2doc": "rankpipe.stages.expansion",
    "RankpipeError": "rankpipe.errors",
    "Rescore": "rankpipe.stages.rescore",
    "Rocchio": "rankpipe.stages.feedback",
    "Run": "rankpipe.run",
    "RunFile": "rankpipe.stages.run_file",
    "Runtime": "rankpipe.models.runtime",
    "Setwise": "rankpipe.stages.setwise",
    "Sparse": "rankpipe.stages.sparse",
    "Stage": "rankpipe.stage",
    "VectorFeedback": "rankpipe.stages.vector_feedback",
    "compare": "rankpipe.evaluation",
    "evaluate": "rankpipe.evaluation",
    "register": "rankpipe.pipeline.registry",
}

__all__ = [
    "BM25",
    "RM3",
    "Attention",
    "Bo1",
    "Chain",
    "Corpus",
    "CrossEncoder",
    "Cut",
    "Dataset",
    "Dense",
    "Features",
    "Fuse",
    "Hyde",
    "Interpolate",
    "Keywords",
    "Learned",
    "Likelihood",
    "Listwise",
    "MultiQuery",
    "Original",
    "Pipeline",
    "Pointwise",
    "Qrels",
    "Queries",
    "Query2doc",
    "RankpipeError",
    "Rescore",
    "Rocchio",
    "Run",
    "RunFile",
    "Runtime",
    "Setwise",
    "Sparse",
    "Stage",
    "VectorFeedback",
    "__version__",
    "compare",
    "evaluate",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rankpipe' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
