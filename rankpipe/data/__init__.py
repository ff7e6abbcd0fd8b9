"""Data: documents, queries, judgements, where they come from."""

from rankpipe.data.corpus import Corpus
from rankpipe.data.dataset import Dataset
from rankpipe.data.qrels import Qrels
from rankpipe.data.queries import Queries

__all__ = ["Corpus", "Dataset", "Qrels", "Queries"]
