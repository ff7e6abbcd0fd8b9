"""A ranker of trees: LightGBM's model in LightGBM's own text."""

from __future__ import annotations

import lightgbm
import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import ModelError
from rankpipe.models.runtime import current_runtime


class TreeRanker:
    """Scores of documents by F features each.

    text  the model, as LightGBM writes it
    """

    def __init__(self, text: str) -> None:
        """Raises ModelError for a text that LightGBM does not take for a model."""
        self.text = text
        try:
            self._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise ModelError(f"not a model of LightGBM: {error}") from None

    @property
    def features(self) -> int:
        """Number of features."""
        return self._booster.num_feature()

    @property
    def trees(self) -> int:
        """Number of trees."""
        return self._booster.num_trees()

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H,) scores of (H, F) features."""
        if not len(features):
            return np.zeros(0, np.float32)
        found = self._booster.predict(features, raw_score=True, num_threads=current_runtime().thread_count)
        return np.asarray(found, np.float32)
