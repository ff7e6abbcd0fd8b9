"""The number by which each method is known, worked by hand or against another way to compute it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("peft", reason="needs the extra 'train'")

import torch
from peft import EvaConfig, LoraConfig, PeftModel
from peft.tuners.lora.eva import get_eva_state_dict
from safetensors.torch import load_file

from rankpipe.errors import UsageError
from rankpipe.models.adapters.attached import Attached, attach, linear_targets
from rankpipe.models.adapters.core import GatedLinear, drawn_rank, soft_threshold
from rankpipe.models.adapters.eva import principal_components, shared_ranks
from rankpipe.models.adapters.settings import AdaLora, Dora, DyLora, Eva, Lora, Olora, Pissa, RandLora, Sora

QUERY = "bert.encoder.layer.0.attention.self.query"

Opened = Callable[[], Any]
Train = Callable[..., list[float]]


def part(attached: Attached, name: str) -> Any:
    return attached.network.get_submodule(QUERY).get_submodule(f"{name}.default")


def entries(attached: Attached) -> list[torch.Tensor]:
    """The diagonals of AdaLoRA."""
    return [layer.lora_E["default"] for _, layer in attached.layers()]  # type: ignore[attr-defined]


def test_lora_is_scaled_by_alpha_over_the_rank_or_its_root(opened: Opened, pairs: Any) -> None:
    scores = {}
    for rslora, alpha in ((False, 8.0), (True, 4.0)):  # 8 / 4 = 4 / sqrt(4)
        attached = attach(opened(), Lora(r=4, alpha=alpha, rslora=rslora), seed=0)
        for _, layer in attached.layers():  # type: ignore[attr-defined]
            torch.nn.init.constant_(layer.lora_B["default"].weight, 0.1)
        scores[rslora] = pairs.scores(attached.network)
    assert torch.equal(scores[False], scores[True])


def test_dora_begins_with_the_lengths_of_the_weights_rows(opened: Opened) -> None:
    network = opened()
    expected = network.get_submodule(QUERY).weight.detach().square().sum(dim=1).sqrt()
    attached = attach(network, Dora(r=4), seed=0)
    assert torch.allclose(part(attached, "lora_magnitude_vector").weight, expected)


def test_pissa_begins_at_the_largest_singular_values(opened: Opened) -> None:
    network = opened()
    weight = network.get_submodule(QUERY).weight.detach().clone()
    attached = attach(network, Pissa(r=4, alpha=8), seed=0)
    u, s, v = torch.linalg.svd(weight)
    largest = u[:, :4] @ torch.diag(s[:4]) @ v[:4]
    product = 2 * part(attached, "lora_B").weight @ part(attached, "lora_A").weight
    assert torch.allclose(product, largest, atol=1e-5)
    assert torch.allclose(network.get_submodule(QUERY).base_layer.weight, weight - largest, atol=1e-5)


def test_olora_begins_at_the_first_columns_of_qr(opened: Opened) -> None:
    network = opened()
    weight = network.get_submodule(QUERY).weight.detach().clone()
    attached = attach(network, Olora(r=4, alpha=4), seed=0)
    q, r = torch.linalg.qr(weight)
    assert torch.allclose(part(attached, "lora_B").weight, q[:, :4], atol=1e-5)
    assert torch.allclose(part(attached, "lora_A").weight, r[:4], atol=1e-5)


@pytest.mark.parametrize("settings", [Pissa(r=40), Olora(r=40)], ids=lambda one: one.method)
def test_a_weight_has_no_more_ranks_than_its_smaller_side(opened: Opened, settings: Pissa | Olora) -> None:
    with pytest.raises(UsageError) as caught:
        attach(opened(), settings, seed=0)
    assert str(caught.value) == f"40 ranks are more than {QUERY} has room for, whose weight is (32, 32); at most 32"


@pytest.mark.parametrize("settings", [Pissa(r=3), Olora(r=3)], ids=lambda one: one.method)
def test_what_began_at_a_part_of_the_weight_is_exported_with_twice_the_rank(
    opened: Opened, train: Train, tmp_path: Path, settings: Pissa | Olora
) -> None:
    attached = attach(opened(), settings, seed=0)
    train(attached, steps=5)
    attached.export(tmp_path, "base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["init_lora_weights"]) == (6, 6, {}, True)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    update = saved[f"base_model.model.{QUERY}.lora_B.weight"] @ saved[f"base_model.model.{QUERY}.lora_A.weight"]
    learnt = attached.merged().get_submodule(QUERY).weight - opened().get_submodule(QUERY).weight
    assert torch.allclose(update, learnt, atol=1e-6)


def test_a_resumed_pissa_goes_on_from_the_saved_decomposition(opened: Opened) -> None:
    attached = attach(opened(), Pissa(r=4), seed=0)
    state = copy.deepcopy(attached.state_dict())
    state[f"began.{QUERY}.A"] = -state[f"began.{QUERY}.A"]  # as if the weight had been taken apart otherwise
    whole = opened().get_parameter(f"{QUERY}.weight")
    attached.load_state_dict(state)
    began = state[f"began.{QUERY}.B"] @ state[f"began.{QUERY}.A"]
    frozen = attached.network.get_parameter(f"{QUERY}.base_layer.weight")
    assert torch.allclose(frozen + began, whole, atol=1e-5)


def seen_by(network: Any, name: str, pairs: Any) -> torch.Tensor:
    """Vectors (N, D_in) that a layer gets of the tokens of all pairs, padding left out."""
    seen: list[torch.Tensor] = []
    hook = network.get_submodule(name).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    pairs.scores(network)
    hook.remove()
    return seen[0][pairs.inputs["attention_mask"].bool()]


def test_eva_begins_at_the_principal_components_of_the_inputs(opened: Opened, pairs: Any) -> None:
    tokens = seen_by(opened(), QUERY, pairs)
    components = torch.linalg.svd(tokens - tokens.mean(dim=0))[2]
    attached = attach(opened(), Eva(r=4), calibration=pairs.calibration, seed=0)
    found = part(attached, "lora_A").weight
    assert torch.allclose((found * components[: len(found)]).sum(dim=1).abs(), torch.ones(len(found)), atol=1e-4)
    assert torch.allclose(found @ found.T, torch.eye(len(found)), atol=1e-5)


def test_the_components_of_eva_are_those_that_peft_finds(opened: Opened, pairs: Any) -> None:
    layers = linear_targets(opened(), ("classifier", "bert.pooler"), "auto")  # peft cannot look at the pooler
    config = LoraConfig(r=3, init_lora_weights="eva", eva_config=EvaConfig(rho=4.0), target_modules=list(layers))
    theirs = get_eva_state_dict(opened(), list(pairs.calibration()), config, show_progress_bar=False)
    ours = principal_components(opened(), layers, pairs.calibration(), 12)
    for name in layers:
        first = theirs[name][:2].float()  # of 12 that it follows from batch to batch, each time cutting off the rest
        assert (ours[name].directions[: len(first)] * first).sum(dim=1).abs().min() > 0.95


def test_eva_looks_at_as_many_pairs_as_it_is_told(opened: Opened, pairs: Any) -> None:
    def some() -> Iterator[dict[str, torch.Tensor]]:
        yield from pairs.calibration()
        raise AssertionError("nobody asked for a third batch")

    six = {name: value[:6] for name, value in pairs.inputs.items()}
    factors = []
    for told, batches in ((Eva(r=4, pairs=6), some), (Eva(r=4), lambda: iter([six]))):
        attached = attach(opened(), told, calibration=batches, seed=0)
        factors.append(part(attached, "lora_A").weight)
    assert torch.allclose(*factors, atol=1e-5)


def test_ranks_go_where_most_variance_is_explained() -> None:
    shares = {"a": torch.tensor([0.5, 0.25, 0.125]), "b": torch.tensor([0.25, 0.1]), "c": torch.tensor([0.05])}
    assert shared_ranks(shares, 3) == {"a": 2, "b": 1, "c": 0}
    assert shared_ranks(shares, 2) == {"a": 2, "b": 0, "c": 0}  # of two quarters, that of the earlier layer
    assert shared_ranks(shares, 6) == {"a": 3, "b": 2, "c": 1}


def test_the_ranks_of_eva_sum_to_those_of_its_layers(opened: Opened, pairs: Any, tmp_path: Path) -> None:
    attached = attach(opened(), Eva(r=5, alpha=10), calibration=pairs.calibration, seed=0)
    layers = dict(attached.layers())  # type: ignore[attr-defined]
    ranks = {name: layer.lora_A["default"].weight.shape[0] for name, layer in layers.items()}
    assert sum(ranks.values()) == 13 * 5
    assert len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 10
    assert {layer.scaling["default"] for layer in layers.values()} == {2.0}
    attached.export(tmp_path, "base")
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: saved[f"base_model.model.{name}.lora_A.weight"].shape[0] for name in ranks} == ranks


def test_a_layer_that_eva_gives_no_rank_is_left_as_it_is(
    opened: Opened, pairs: Any, train: Train, tmp_path: Path
) -> None:
    network = opened()
    inner, last = "bert.encoder.layer.1.intermediate.dense", "bert.encoder.layer.1.output.dense"
    with torch.no_grad():  # QUERY sees 32 numbers, none of which matters much; `last` sees two, 32 times each
        network.bert.embeddings.token_type_embeddings.weight.zero_()
        weight = network.get_parameter(f"{inner}.weight").zero_()
        weight[:32, 6] = weight[32:, 7] = 3.0
    base = copy.deepcopy(network)
    attached = attach(network, Eva(r=1, targets=(QUERY, last)), calibration=pairs.calibration, seed=0)
    assert [name for name, _ in attached.layers()] == [last]  # type: ignore[attr-defined]
    train(attached, steps=5)
    scores = pairs.scores(network)
    attached.export(tmp_path, "base")
    assert load_file(tmp_path / "adapter_model.safetensors")[f"base_model.model.{last}.lora_A.weight"].shape == (2, 64)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        again = PeftModel.from_pretrained(base, tmp_path)
    assert (pairs.scores(again) - scores).abs().max() < 1e-5
    assert (pairs.scores(attached.merged()) - scores).abs().max() < 1e-5


def test_eva_asks_for_what_it_needs(opened: Opened, pairs: Any) -> None:
    with pytest.raises(UsageError) as caught:
        attach(opened(), Eva(r=4), seed=0)
    assert str(caught.value) == (
        "adapter method 'eva' looks at training pairs first, and attach was given no calibration"
    )
    with pytest.raises(UsageError) as caught:  # 8 pairs: the pooler sees 8 vectors, which have 7 components
        attach(opened(), Eva(r=8, targets=("pooler.dense",)), calibration=pairs.calibration, seed=0)
    assert str(caught.value) == (
        "adapter method 'eva' shares out 8 ranks, and the calibration pairs have 7 components; lower r, or take more pairs"
    )


def test_adalora_ends_with_as_many_ranks_as_asked(opened: Opened, train: Train, tmp_path: Path) -> None:
    attached = attach(opened(), AdaLora(r=2, init_r=5, start=0.1, end=0.6), seed=0)
    assert attached.may_be_kept  # nothing is open yet
    train(attached, steps=20, last=6)
    assert not attached.may_be_kept
    train(attached, steps=20, first=7)
    assert attached.may_be_kept
    open_entries = {
        name: int((layer.lora_E["default"] != 0).sum())
        for name, layer in attached.layers()  # type: ignore[attr-defined]
    }
    assert sum(open_entries.values()) == 13 * 2
    assert len(set(open_entries.values())) > 1
    attached.export(tmp_path, "base")
    saved = load_file(tmp_path / "adapter_model.safetensors")
    exported = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): value.shape[0]
        for name, value in saved.items()
        if name.endswith("lora_A.weight")
    }
    assert exported == {name: rank for name, rank in open_entries.items() if rank}


def test_adalora_decides_late_where_steps_are_left_out(opened: Opened, train: Train) -> None:
    attached = attach(opened(), AdaLora(r=2, init_r=5, start=0.1, end=0.6), seed=0)
    train(attached, steps=20, last=6)
    assert sum((e != 0).sum() for e in entries(attached)) > 13 * 2
    train(attached, steps=20, first=16)
    assert sum((e != 0).sum() for e in entries(attached)) == 13 * 2


def test_adalora_that_goes_back_to_untouched_weights_too_late_to_share_out_keeps_as_many_ranks(
    opened: Opened, train: Train
) -> None:
    attached = attach(opened(), AdaLora(r=2, init_r=5, start=0.1, end=0.6), seed=0)
    untouched = {name: value.clone() for name, value in attached.state_dict().items()}
    train(attached, steps=20, last=15)
    attached.load_state_dict(untouched)  # as a phase does that found nothing better
    assert not any(e.any() for e in entries(attached))
    train(attached, steps=20, first=16)
    assert sum((e != 0).sum() for e in entries(attached)) == 13 * 2


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_adalora_takes_any_number_of_steps(opened: Opened, train: Train, steps: int) -> None:
    train(attach(opened(), AdaLora(r=2), seed=0), steps=steps)


def test_adalora_is_charged_for_factors_that_are_not_orthogonal(opened: Opened) -> None:
    attached = attach(opened(), AdaLora(r=2, init_r=4, orthogonality=0.5), seed=0)
    parameters = dict(attached.network.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            if ".lora_A." in name:
                value.copy_(torch.eye(*value.shape))  # its rows are orthogonal: |I - I| = 0
            elif ".lora_B." in name:
                value.zero_()  # |0 - I| = sqrt(4) = 2
    penalty = attached.penalty()
    assert penalty is not None
    assert penalty.item() == 0.5 * (0 + 2) / 2
    assert attach(opened(), AdaLora(r=2, orthogonality=0), seed=0).penalty() is None


def test_randlora_trains_little_and_changes_weights_in_full_rank(opened: Opened, train: Train) -> None:
    attached = attach(opened(), RandLora(r=8, alpha=80), seed=0)
    shapes = {
        name.removeprefix(f"{QUERY}."): tuple(value.shape)
        for name, value in attached.network.named_parameters()
        if value.requires_grad and name.startswith(QUERY)
    }
    assert shapes == {"randlora_lambda.default": (8, 4), "randlora_gamma.default": (4, 32)}  # 32 / 8 = 4 products
    train(attached, steps=20)
    learnt = attached.merged().get_submodule(QUERY).weight - opened().get_submodule(QUERY).weight
    assert torch.linalg.matrix_rank(learnt.double(), rtol=1e-6) >= 31


def test_dylora_at_a_rank_is_lora_of_the_first_ranks(opened: Opened, train: Train, pairs: Any) -> None:
    attached = attach(opened(), DyLora(r=6, alpha=12, rank=2), seed=0)
    train(attached, steps=10)
    plain = attach(opened(), Lora(r=2, alpha=12), seed=0)
    trained = attached.state_dict()
    first = {
        name: value[:2] if "lora_A" in name else value[:, :2] if "lora_B" in name else value
        for name, value in trained.items()
    }
    plain.load_state_dict(first)
    assert (pairs.scores(attached.network) - pairs.scores(plain.network)).abs().max() < 1e-5


@pytest.mark.parametrize("frozen", [True, False])
def test_dylora_trains_the_first_ranks_or_the_last_of_them_alone(opened: Opened, pairs: Any, frozen: bool) -> None:
    attached = attach(opened(), DyLora(r=6, frozen=frozen), seed=0)
    attached.before_step(4, 10)
    rank = drawn_rank(0, 4, 6)
    assert rank == 3  # neither the first nor the last, so that the test sees something
    for _, layer in attached.layers():  # type: ignore[attr-defined]
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    pairs.loss(attached.network.train()).backward()
    a, b = (part(attached, name).weight.grad for name in ("lora_A", "lora_B"))
    expected = [False, False, True, False, False, False] if frozen else [True] * 3 + [False] * 3
    assert (a != 0).any(dim=1).tolist() == expected
    assert (b != 0).any(dim=0).tolist() == expected


def test_the_ranks_that_a_step_of_dylora_freezes_stay_as_they_are(opened: Opened, pairs: Any) -> None:
    attached = attach(opened(), DyLora(r=6, frozen=True), seed=0)
    optimizer = torch.optim.AdamW(attached.parameter_groups(1e-2, 0.1))
    names = ("lora_A", "lora_B")
    for step in range(1, 9):
        before = [part(attached, name).weight.detach().clone() for name in names]
        attached.before_step(step, 10)
        pairs.loss(attached.network.train()).backward()
        optimizer.step()
        attached.after_step(step, 10, 1e-2)
        optimizer.zero_grad()
        a, b = (part(attached, name).weight - old for name, old in zip(names, before, strict=True))
        last = drawn_rank(0, step, 6) - 1
        assert [row for row in range(6) if b[:, row].any()] == [last]
        assert {row for row in range(6) if a[row].any()} <= {last}


def test_the_rank_of_a_step_depends_on_the_seed_and_the_step() -> None:
    drawn = [drawn_rank(0, step, 4) for step in range(1, 401)]
    assert drawn == [drawn_rank(0, step, 4) for step in range(1, 401)]
    assert drawn != [drawn_rank(1, step, 4) for step in range(1, 401)]
    counts = [drawn.count(rank) for rank in (1, 2, 3, 4)]
    assert sum(counts) == 400
    assert min(counts) > 70  # 100 expected of each; 70 is 3.5 standard deviations below


def test_soft_threshold_by_hand() -> None:
    values = torch.tensor([-0.5, -0.25, 0.0, 0.125, 0.25, 1.0])
    assert soft_threshold(values, 0.25).tolist() == [-0.25, 0.0, 0.0, 0.0, 0.0, 0.75]


def test_a_step_of_a_sora_gate_is_adamws_and_then_the_threshold(opened: Opened, pairs: Any) -> None:
    attached = attach(opened(), Sora(r=4, threshold=0.05, l1=0.5), seed=0)
    groups = attached.parameter_groups(1e-2, 0.1)
    assert {group["name"]: group["weight_decay"] for group in groups} == {
        "adapter": 0.1,
        "gate vectors": 0.0,
        "head": 0.1,
        "head vectors": 0.0,
    }
    optimizer = torch.optim.AdamW(groups)
    loss = pairs.loss(attached.network.train())
    penalty = attached.penalty()
    assert penalty is not None
    gates = [layer.lora_gate["default"] for _, layer in attached.layers()]  # type: ignore[attr-defined]
    assert penalty.item() == pytest.approx(0.5 * torch.cat([gate.detach().abs() for gate in gates]).mean().item())
    (loss + penalty).backward()
    optimizer.step()
    stepped = [gate.detach().clone() for gate in gates]
    attached.after_step(1, 10, 1e-2)
    for gate, before in zip(gates, stepped, strict=True):
        assert torch.equal(gate, before.sign() * torch.relu(before.abs() - 0.05))


def test_the_ranks_that_sora_exports_are_its_open_gates(opened: Opened, train: Train, tmp_path: Path) -> None:
    attached = attach(opened(), Sora(r=4, threshold=0.02), seed=0)
    train(attached, steps=30)
    layers = dict(attached.layers())  # type: ignore[attr-defined]
    counts = {name: int((layer.lora_gate["default"] != 0).sum()) for name, layer in layers.items()}
    assert 0 < sum(counts.values()) < 4 * 13
    attached.export(tmp_path, "base")
    saved = load_file(tmp_path / "adapter_model.safetensors")
    for name, count in counts.items():
        exported = saved.get(f"base_model.model.{name}.lora_A.weight")
        assert (0 if exported is None else exported.shape[0]) == count


def test_an_adapter_whose_gates_are_all_closed_can_be_opened(
    opened: Opened, pairs: Any, classifier: Path, tmp_path: Path
) -> None:
    attached = attach(opened(), Sora(r=4, threshold=100.0), seed=0)
    attached.after_step(1, 1, 1e-3)
    scores = pairs.scores(attached.network)
    attached.export(tmp_path, str(classifier))
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        again = PeftModel.from_pretrained(opened(), tmp_path)
    assert (pairs.scores(again) - scores).abs().max() < 1e-6


def test_peft_puts_our_layers_in_its_place_and_merges_them(opened: Opened, pairs: Any) -> None:
    """peft calls LoraConfig._register_custom_module experimental: where an update of peft breaks it, this test says so."""
    attached = attach(opened(), Sora(r=4), seed=0)
    layers = dict(attached.layers())  # type: ignore[attr-defined]
    assert len(layers) == 13
    assert {type(layer) for layer in layers.values()} == {GatedLinear}
    assert all(layer.lora_gate["default"].requires_grad for layer in layers.values())
    for layer in layers.values():
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.02)
    scores = pairs.scores(attached.network)
    assert not torch.allclose(scores, pairs.scores(opened()))
    with attached.tuned.disable_adapter():  # type: ignore[attr-defined]
        assert torch.equal(pairs.scores(attached.network), pairs.scores(opened()))
    attached.tuned.merge_adapter()  # type: ignore[attr-defined]
    assert (pairs.scores(attached.network) - scores).abs().max() < 1e-5
    attached.tuned.unmerge_adapter()  # type: ignore[attr-defined]
    assert (pairs.scores(attached.network) - scores).abs().max() < 1e-5
