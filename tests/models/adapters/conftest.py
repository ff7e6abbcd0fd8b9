"""A tiny sequence classifier, pairs to train it on, and steps of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rankpipe.models.adapters.attached import Attached


class Pairs(NamedTuple):
    """Token ids of 8 pairs, as the network takes them, and a label for each."""

    inputs: dict[str, Tensor]
    labels: Tensor

    def scores(self, network: nn.Module) -> Tensor:
        """(8,) logits in evaluation."""
        import torch

        training = network.training
        network.eval()
        with torch.no_grad():
            scores = network(**self.inputs).logits[:, 0]
        network.train(training)
        return scores

    def loss(self, network: nn.Module) -> Tensor:
        """Binary cross entropy."""
        import torch

        return torch.nn.functional.binary_cross_entropy_with_logits(network(**self.inputs).logits[:, 0], self.labels)

    def calibration(self) -> Iterator[dict[str, Tensor]]:
        """Two batches of four."""
        for start in (0, 4):
            yield {name: value[start : start + 4] for name, value in self.inputs.items()}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """A network this small is slower by two threads than by one."""
    if find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> Path:
    """Folder of a sequence classifier with random weights, head included, and of its tokenizer."""
    pytest.importorskip("peft", reason="needs the extra 'train'")
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = tiny_encoder(tmp_path_factory.mktemp("classifier"), pooling=None)
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(0.5)  # so that the last bits of a weight do not grow on their way to the score
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def opened(classifier: Path) -> Callable[[], Any]:
    """`opened()` is the classifier anew, its dropout at 0."""

    def call() -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(
            classifier, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )

    return call


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Pairs of 12 random tokens at most."""
    import torch

    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 70, (8, 12), generator=generator)
    lengths = torch.tensor([12, 9, 12, 7, 10, 12, 8, 11])
    mask = (torch.arange(12) < lengths[:, None]).long()
    types = (torch.arange(12) >= 5).long() * mask
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    return Pairs({"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types}, labels)


@pytest.fixture(scope="session")
def train(pairs: Pairs) -> Callable[..., list[float]]:
    """`train(attached, ...)` trains by AdamW and gives the loss before every step; see train_steps."""

    def call(attached: Attached, **options: Any) -> list[float]:
        return train_steps(attached, pairs, **options)

    return call


def train_steps(
    attached: Attached,
    pairs: Pairs,
    *,
    steps: int = 50,
    last: int | None = None,
    rate: float = 3e-3,
    optimizer: Any = None,
    first: int = 1,
) -> list[float]:
    """Steps `first` to `last` of `steps`, the learning rate the same throughout."""
    import torch

    optimizer = optimizer or torch.optim.AdamW(attached.parameter_groups(rate, 0.01))
    losses = []
    attached.network.train()
    for step in range(first, (last or steps) + 1):
        attached.before_step(step, steps)
        loss = pairs.loss(attached.network)
        losses.append(loss.item())
        if (penalty := attached.penalty()) is not None:
            loss = loss + penalty
        loss.backward()
        optimizer.step()
        attached.after_step(step, steps, rate)
        optimizer.zero_grad()
    return losses
