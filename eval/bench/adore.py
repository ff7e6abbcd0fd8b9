"""What a step of ADORE costs: the share of searching, and a loop that encodes the documents it found anew.

    RANKPIPE_DATA=folder python eval/bench/adore.py [--dataset nfcorpus] [--repeats 5]

Both take the same queries in turn, in one process, with all of the step: encoding, exact search, loss, gradients, AdamW.
ADORE takes the vectors of 200 documents a query, as they stand; the other loop encodes only the first eight, without
gradients, which is little beside what it is to have. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import interleaved
from numpy.typing import NDArray
from torch import Tensor, nn

from rankpipe import Dataset, Runtime
from rankpipe.index.dense import Nearest
from rankpipe.models.network import device_of, dtype_of, thread_limit
from rankpipe.models.references import resolve
from rankpipe.training.encoder_recipe import Adore, QueryEncoderRecipe
from rankpipe.training.means import Means
from rankpipe.training.query_encoder_training import QueryEncoderTraining, gather_queries

STEPS = 4


class Timed:
    """An index whose searches are timed."""

    def __init__(self, index: Any) -> None:
        self._index, self.seconds = index, 0.0

    def search(self, *given: Any, **named: Any) -> Nearest:
        start = time.perf_counter()
        found = self._index.search(*given, **named)
        self.seconds += time.perf_counter() - start
        return found


class Anew(QueryEncoderTraining):
    """The same, but for the documents' vectors: they are computed at every step."""

    def _documents(self, places: NDArray[np.int64]) -> Tensor:
        rows, which = np.unique(self._vectors.rows[places.reshape(-1)], return_inverse=True)
        encoders = self._encoders
        with torch.no_grad():
            vectors = encoders.vectors(encoders.documents(self._dataset.corpus, rows, self._recipe.fields))
        return vectors[torch.from_numpy(which.reshape(-1))].view(*places.shape, -1)


class Loop:
    """Steps of a training of one phase."""

    def __init__(self, kind: type[QueryEncoderTraining], depth: int, dataset: Dataset, options: Any) -> None:
        phase = Adore(depth=depth, batch=options.batch, steps=STEPS, learning_rate=5e-6)
        recipe = QueryEncoderRecipe(model="minilm", max_length=options.max_length, phases=(phase,))
        queries = gather_queries(recipe, dataset, notify=lambda _: None)
        vectors = recipe.dense(k=depth).all_vectors(dataset.corpus)
        device = device_of(options.runtime)
        self._training = kind(
            recipe,
            dataset,
            queries,
            vectors,
            Path(resolve("minilm")),
            Means(
                device=device,
                dtype=dtype_of(options.runtime, device),
                batch_tokens=None,
                threads=options.runtime.thread_count,
            ),
        )
        indexes = self._training._indexes
        self.index = Timed(indexes[phase.index])
        indexes[phase.index] = self.index
        (self._phase,) = self._training.plan().phases
        self._parameters = [one for one in self._training.trained.network.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=5e-6, fused=device.type in ("cpu", "cuda"))
        self._training.trained.network.train()

    def run(self) -> None:
        for step in range(1, STEPS + 1):
            self._phase.backward(step)
            nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="nfcorpus")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--anew", type=int, default=8, help="documents of a query that the other loop encodes")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    options.runtime = Runtime()
    dataset = Dataset.load(options.dataset)
    with options.runtime.active(), thread_limit(options.runtime.thread_count):
        adore = Loop(QueryEncoderTraining, 200, dataset, options)
        anew = Loop(Anew, options.anew, dataset, options)
        seconds = interleaved({"adore": adore.run, "anew": anew.run}, options.repeats)
    ratio = statistics.median(b / a for a, b in zip(seconds["adore"], seconds["anew"], strict=True))
    share = adore.index.seconds / (sum(seconds["adore"]) * (options.repeats + 1) / options.repeats)
    result = {
        "dataset": options.dataset,
        "documents": dataset.corpus.size,
        "batch": options.batch,
        "encoded_anew": options.anew,
        "steps_per_second": {name: round(STEPS / min(values), 3) for name, values in seconds.items()},
        "ratio": round(ratio, 2),
        "share_of_search": round(share, 3),
    }
    print(f"ADORE {result['steps_per_second']['adore']} steps/s, of which search takes {100 * share:.1f} %")
    print(f"the first {options.anew} documents of a query encoded anew: {result['steps_per_second']['anew']} steps/s")
    print(f"ADORE takes {ratio:.1f} times as many steps a second")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
