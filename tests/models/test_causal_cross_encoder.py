"""Causal language models that answer yes or no, against sentence-transformers and transformers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")

from rankpipe.errors import RankpipeError
from rankpipe.models.cross_encoder import CrossEncoderScorer
from rankpipe.models.pair_recipe import PairSettings
from rankpipe.models.runtime import Runtime

QUERIES = ["sweet fruit", "", "is a car?\n", "{document}", " road "]
DOCUMENTS = ["The apple is a sweet fruit.", "", "a road", "Trees, roads: 12.5?", "{query} ∅", " the tree\n"]
LONG = ("the road and the car " * 30).strip()
MESSAGES = """\
{%- for message in messages %}{% if message['role'] == 'system' %}<|im_start|>system
{{ CONTENT }}<|im_end|>
{% elif message['role'] == 'query' %}<|im_start|>user
<Query>: {{ CONTENT }}
{% elif message['role'] == 'document' %}
<Document>: {{ CONTENT }}<|im_end|>
{% endif %}{% endfor %}<|im_start|>assistant
{% if thinking %}<think>{% endif %}
"""
CHATS = {
    "flat": MESSAGES.replace("CONTENT", "message['content']"),
    "structured": MESSAGES.replace("CONTENT", "message.content[0].text"),
    "stripped": MESSAGES.replace("CONTENT", "message['content'] | trim"),
}
PROMPT = "<|im_start|>user\nQuery: {query}\nDocument: {document}\nRelevant?<|im_end|>\n<|im_start|>assistant\n"
LINES = PROMPT.replace("Document: ", "Document:\n")  # no token reaches over its seams


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    """A Qwen3 of two layers with a tokenizer of bytes."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    trained = ByteLevelBPETokenizer()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [*QUERIES, *DOCUMENTS, *[LONG, "yes no Relevant? yes no user system"] * 9]
    trained.train_from_iterator(texts, vocab_size=340, special_tokens=special, show_progress=False)
    folder = tmp_path / "causal"
    PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token=special[0], eos_token=special[2], model_max_length=128
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=340,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        initializer_range=0.2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def opened(folder: Path, **settings: Any) -> CrossEncoderScorer:
    return CrossEncoderScorer(str(folder), PairSettings(**settings), Runtime(dtype="float32"))


def scores(scorer: CrossEncoderScorer, documents: Sequence[str] = (*DOCUMENTS, LONG)) -> NDArray[np.float32]:
    pairs = np.array([(query, row) for query in range(len(QUERIES)) for row in range(len(documents))])
    return scorer.score(QUERIES, documents, pairs).scores


def saved(
    causal: Path,
    folder: Path,
    chat: str | None,
    *,
    options: dict[str, Any] | None = None,
    single: bool = False,
    **more: Any,
) -> Any:
    """The CrossEncoder that sentence-transformers makes of a causal language model, saved in a folder and opened."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    transformer = Transformer(
        str(causal),
        transformer_task="text-generation",
        processor_kwargs={} if chat is None else {"chat_template": CHATS[chat]},
        processing_kwargs={} if options is None else {"chat_template": options},
    )
    tokenizer: Any = transformer.tokenizer
    yes, no = (tokenizer.convert_tokens_to_ids(token) for token in ("yes", "no"))
    modules: list[Any] = [transformer, LogitScore(yes) if single else LogitScore(yes, no)]
    model = CrossEncoder(modules=modules, device="cpu", **more)
    model.save_pretrained(str(folder), create_model_card=False)
    return CrossEncoder(str(folder), device="cpu", local_files_only=True)


def predicted(model: Any) -> NDArray[np.float32]:
    import torch

    pairs = [(query, document) for query in QUERIES for document in (*DOCUMENTS, LONG)]
    if model[0].processor.chat_template is None:
        pairs = [pair if any(pair) else ("x", "") for pair in pairs]  # of no token at all it can make nothing
    return model.predict(pairs, activation_fn=torch.nn.Identity())


@pytest.mark.parametrize(
    ("chat", "made"),
    [
        ("flat", {}),
        ("structured", {}),
        ("stripped", {}),
        ("flat", {"single": True}),
        ("flat", {"options": {"thinking": True}}),
        ("structured", {"prompts": {"web": "Find what fits."}, "default_prompt_name": "web"}),
        (None, {}),
        (None, {"prompts": {"web": "Find: "}, "default_prompt_name": "web"}),
    ],
    ids=str,
)
def test_scores_equal_those_of_sentence_transformers(
    tmp_path: Path, causal: Path, chat: str | None, made: dict[str, Any]
) -> None:
    expected = predicted(saved(causal, tmp_path / "saved", chat, **made))
    found = scores(opened(tmp_path / "saved"))
    said = np.array([bool(query or document) or chat for query in QUERIES for document in (*DOCUMENTS, LONG)], bool)
    assert np.abs(found - expected)[said].max() < 1e-5
    assert found.std() > 0.01


@pytest.mark.parametrize("answers", [("yes", "no"), ("no",), ("Ġroad", "Ġcar")])
def test_a_prompt_of_the_pipeline_makes_a_reranker_of_a_plain_causal_model(
    causal: Path, answers: tuple[str, ...]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(causal), AutoModelForCausalLM.from_pretrained(causal).eval()
    numbers = tokenizer.convert_tokens_to_ids(list(answers))
    expected = []
    for query in QUERIES:
        for document in DOCUMENTS:
            begin, between, end = PROMPT.replace("{document}", "{query}").split("{query}")
            read = tokenizer(begin + query + between + document + end, return_tensors="pt")
            with torch.no_grad():
                logits = network(**read).logits[0, -1]
            expected.append(
                (logits[numbers[0]] - logits[numbers[1]] if len(numbers) == 2 else logits[numbers[0]]).item()
            )
    found = scores(opened(causal, prompt=PROMPT, answers=answers), DOCUMENTS)
    assert np.abs(found - expected).max() < 1e-5
    assert found.std() > 0.01


def test_of_what_is_too_long_the_document_is_cut_and_the_end_of_the_prompt_stays(causal: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal)
    scorer = opened(causal, prompt=LINES, max_length=60)
    found = scorer.score(["sweet fruit"], [LONG, "a car"], np.array([[0, 0], [0, 1]]))
    assert found.truncated.sum() == 1
    bare = len(tokenizer(LINES.format(query="sweet fruit", document="")).input_ids)
    kept = tokenizer.decode(tokenizer(LONG).input_ids[: 60 - bare])
    cut = scorer.score(["sweet fruit"], [kept], np.zeros((1, 2), np.int64))
    assert not cut.truncated.any()
    assert np.abs(found.scores[:1] - cut.scores).max() < 1e-6


BEHIND = "<|im_start|>user\nDocument:\n{document}\nQuery:\n{query}\nRelevant?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("windows", ["first", "max"])
@pytest.mark.parametrize("prompt", [LINES.replace("Query: ", "Query:\n"), BEHIND], ids=["before", "behind"])
def test_a_query_without_an_end_leaves_half_of_the_room_to_the_document(
    causal: Path, prompt: str, windows: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal)
    room = 60 - len(tokenizer(prompt.format(query="", document="")).input_ids)
    documents = ["a car", "a road", " ".join(LONG.split()[: room - room // 2])]
    scorer = opened(causal, prompt=prompt, max_length=60, windows=windows)
    found = scorer.score([LONG], documents, np.array([[0, 0], [0, 1], [0, 2]]))
    assert found.truncated.all()
    assert len(set(found.scores.tolist())) == 3
    for row, document in enumerate(documents):
        kept = max(room - room // 2, room - len(tokenizer(document).input_ids))
        query = tokenizer.decode(tokenizer(LONG).input_ids[:kept])
        expected = scorer.score([query], [document], np.zeros((1, 2), np.int64))
        assert abs(found.scores[row] - expected.scores[0]) < 1e-6
        assert not expected.truncated.any() or row == 2


def test_windows_are_documents_of_their_own(causal: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal)
    bare = len(tokenizer(LINES.format(query="sweet fruit", document="")).input_ids)
    scorer = opened(causal, prompt=LINES, max_length=bare + 20, windows="max", stride=20)
    found = scorer.score(["sweet fruit"], [LONG], np.zeros((1, 2), np.int64))
    tokens = tokenizer(LONG).input_ids
    parts = [tokenizer.decode(tokens[begin : begin + 20]) for begin in range(0, len(tokens), 20)]
    alone = scorer.score(["sweet fruit"], parts, np.array([(0, row) for row in range(len(parts))]))
    assert abs(found.scores[0] - alone.scores.max()) < 1e-5
    assert found.windows.tolist() == [int(alone.scores.argmax())]


def test_a_pair_has_the_same_score_whatever_is_scored_with_it(causal: Path) -> None:
    scorer = opened(causal, prompt=PROMPT)
    together = scores(scorer)
    documents = (*DOCUMENTS, LONG)
    for place in range(len(together)):
        query, document = QUERIES[place // len(documents)], documents[place % len(documents)]
        alone = scorer.score([query], [document], np.zeros((1, 2), np.int64)).scores
        assert alone.tolist() == together[place : place + 1].tolist()


# -- what is refused ------------------------------------------------------------------------------------------------------


def test_a_causal_model_that_says_nothing_asks_for_a_prompt(
    causal: Path, refused: Callable[[Callable[[], object]], str]
) -> None:
    assert refused(lambda: opened(causal)) == (
        f"model folder {causal} is a causal language model that does not say how a pair is written for it; choose the "
        "setting 'prompt', a text with {query} and {document}"
    )


def test_a_tokenizer_that_is_larger_than_its_network_is_refused(
    causal: Path, refused: Callable[[Callable[[], object]], str]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal)
    tokenizer.add_tokens([*(f"filler{number}" for number in range(len(tokenizer), 340)), "zebra"])
    tokenizer.save_pretrained(causal)
    scorer = opened(causal, prompt=PROMPT)
    assert refused(lambda: scores(scorer, ["zebra"])) == (
        f"model folder {causal}: its tokenizer gives tokens the numbers up to 340, and its network knows 340 tokens; they "
        "are not of one model"
    )


def test_an_answer_that_is_no_token_is_named(causal: Path, refused: Callable[[Callable[[], object]], str]) -> None:
    message = refused(lambda: opened(causal, prompt=PROMPT, answers=("yes", "certainly")))
    assert message == f"the answer 'certainly' is not one token of {causal}"


def test_a_chat_template_without_places_for_a_pair_is_refused(
    tmp_path: Path, causal: Path, refused: Callable[[Callable[[], object]], str]
) -> None:
    saved(causal, tmp_path / "saved", "flat")
    (tmp_path / "saved" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert refused(lambda: opened(tmp_path / "saved")) == (
        f"model folder {tmp_path / 'saved'}: its chat template has no place for messages of a query and a document; "
        "choose the setting 'prompt', a text with {query} and {document}"
    )
    (tmp_path / "saved" / "chat_template.jinja").write_text("{{ raise_exception('no roles') }}")
    message = refused(lambda: opened(tmp_path / "saved"))
    assert message == f"model folder {tmp_path / 'saved'}: its chat template fails: no roles"


def test_a_prompt_that_leaves_no_room_is_refused(causal: Path) -> None:
    with pytest.raises(
        RankpipeError, match=r"^max_length is 9; the prompt alone has \d+ tokens, so it must be at least"
    ):
        opened(causal, prompt=PROMPT, max_length=9)
