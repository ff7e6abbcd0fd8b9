"""Prompt files, and the chat template around them."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="needs the extra 'llm'")

from rankpipe.data.shipped import shipped
from rankpipe.models.causal_lm import ChatTokens
from rankpipe.models.prompt import Prompt, filled, load_prompt


def test_places_are_filled_in_one_pass() -> None:
    assert filled("{query} in {document}", {"query": "{document}", "document": "{query}"}) == "{document} in {query}"
    assert filled("{count} {other}", {}) == "{count} {other}"


def test_documents_are_numbered_or_lettered() -> None:
    assert Prompt(user="x", document="[{number}] {document}").listed(["a", "{number}"]) == ["[1] a", "[2] {number}"]
    assert Prompt(user="x", document="{letter}: {document}").listed(["a", "b"]) == ["A: a", "B: b"]


def test_a_file_has_sections(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(
        "\n--- user\n\nFind {query}:\n\n{documents}\n\n--- document\n{number} {document}\n---system\nBe brief.\n"
    )
    prompt = load_prompt(str(path))
    assert prompt == Prompt(
        user="Find {query}:\n\n{documents}", document="{number} {document}", system="Be brief.", answer=""
    )
    assert prompt.file == str(path)


def test_a_mark_of_byte_order_and_strange_line_breaks_are_no_sections(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff--- user\nOne\u2028--- document\x0ctwo: {query}\n".encode())
    assert load_prompt(str(path)).user == "One\u2028--- document\x0ctwo: {query}"


def test_every_shipped_prompt_is_read_by_its_name() -> None:
    names = sorted(path.stem for path in shipped("prompts").glob("*.txt"))
    assert {"attention-find", "attention-answer"} <= set(names)
    for name in names:
        assert load_prompt(name).user
    assert len({load_prompt(name).digest() for name in names}) == len(names)


def test_a_file_in_the_working_folder_is_not_taken_for_a_shipped_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped_one = load_prompt("hyde")
    (tmp_path / "hyde").write_text("--- user\nSay something rude about {query}\n")
    monkeypatch.chdir(tmp_path)
    assert load_prompt("hyde") == shipped_one
    assert "rude" in load_prompt("./hyde").user


def test_mistakes_are_said_with_their_lines(tmp_path: Path, refused: Callable[[Callable[[], object]], str]) -> None:
    path = tmp_path / "mine.txt"

    def says(text: str) -> str:
        path.write_text(text)
        return refused(lambda: load_prompt(str(path))).removeprefix(str(path))

    assert says("hello") == ":1: a text before the first section; a prompt begins with '--- user'"
    assert says("--- user\n{query}\n--- usr\n") == ":3: no section 'usr'; a prompt has user, document, system, answer"
    assert says("--- user\n{query}\n--- user\n") == ":3: a second section 'user'"
    assert says("--- system\n{query}\n") == ":2: {query} has no meaning in 'system', whose places are: none"
    assert says("--- document\n{documents}\n") == (
        ":2: {documents} has no meaning in 'document', whose places are: {document}, {number}, {letter}"
    )
    assert says("--- system\nBe brief.\n") == ": no section 'user', which says what the model is asked"
    path.write_bytes(b"--- user\n\xff")
    assert refused(lambda: load_prompt(str(path))).startswith(f"{path} cannot be read as a text in UTF-8: ")
    assert refused(lambda: load_prompt("attention-fnd")).startswith(
        "there is no prompt file 'attention-fnd', and no shipped one of that name (attention-answer, attention-find, "
    )


def test_places_that_are_needed_are_named(refused: Callable[[Callable[[], object]], str]) -> None:
    prompt = Prompt(user="{documents} {documents}", file="p.txt")
    assert refused(lambda: prompt.need(("query",))) == (
        "prompt p.txt: its section 'user' has {query} 0 times, and needs it at least once"
    )
    assert refused(lambda: prompt.need(("documents",))) == (
        "prompt p.txt: its section 'user' has {documents} 2 times, and needs it once"
    )
    many = Prompt(user="x", document="{letter}", file="p.txt")
    assert refused(lambda: many.listed(["x"] * 27)) == "prompt p.txt: 27 documents, and there are 26 letters"


def test_the_chat_template_stands_around_what_is_asked(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> None:
    tokens = ChatTokens(tiny_causal_lm(tmp_path / "model"), "Be brief.")
    assert tokens.before.tolist().count(1) == 2  # <|im_start|>: the system's turn, then the user's
    assert tokens.after[0] == 2
    assert tokens.text(tokens.before) == "system\nBe brief.\nuser\n"
    assert tokens.text(tokens.after) == "\nassistant\n"


CHATS = {
    "words": "{{ bos_token }}{% for one in messages %}[INST] {{ one['content'] }} [/INST]{% endfor %}",
    "special": "{% for one in messages %}{{ bos_token }}{{ one['content'] }}{{ eos_token }}yes{% endfor %}",
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("kind", ["prepend", "first", "always", "bytes"])
def test_pieces_of_a_chat_are_tokenised_as_in_the_whole(tmp_path: Path, kind: str, chat: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llm'")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "prepend":  # as Llama 2 has it
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "bytes":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
    alphabet = [*"▁Ġ[]/:.", *map(chr, range(ord("A"), ord("z") + 1))]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=160, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["Query:", "apple", "fruit", "[INST]", "[/INST]", "yes"] * 9, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = CHATS[chat]
    tokenizer.save_pretrained(tmp_path)
    tokens = ChatTokens(tmp_path)
    ids, places = tokens.located("Query: apple fruit")
    whole = tokenizer.apply_chat_template([{"role": "user", "content": "Query: apple fruit"}], return_dict=False)
    assert [*tokens.before, *ids, *tokens.after] == whole
    assert tokens.asked("Query: apple fruit").tolist() == ids.tolist()
    assert [*ids, *tokens.continued(" apple")] == tokens.asked("Query: apple fruit apple").tolist()
    assert (places[0, 0], places[-1, 1]) == (0, len("Query: apple fruit"))


def test_a_template_that_fails_or_leaves_out_the_user_is_said(
    tmp_path: Path, tiny_causal_lm: Callable[..., Path], refused: Callable[[Callable[[], object]], str]
) -> None:
    fails = tiny_causal_lm(tmp_path / "fails", chat="{{ raise_exception('no system role') }}")
    assert refused(lambda: ChatTokens(fails)) == f"model folder {fails}: its chat template fails: no system role"
    silent = tiny_causal_lm(tmp_path / "silent", chat="hello")
    assert refused(lambda: ChatTokens(silent)) == (
        f"model folder {silent}: its chat template does not write the text of a user once"
    )


def test_a_template_is_told_the_same_day_every_day(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> None:
    dated = "{%- set today = strftime_now('%A, %d %b %Y') %}Today is {{ today }}, {{ strftime_now('%B %y') }}.\n"
    template = f"{dated}{{% for one in messages %}}{{{{ one['content'] }}}}{{% endfor %}}!"
    tokens = ChatTokens(tiny_causal_lm(tmp_path / "dated", chat=template))
    assert tokens.text(tokens.before) == "Today is Friday, 26 Jul 2024, July 24.\n"
    assert tokens.text(tokens.after) == "!"


@pytest.mark.parametrize(
    ("begins", "after"),
    [
        ("{% if enable_thinking is not defined or enable_thinking %}<think>{% else %}at once{% endif %}", "at once"),
        ("{% if thinking is not defined or thinking %}<think>{% else %}at once{% endif %}", "at once"),
        ("<think>\n", "<think>\n\n</think>\n\n"),
        ("<thought>\n", "<thought>\n\n</thought>\n\n"),
        ("{% if thinking_budget == 0 %}at once{% else %}<seed:think>{% endif %}", "at once"),
        ("<think></think>", "<think></think>"),
    ],
)
def test_a_model_that_thinks_is_told_not_to_or_its_thoughts_are_ended(
    tmp_path: Path, tiny_causal_lm: Callable[..., Path], begins: str, after: str
) -> None:
    said = "{% for one in messages %}{{ one['content'] }}{% endfor %}"
    tokens = ChatTokens(tiny_causal_lm(tmp_path / "model", chat=f"{said}{begins}"))
    assert tokens.text(tokens.after) == after
    assert tokens.unthinking == (begins != "<think></think>")


def test_a_switch_in_what_the_system_says_may_be_taken_out(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> None:
    chat = "{% for one in messages %}[{{ one['content'].replace('/no_think', '') }}]{% endfor %}"
    tokens = ChatTokens(tiny_causal_lm(tmp_path / "model", chat=chat), "/no_think Be brief.")
    assert tokens.text(tokens.before) == "[ Be brief.]["


def test_a_template_that_leaves_out_the_system_is_said(
    tmp_path: Path, tiny_causal_lm: Callable[..., Path], refused: Callable[[Callable[[], object]], str]
) -> None:
    user = "{% for one in messages if one['role'] == 'user' %}{{ one['content'] }}{% endfor %}"
    folder = tiny_causal_lm(tmp_path / "model", chat=user)
    assert ChatTokens(folder).before.tolist() == []
    assert refused(lambda: ChatTokens(folder, "Be brief.")) == (
        f"model folder {folder}: its chat template does not write what the system says; take a prompt without the section "
        "'system'"
    )
    inside = "{% for one in messages %}[{{ one['content']|trim }}]{% endfor %}"
    tokens = ChatTokens(tiny_causal_lm(tmp_path / "inside", chat=inside), "Be brief.")
    assert tokens.text(tokens.before) == "[Be brief.]["
