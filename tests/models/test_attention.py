"""Re-ranking by attention, against attention as transformers gives it, and worked by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'llm'")
pytest.importorskip("transformers", reason="needs the extra 'llm'")

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from rankpipe.models.attention import AttentionScorer, AttentionSettings
from rankpipe.models.attention_rows import ROWS, AttentionReader
from rankpipe.models.attention_scores import Heads, document_scores, kept_tokens, read_heads
from rankpipe.models.runtime import Runtime

FLOAT32 = Runtime(dtype="float32", device="cpu")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"kind": "Llama"},
    "qwen2": {"kind": "Qwen2"},
    "qwen3": {"kind": "Qwen3"},
    "mistral": {"kind": "Mistral", "sliding_window": None},
    "mistral with a window": {"kind": "Mistral", "sliding_window": 9},
    "smollm": {"kind": "Llama", "hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3},
    "no groups": {"kind": "Llama", "num_key_value_heads": 4},
}

# One layer, two heads; 0 stands before the documents, 1 to 6 are document A, 7 and 8 document B.
QUERY_ROWS = np.array(
    [
        [
            [0.30, 0.10, 0.02, 0.02, 0.02, 0.02, 0.02, 0.20, 0.10],
            [0.30, 0.06, 0.02, 0.02, 0.02, 0.02, 0.06, 0.30, 0.06],
        ],
        [
            [0.20, 0.20, 0.04, 0.04, 0.04, 0.04, 0.04, 0.10, 0.10],
            [0.20, 0.12, 0.04, 0.04, 0.04, 0.04, 0.12, 0.20, 0.06],
        ],
    ]
)
BLANK_ROWS = np.array(
    [
        [[0.30, 0.30, 0.01, 0.01, 0.01, 0.01, 0.01, 0.10, 0.10]],
        [[0.20, 0.40, 0.02, 0.02, 0.02, 0.02, 0.02, 0.10, 0.07]],
    ]
)
BEGINS, ENDS = np.array([1, 7]), np.array([7, 9])


def summed(rows: np.ndarray) -> np.ndarray:
    return Heads.all(1, 2).summed(rows.mean(1)[None])


def test_a_token_scores_the_mean_over_the_query_and_the_sum_over_heads() -> None:
    assert summed(QUERY_ROWS) == pytest.approx([0.50, 0.24, 0.06, 0.06, 0.06, 0.06, 0.12, 0.40, 0.16])
    assert summed(BLANK_ROWS) == pytest.approx([0.50, 0.70, 0.03, 0.03, 0.03, 0.03, 0.03, 0.20, 0.17])


def test_calibration_and_the_filter_each_decide_otherwise() -> None:
    raw, calibrated = summed(QUERY_ROWS), summed(QUERY_ROWS) - summed(BLANK_ROWS)
    assert calibrated == pytest.approx([0, -0.46, 0.03, 0.03, 0.03, 0.03, 0.09, 0.20, -0.01])
    assert document_scores(raw, BEGINS, ENDS, sigma=None) == pytest.approx([0.60, 0.56])
    assert document_scores(calibrated, BEGINS, ENDS, sigma=None) == pytest.approx([-0.25, 0.19])
    # A: mean -.041667, deviation .206341, so what lies under -.454349 is left out: token 1
    assert kept_tokens(calibrated[1:7], 2.0).tolist() == [False, True, True, True, True, True]
    assert document_scores(calibrated, BEGINS, ENDS, sigma=2.0) == pytest.approx([0.21, 0.19])


def test_the_mean_divides_by_all_tokens_of_a_document() -> None:
    calibrated = summed(QUERY_ROWS) - summed(BLANK_ROWS)
    assert document_scores(calibrated, BEGINS, ENDS, sigma=2.0, mean=True) == pytest.approx([0.21 / 6, 0.19 / 2])


@pytest.mark.parametrize(("tokens", "can"), [(2, False), (5, False), (6, True)])
def test_the_filter_cannot_fire_below_six_tokens(tokens: int, can: bool) -> None:
    # the largest deviation is (n - 1) / sqrt(n), of one token far from equal others: 1.789 for five, 2.041 for six
    far = np.array([-1e6, *[1.0] * (tokens - 1)])
    assert kept_tokens(far, 2.0).all() != can


def test_a_single_token_and_equal_tokens_are_kept() -> None:
    assert document_scores(np.array([0.5, -0.25]), np.array([0, 1]), np.array([1, 2]), sigma=2.0).tolist() == [
        0.5,
        -0.25,
    ]
    assert document_scores(np.full(8, 0.25), np.array([0]), np.array([8]), sigma=2.0).tolist() == [2.0]


def test_a_document_without_tokens_scores_nothing() -> None:
    assert document_scores(np.ones(3), np.array([1]), np.array([1]), sigma=2.0, mean=True).tolist() == [0.0]


def test_weights_of_heads_may_be_negative() -> None:
    heads = Heads.of([(1, 0, 2.0), (0, 1, -1.0)], layers=3, heads=2)
    assert heads.layers == (0, 1)
    rows = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)
    assert heads.summed(rows).tolist() == (2 * rows[1, 0] - rows[0, 1]).tolist()


def test_a_head_that_the_model_lacks_is_refused(refused: Callable[[Callable[[], object]], str]) -> None:
    said = "the model has the layers 0 to 2, heads 0 to 1"
    assert refused(lambda: Heads.of([(-1, 0, 1.0)], layers=3, heads=2)) == f"head -1-0: {said}"
    assert refused(lambda: Heads.of([(0, 2, 1.0)], layers=3, heads=2)) == f"head 0-2: {said}"
    assert refused(lambda: Heads.of([], layers=3, heads=2)) == "no head is given"


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> Path:
    return tiny_causal_lm(tmp_path / "model", **FAMILIES[request.param])


def eager(folder: Path, ids: torch.Tensor, suffix: int) -> torch.Tensor:
    """(L, H, T) mean of what the last tokens attend to, from attention that transformers materialises."""
    network = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        attention = network(ids[None], output_attentions=True).attentions
    return torch.stack([layer[0, :, -suffix:].mean(1) for layer in attention])


def reader_of(folder: Path) -> AttentionReader:
    return AttentionReader(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().base_model)


def test_rows_behind_a_shared_prefix_equal_eager_attention(folder: Path) -> None:
    reader = reader_of(folder)
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, 340, 60))
    prefix = reader.prefix(ids[:45])
    torch.testing.assert_close(reader.rows(prefix, ids[45:]), eager(folder, ids, 15), atol=1e-5, rtol=0)
    other = torch.cat([ids[:45], ids[:4]])  # another query behind the same documents
    torch.testing.assert_close(reader.rows(prefix, ids[:4]), eager(folder, other, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(reader.rows(prefix, ids[45:]), eager(folder, ids, 15), atol=1e-5, rtol=0)


def test_layers_above_the_highest_are_not_needed(folder: Path) -> None:
    reader = reader_of(folder)
    ids = torch.from_numpy(np.random.default_rng(1).integers(3, 340, 40))
    prefix = reader.prefix(ids[:30], top=1)
    assert sorted(prefix.kept) == [0, 1]
    expected = eager(folder, ids, 10)[[0, 1]]
    torch.testing.assert_close(reader.rows(prefix, ids[30:], [0, 1]), expected, atol=1e-5, rtol=0)


def test_every_row_sums_to_one(folder: Path) -> None:
    reader = reader_of(folder)
    ids = np.random.default_rng(2).integers(3, 340, 50)
    rows = reader.rows(reader.prefix(ids[:40]), ids[40:])
    assert rows.shape == (3, reader.heads, 50)
    assert rows.sum().item() == pytest.approx(3 * reader.heads, abs=1e-4)


class Largest(TorchDispatchMode):
    """Within the block, the number of elements of the largest tensor that torch makes."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return made


def test_a_prefix_with_a_sliding_window_needs_no_matrix(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> None:
    folder = tiny_causal_lm(tmp_path / "model", kind="Mistral", sliding_window=90)
    reader = reader_of(folder)
    ids = torch.from_numpy(np.random.default_rng(3).integers(3, 340, 620))  # more than two blocks, the last not full
    with Largest() as largest:
        prefix = reader.prefix(ids[:600])
    assert largest.elements < 600 * 600 / 2
    torch.testing.assert_close(reader.rows(prefix, ids[600:]), eager(folder, ids, 20), atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [None, 90])
def test_a_long_query_is_read_in_parts(tmp_path: Path, tiny_causal_lm: Callable[..., Path], window: int | None) -> None:
    folder = tiny_causal_lm(tmp_path / "model", kind="Mistral", sliding_window=window)
    reader = reader_of(folder)
    ids = torch.from_numpy(np.random.default_rng(4).integers(3, 340, 800))
    prefix = reader.prefix(ids[:100])
    with Largest() as largest:
        rows = reader.rows(prefix, ids[100:])  # of two heads that share keys, 1400 rows of 800
    assert largest.elements <= ROWS * 800
    torch.testing.assert_close(rows, eager(folder, ids, 700), atol=1e-5, rtol=0)


SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "pad_token_id": 0,
}
LATENT = {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}


@pytest.mark.parametrize(
    ("kind", "config", "settings", "said"),
    [
        ("Gemma2", "Gemma2", {}, "the attention of a Gemma2Attention has a softcap, which is not supported"),
        (
            "Gemma3",
            "Gemma3Text",
            {"use_bidirectional_attention": True},
            "the attention of a Gemma3Attention reaches tokens that come later, which is not supported",
        ),
        ("Doge", "Doge", {}, "the attention of a DogeAttention has a mask of its own, which is not supported"),
        (
            "DiffLlama",
            "DiffLlama",
            {},
            "the attention of a DiffLlamaAttention is computed twice in a layer, which is not supported",
        ),
        (
            "DeepseekV3",
            "DeepseekV3",
            {**LATENT, "v_head_dim": 4, "first_k_dense_replace": 2},
            "the attention of a DeepseekV3Attention has values of 4 dimensions and keys of 16, which is not supported",
        ),
        (
            "Llama4",
            "Llama4Text",
            {"attention_chunk_size": 16, "num_local_experts": 2, "intermediate_size_mlp": 64},
            "a Llama4TextModel has layers of the kind chunked_attention, which is not supported; choose a model whose "
            "layers are full_attention or sliding_attention",
        ),
    ],
)
def test_attention_of_another_kind_is_refused_by_name(
    kind: str, config: str, settings: dict[str, Any], said: str, refused: Callable[[Callable[[], object]], str]
) -> None:
    made = getattr(transformers, f"{config}Config")(**{**SMALL, **settings})
    network = getattr(transformers, f"{kind}ForCausalLM")(made).eval()
    assert refused(lambda: AttentionReader(network.model)) == said


DOCUMENTS = ["sweet apple\nThe apple is a fruit", "", "the road <|im_end|> and the car", "apple"]


@pytest.fixture
def model(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> Path:
    return tiny_causal_lm(tmp_path / "model")


def scorer_of(model: Path, **settings: Any) -> AttentionScorer:
    return AttentionScorer(str(model), AttentionSettings(**settings), FLOAT32)


def test_the_query_without_content_scores_exactly_nothing(model: Path) -> None:
    scorer = scorer_of(model)
    listed = scorer.listed(DOCUMENTS)
    assert scorer.scores(listed, scorer.token_scores(scorer.read(listed), "N/A")).tolist() == [0.0] * 4


def test_as_many_prompts_are_read_at_once_as_there_are_threads_and_memory(
    model: Path, refused: Callable[[Callable[[], object]], str]
) -> None:
    def scorer(threads: int) -> AttentionScorer:
        return AttentionScorer(str(model), AttentionSettings(), Runtime(device="cpu", threads=threads))

    assert [scorer(threads).at_once(100, "query 'q'") for threads in (1, 3, 10**9)] == [1, 3, 1]
    said = refused(lambda: scorer(1).at_once(10**12, "query 'q'"))
    assert said.startswith("query 'q': a prompt of 1,000,000,000,000 tokens needs about ")
    assert said.endswith(" GiB are free; choose a smaller depth, window or max_words")


def test_spans_are_those_of_the_documents_and_their_numbers(model: Path) -> None:
    scorer = scorer_of(model)
    listed = scorer.listed(DOCUMENTS)
    tokenizer = scorer._tokens
    spans = [tokenizer.text(listed.ids[begin:end]) for begin, end in zip(listed.begins, listed.ends, strict=True)]
    assert spans == [f"[{at}] {text}" for at, text in enumerate(DOCUMENTS, 1)]


LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Llama 3 takes texts apart, and but for the digits Qwen: marks and the line breaks behind them are together."""


def write_tokenizer_of_llama_3(folder: Path, *, trim: bool) -> None:
    """Put another tokenizer into a model's folder.

    trim  a token's place does not say the blanks that it begins with
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["[1] the apple.\n\n[2] the road \n\n"] * 9, trainer)
    opened = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    opened.chat_template = transformers.AutoTokenizer.from_pretrained(folder).chat_template
    opened.save_pretrained(folder)


@pytest.mark.parametrize("trim", [False, True])
def test_what_parts_documents_is_no_documents(model: Path, trim: bool) -> None:
    write_tokenizer_of_llama_3(model, trim=trim)
    scorer = scorer_of(model)
    assert len(scorer._tokens.tokens(".\n\n")) == 1
    listed = scorer.listed(["the apple.", "the road", "", "...", "a car.\n\nIt is sweet "])
    spans = [scorer._tokens.text(listed.ids[begin:end]) for begin, end in zip(listed.begins, listed.ends, strict=True)]
    assert spans == ["[1] the apple", "[2] the road", "[3]", "[4] ..", "[5] a car.\n\nIt is sweet"]


def test_a_special_token_in_a_document_is_text(model: Path) -> None:
    scorer = scorer_of(model)
    assert 2 not in scorer.listed(DOCUMENTS).ids  # <|im_end|>, which ends the user's turn
    assert (scorer.suffix("is <|im_end|> a token?", 4) == 2).sum() == 1


def test_every_place_of_a_prompt_is_filled(tmp_path: Path, model: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(
        "--- user\n{count} texts:\n\n{documents}\n\nWhich of the {count} fits {query}?\n--- answer\nOn {query}:"
    )
    scorer = scorer_of(model, prompt=str(prompt))
    listed = scorer.listed(["apple", "{query}", "{count}"])
    text = scorer._tokens.text(np.concatenate([listed.ids, scorer.suffix("sweet {count}", 3)]))
    assert text == (
        "user\n3 texts:\n\napple\n\n{query}\n\n{count}\n\nWhich of the 3 fits sweet {count}?\nassistant\nOn sweet {count}:"
    )
    assert scorer.tokens(listed, "sweet {count}") == len(listed.ids) + len(scorer.suffix("sweet {count}", 3))
    assert scorer.scores(listed, scorer.token_scores(scorer.read(listed), "N/A")).tolist() == [0.0] * 3


def test_a_document_is_found_by_its_place_not_by_its_text(model: Path) -> None:
    listed = scorer_of(model).listed(["apple", "apple", "apple"])
    assert len(set(listed.begins.tolist())) == 3
    assert (np.diff(listed.begins) > 0).all()


def test_scores_are_those_of_one_whole_prompt_read_eagerly(model: Path) -> None:
    scorer = scorer_of(model)
    listed, query = scorer.listed(DOCUMENTS), "sweet fruit"
    found = scorer.scores(listed, scorer.token_scores(scorer.read(listed), query))
    parts = []
    for text in (query, "N/A"):
        suffix = scorer.suffix(text, len(DOCUMENTS))
        ids = torch.from_numpy(np.concatenate([listed.ids, suffix]))
        parts.append(eager(model, ids, len(suffix)).sum((0, 1)).numpy()[: len(listed.ids)].astype(np.float64))
    expected = document_scores(parts[0] - parts[1], listed.begins, listed.ends, sigma=2.0)
    assert found == pytest.approx(expected, abs=1e-5)


def test_pieces_of_an_explanation_make_the_text_and_the_score(model: Path) -> None:
    scorer = scorer_of(model)
    listed = scorer.listed(DOCUMENTS)
    tokens = scorer.token_scores(scorer.read(listed), "sweet fruit")
    explained = scorer.explained(listed, tokens)
    whole = ["".join(piece for piece, _ in pieces).strip() for pieces in explained]
    assert whole == [f"[{at}] {text}".strip() for at, text in enumerate(DOCUMENTS, 1)]
    for one in (scorer, scorer_of(model, mean=True)):
        totals = [sum(value for _, value in pieces) for pieces in one.explained(listed, tokens)]
        assert totals == pytest.approx(one.scores(listed, tokens))


def test_as_many_documents_as_the_context_holds(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> None:
    scorer = scorer_of(tiny_causal_lm(tmp_path / "short", positions=300))
    listed = scorer.listed(["the apple"] * 30)
    most = scorer.most_documents(listed, "fruit")
    assert 2 <= most < 30
    assert scorer.tokens(scorer.listed(["the apple"] * most), "fruit") <= 300
    assert scorer.tokens(scorer.listed(["the apple"] * (most * 5 // 4)), "fruit") > 300
    assert scorer.most_documents(listed, "apple " * 400) == 0


def test_a_model_without_a_chat_template_is_asked_plainly(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> None:
    scorer = scorer_of(tiny_causal_lm(tmp_path / "plain", chat=False))
    text = scorer._tokens.text(np.concatenate([scorer.listed(["apple"]).ids, scorer.suffix("fruit", 1)]))
    assert text == (
        "Below are several paragraphs, each of which begins with its number.\n\n[1] apple\n\n"
        "Find the information in the paragraphs above that is relevant to the query below.\n\nQuery: fruit\n\n"
    )


def test_what_cannot_be_read_is_said(
    tmp_path: Path, model: Path, refused: Callable[[Callable[[], object]], str]
) -> None:
    def says(**settings: Any) -> str:
        return refused(lambda: scorer_of(model, **settings))

    assert says(heads=("0-4",)) == "head 0-4: the model has the layers 0 to 2, heads 0 to 3"
    assert says(heads=("1-1", "1-1")) == "head 1-1 is given twice"
    assert says(heads=("first",)) == "head 'first' is not of the form LAYER-HEAD, such as 14-22"
    assert says(layers=(1, 3)) == "layers is [1, 3]; the model has the layers 0 to 2"
    assert says(heads="nowhere.json") == (
        "there is no file of heads 'nowhere.json'; choose all, a list such as [14-22], or a file"
    )
    assert says(heads=()) == "no head is given; choose all, a list such as [14-22], or a file"
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("--- user\nQuery: {query}\n\n{documents}\n")
    assert says(prompt=str(prompt)) == (
        f"prompt {prompt}: the query must stand behind the documents, which are read once"
    )
    prompt.write_text("--- user\n{documents}\n\nAs in {document}, find {query}\n")
    assert says(prompt=str(prompt)) == (
        f"prompt {prompt}: there is no text here for {{document}} in its section 'user', only {{documents}}, {{query}} "
        "and {count}"
    )


def test_a_file_of_heads_is_read_before_the_network(
    tmp_path: Path, tiny_causal_lm: Callable[..., Path], refused: Callable[[Callable[[], object]], str]
) -> None:
    capped = tiny_causal_lm(tmp_path / "capped", kind="Gemma2")
    assert refused(lambda: scorer_of(capped)) == (
        "the attention of a Gemma2Attention has a softcap, which is not supported"
    )
    assert refused(lambda: scorer_of(capped, heads="nowhere.json")).startswith("there is no file of heads ")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('{"layer": 0, "head": 1, "weight": NaN}', "the weight of heads[1] is nan, must be a finite number"),
        ('{"layer": 0, "head": 1, "weight": -1e999}', "the weight of heads[1] is -inf, must be a finite number"),
        ('{"layer": 0, "head": 1, "weight": "1"}', "the weight of heads[1] is '1', must be a finite number"),
        ('{"layer": 0, "head": 1.9, "weight": 1}', "the head of heads[1] is 1.9, must be a whole number"),
        ('{"layer": true, "head": 1, "weight": 1}', "the layer of heads[1] is True, must be a whole number"),
    ],
)
def test_a_file_of_heads_says_whole_and_finite_numbers(
    entry: str, said: str, tmp_path: Path, refused: Callable[[Callable[[], object]], str]
) -> None:
    path = tmp_path / "heads.json"
    first = '{"layer": 2, "head": 0, "weight": -0.5}'
    path.write_text(f'{{"format": 1, "model": {{"weights": "x"}}, "heads": [{first}]}}')
    assert read_heads(path)["chosen"] == [(2, 0, -0.5)]
    path.write_text(f'{{"format": 1, "model": {{"weights": "x"}}, "heads": [{first}, {entry}]}}')
    assert refused(lambda: read_heads(path)) == f"{path}: {said}"
