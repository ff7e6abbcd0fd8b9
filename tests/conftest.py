"""Fixtures for all tests: a store of its own for every test, and real data sets where there are any."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings

from rankpipe.cli import main
from rankpipe.data import Dataset
from rankpipe.data.dataset import data_folders
from rankpipe.models.tokens import quiet

settings.register_profile("rankpipe", deadline=None)  # how long an example takes is no property of the code
settings.load_profile("rankpipe")


WORDS = ("apple", "fruit", "road", "car", "sweet", "tree", "query", "passage")
"""Of the data set `garden`."""


class Called(NamedTuple):
    """What a command left: its exit status, and what it wrote to standard output and standard error."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test gets an empty store in its own folder: RANKPIPE_HOME."""
    home = tmp_path / "store"
    monkeypatch.setenv("RANKPIPE_HOME", str(home))
    return home


def _real(name: str) -> Path:
    """A file or folder of RANKPIPE_DATA; the test is skipped where there is none."""
    for folder in data_folders():
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"needs {name}: RANKPIPE_DATA names no folder that holds it")


@pytest.fixture
def lock() -> Callable[[Path], None]:
    """`lock(folder)` makes a folder read-only; the test is skipped where the user may write to it all the same."""

    def locked(folder: Path) -> None:
        folder.chmod(0o555)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write to read-only folders, as root may")

    return locked


@pytest.fixture(scope="session")
def tiny_ranker() -> Callable[..., Path]:
    """`tiny_ranker(folder, columns)`: write a ranker with weights drawn from a seed, and give its folder.

    The test is skipped where torch is not installed.
    """
    torch = pytest.importorskip("torch", reason="needs the extra 'dense'")
    from rankpipe.models.feature_ranker import FeatureRanker
    from rankpipe.models.ranker_folder import write_ranker

    def write(folder: Path, columns: tuple[str, ...] = ("score",), hidden: tuple[int, ...] = (4,)) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        write_ranker(FeatureRanker(len(columns), hidden), columns, folder)
        return folder

    return write


@pytest.fixture
def real_file() -> Callable[[str], Path]:
    """`real_file("letor-mq2008/Fold1/vali.txt.gz")`: that file of RANKPIPE_DATA."""
    return _real


@pytest.fixture
def real_dataset() -> Callable[[str], Dataset]:
    """`real_dataset("scifact")`: that folder of RANKPIPE_DATA as a Dataset."""
    return lambda name: Dataset.load(_real(name))


@pytest.fixture
def rankpipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """`rankpipe("run", "bm25")`: the command line, called in this process."""

    def call(*arguments: str | Path) -> Called:
        monkeypatch.setattr(sys, "argv", ["rankpipe", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        captured = capsys.readouterr()
        return Called(end.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def serve() -> Iterator[Callable[[ThreadingHTTPServer], None]]:
    """`serve(server)` lets a server answer until the test is over."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(server: ThreadingHTTPServer) -> None:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        running.append((server, thread))
        thread.start()

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    """A folder in BEIR layout: 40 documents of few words, 12 training queries, 4 dev, 4 test; two texts in common."""
    folder = tmp_path / "garden"
    (folder / "qrels").mkdir(parents=True)
    rng = np.random.default_rng(5)
    documents = []
    for number in range(40):
        first, second = rng.choice(WORDS, 2, replace=False)
        words = " ".join(rng.choice(WORDS, 6))
        documents.append(
            {
                "_id": f"d{number}",
                "title": f"The {first} {second} {number}",
                "text": f"The {first} is a {second} here. {words.capitalize()} and {words} {number}.",
            }
        )
    queries, lines = [], {"train": [], "dev": [], "test": []}
    for split, count in (("train", 12), ("dev", 4), ("test", 4)):
        for number in range(count):
            row = int(rng.integers(40))
            text = documents[row]["title"].lower() if number else "the apple tree"  # one text is in every split
            queries.append({"_id": f"{split}{number}", "text": text})
            lines[split].append(f"{split}{number}\td{row}\t2")
            lines[split].append(f"{split}{number}\td{(row + 1) % 40}\t1")
    for name, records in (("corpus", documents), ("queries", queries)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for split, judged in lines.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder in BEIR layout: four documents, one of them without text, three queries, one of stop words only."""
    folder = tmp_path / "pets"
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": "d1", "title": "Cats", "text": "The cat sat on the mat."},
        {"_id": "d2", "title": "Dogs", "text": "A dog took the bone of the cat."},
        {"_id": "d3", "title": "", "text": "Birds fly south in winter."},
        {"_id": "d4", "title": "Fish", "text": ""},
    ]
    queries = [
        {"_id": "q1", "text": "cat on a mat"},
        {"_id": "q2", "text": "winter birds"},
        {"_id": "q3", "text": "to be or not to be"},
    ]
    for name, records in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    judged = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t1\nq2\td3\t1\nq3\td4\t1\n"
    (folder / "qrels" / "test.tsv").write_text(judged, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_encoder() -> Callable[..., Path]:
    """`tiny_encoder(folder, ...)` writes an encoder with random weights of a seed; see write_tiny_encoder.

    The test is skipped where torch is not installed.
    """
    for package in ("torch", "transformers", "sentence_transformers"):
        pytest.importorskip(package, reason="needs the extra 'dense'")
    return write_tiny_encoder


def write_tiny_encoder(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 32,
    pooling: str | Sequence[str] | None = "mean",
    include_prompt: bool = True,
    dense: tuple[int, str] | None = None,
    normalise: bool = True,
    max_length: int = 48,
    described: Mapping[str, Any] | None = None,
) -> Path:
    """Write a BERT of two layers and its tokenizer as sentence-transformers does, and give the folder.

    pooling    None: a plain Hugging Face folder, without modules.json
    dense      outputs and activation of a Dense module
    described  content of config_sentence_transformers.json: prompts, similarity_fn_name
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        initializer_range=0.5,  # so large that different texts have quite different vectors
    )
    network = BertModel(config)
    save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", {**config.to_dict(), "architectures": ["BertModel"]})
    if pooling is None:
        return folder
    modules = ["Transformer", "Pooling"]
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    modes = [pooling] if isinstance(pooling, str) else list(pooling)
    _write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": hidden,
            "include_prompt": include_prompt,
            "pooling_mode": modes[0] if len(modes) == 1 else modes,
        },
    )
    if dense is not None:
        outputs, activation = dense
        modules.append("Dense")
        weights = {"linear.weight": torch.randn(outputs, hidden * len(modes)) / 4, "linear.bias": torch.randn(outputs)}
        _write_json(
            folder / "2_Dense" / "config.json",
            {
                "in_features": hidden * len(modes),
                "out_features": outputs,
                "bias": True,
                "activation_function": f"torch.nn.modules.activation.{activation}",
            },
        )
        save_file(weights, folder / "2_Dense" / "model.safetensors", metadata={"format": "pt"})
    if normalise:
        modules.append("Normalize")
    _write_json(
        folder / "modules.json",
        [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_{kind}" if number else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, kind in enumerate(modules)
        ],
    )
    if normalise:
        (folder / f"{len(modules) - 1}_Normalize").mkdir(exist_ok=True)
    _write_json(folder / "config_sentence_transformers.json", dict(described or {}))
    return folder


@pytest.fixture(scope="session")
def tiny_router(tiny_encoder: Callable[..., Path]) -> Callable[..., Path]:
    """`tiny_router(folder, query={...}, document={...})` writes an encoder with a Router; see write_tiny_router."""
    return write_tiny_router


def write_tiny_router(
    folder: Path,
    *,
    query: Mapping[str, Any] | None = None,
    document: Mapping[str, Any] | None = None,
    behind: str = "",
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """Let sentence-transformers write an encoder that has a route for queries and one for documents, and give the folder.

    query, document  what write_tiny_encoder is told of each; by default they differ in their seed
    behind           modules that both routes lead to, of 32 dimensions: "Dense, Normalize"
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base import modules

    told = {"query": {"seed": 1} if query is None else query, "document": document or {}}
    routes: dict[str, Any] = {}
    for role, made in told.items():
        encoder = write_tiny_encoder(folder.with_name(f"{folder.name}-{role}"), **made)
        routes[f"{role}_modules"] = list(SentenceTransformer(str(encoder), device="cpu").children())
    torch.manual_seed(0)
    kinds: dict[str, Any] = {"Dense": partial(modules.Dense, 32, 32), "Normalize": modules.Normalize}
    listed = [modules.Router.for_query_document(**routes), *(kinds[kind]() for kind in behind.split(", ") if kind)]
    model = SentenceTransformer(modules=listed, device="cpu", prompts=dict(prompts or {}))
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session")
def tiny_masked_lm() -> Callable[..., Path]:
    """`tiny_masked_lm(folder, ...)` writes a masked language model with random weights; see write_tiny_masked_lm.

    The test is skipped where torch is not installed.
    """
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="needs the extra 'dense'")
    return write_tiny_masked_lm


def write_tiny_masked_lm(
    folder: Path,
    *,
    seed: int = 0,
    bias: float = -3.0,
    spare: int = 0,
    pooling: Mapping[str, Any] | None = None,
    modules: Sequence[str] = ("MLMTransformer", "SpladePooling"),
    described: Mapping[str, Any] | None = None,
) -> Path:
    """Write a BERT of two layers with its head and tokenizer, and give the folder.

    bias     of every logit: the lower, the fewer terms a text has
    spare    numbers of the network's vocabulary that the tokenizer has no token for
    pooling  content of SpladePooling's config.json; None: a plain Hugging Face folder, without modules.json
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertForMaskedLM

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder) + spare
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    network = BertForMaskedLM(config)
    torch.nn.init.constant_(network.cls.predictions.bias, bias)
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    weights = {name: value for name, value in network.state_dict().items() if name not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", {**config.to_dict(), "architectures": ["BertForMaskedLM"]})
    if pooling is not None:
        _write_json(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
        _write_json(folder / "1_SpladePooling" / "config.json", pooling)
        listed = [
            {"idx": at, "name": str(at), "path": f"{at}_{kind}" if at else "", "type": f"{SPARSE_MODULES}.{kind}"}
            for at, kind in enumerate(modules)
        ]
        _write_json(folder / "modules.json", listed)
        _write_json(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder", **(described or {})})
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder() -> Callable[..., Path]:
    """`tiny_cross_encoder(folder, ...)` writes a sequence classifier with random weights; see write_tiny_cross_encoder.

    The test is skipped where torch is not installed.
    """
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="needs the extra 'dense'")
    return write_tiny_cross_encoder


def write_tiny_cross_encoder(
    folder: Path, *, seed: int = 0, hidden: int = 32, labels: Sequence[str] = ("relevant",)
) -> Path:
    """Write a BERT of two layers with a head over classes and its tokenizer, which tells the texts of a pair apart."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=_write_tokenizer(folder),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        initializer_range=0.2,
        id2label=dict(enumerate(labels)),
    )
    network = BertForSequenceClassification(config)
    save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", {**config.to_dict(), "architectures": ["BertForSequenceClassification"]})
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, {**told, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]})
    return folder


@pytest.fixture(scope="session")
def tiny_causal_lm() -> Callable[..., Path]:
    """`tiny_causal_lm(folder, ...)` writes a causal language model with random weights; see write_tiny_causal_lm.

    The test is skipped where torch is not installed.
    """
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="needs the extra 'llm'")
    return write_tiny_causal_lm


def write_tiny_causal_lm(
    folder: Path, *, seed: int = 0, kind: str = "Llama", chat: bool | str = True, positions: int = 2048, **settings: Any
) -> Path:
    """Write a causal language model of three layers, a tokenizer of bytes, words and capitals, and a chat template.

    kind      of network: Llama, Qwen3, Mistral
    chat      with a chat template, or this one; without, it begins every text with a token of its own
    settings  more of the network's configuration
    """
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer, processors

    folder.mkdir(parents=True, exist_ok=True)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [f"yes no Passage {letter} the apple fruit road car sweet [1] > [2]" for letter in ascii_uppercase] * 9
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([*texts, *["yes", "no"] * 99], 400, special_tokens=special, show_progress=False)
    if not chat:
        trained._tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token=special[0], eos_token=special[2]
    )
    tokenizer.chat_template = chat if isinstance(chat, str) else CHAT_TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    named = {
        "vocab_size": 400,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "initializer_range": 0.2,  # so large that different texts have quite different logits
        "max_position_embeddings": positions,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **settings,
    }
    config = getattr(transformers, f"{kind}Config")(**named)
    network = getattr(transformers, f"{kind}ForCausalLM")(config)
    with quiet():
        network.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


CHAT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

SPARSE_MODULES = "sentence_transformers.sparse_encoder.models"
"""Where models of sentence-transformers say that modules of sparse encoders stand."""


def _write_tokenizer(folder: Path) -> int:
    """Write a WordPiece tokenizer that knows letters, digits and a few words; give the size of its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,:-?")
    words = ["the", "apple", "fruit", "road", "car", "sweet", "query", "passage", "tree"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters), *words]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 64,
            **{
                name: f"[{name[:-6].upper()}]"
                for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
            },
        },
    )
    return len(pieces)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
