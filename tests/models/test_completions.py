"""Completions as JSON: what answers, and what errors, are made of what a server may send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rankpipe.models.completions import EXCERPT, ExhaustedError, answer, answer_seed, excerpt, message, refused_field
from rankpipe.models.endpoint import Endpoint
from rankpipe.models.language_model import Answer, Chat, Writing

ENDS = ("length", "stop")


def completion(content: object, finish: str = "stop", **more: object) -> bytes:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return json.dumps({"choices": [choice], **more}).encode()


def answered(body: bytes, beginning: str = "", **writing: Any) -> Answer:
    return answer(body, Chat("q", answer=beginning), Writing(**{"longest": 20, **writing}))


@pytest.mark.parametrize(
    "usage", [None, [], "many", {"prompt_tokens": True, "completion_tokens": -1}, {"prompt_tokens": 1.5}]
)
def test_counts_that_are_no_numbers_are_not_known(usage: object) -> None:
    assert answered(completion("text", usage=usage)) == Answer("text", ended=True)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ("\x00 \n", "\x00 \n"),
        ([], ""),
        (
            [{"type": "text", "text": "some "}, {"type": "image", "text": "no"}, "?", {"type": "text", "text": "text"}],
            "some text",
        ),
        ("\ud800 and \udc00", "\ufffd and \ufffd"),
        ("😀", "😀"),
    ],
)
def test_the_text_of_a_message(content: object, text: str) -> None:
    assert answered(completion(content)).text == text


def test_a_message_without_content_is_an_empty_text() -> None:
    assert answered(b'{"choices": [{"message": {"role": "assistant"}}]}') == Answer("", ended=True)


def test_a_line_break_that_json_forbids_and_a_mark_before_it_are_read() -> None:
    assert answered(b"\xef\xbb\xbf" + completion("two?lines").replace(b"?", b"\n")).text == "two\nlines"


def test_the_first_of_the_stop_texts_ends_a_text() -> None:
    stop = ("\n\n", "END")
    assert answered(completion("one END two\n\nthree", "length"), stop=stop) == Answer("one ", ended=True)
    assert answered(completion("one two", "length"), stop=stop) == Answer("one two", ended=False)


@pytest.mark.parametrize("content", ["The END is near. END", " \nThe END is near. END", " near. END"])
def test_a_beginning_that_the_server_repeats_is_taken_off_before_the_text_is_cut(content: str) -> None:
    assert answered(completion(content), "The END is", stop=("END",)).text == " near. "


def test_a_beginning_in_white_space_is_taken_off() -> None:
    assert answered(completion("\n- one"), "\n- ").text == "one"


def test_an_answer_whose_tokens_went_into_thinking_is_no_answer() -> None:
    for content in (None, " \n"):
        with pytest.raises(
            ExhaustedError, match=r"^wrote nothing within its tokens; a model that thinks first needs more"
        ):
            answered(completion(content, "length"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>\nfruit\n\nred</think>\n\nan apple", "an apple"),
        (" \n<think></think>an apple", "an apple"),
        ("fruit, so</think>\nan apple", "an apple"),  # its template began the thoughts
        ("what <think> means", "what <think> means"),
        ("<think> and </think> stand around thoughts", "stand around thoughts"),
        ("The <think> and </think> of R1", "The <think> and </think> of R1"),
        ("[THINK]\n\nfruit[/THINK]an apple", "an apple"),
    ],
)
def test_thoughts_are_no_part_of_an_answer_and_end_it_nowhere(content: str, text: str) -> None:
    assert answered(completion(content), stop=("\n\n",)) == Answer(text, ended=True)


def test_a_beginning_is_taken_off_behind_the_thoughts() -> None:
    assert answered(completion("<think>It is?</think>\n\nIt is red."), "It is").text == " red."


@pytest.mark.parametrize(
    "said",
    [
        {"content": "\n\nan apple", "reasoning_content": "fruit"},
        {"content": [{"type": "thinking", "thinking": "fruit"}, {"type": "text", "text": "\n\nan apple"}]},
    ],
)
def test_what_stands_between_thoughts_and_answer_ends_nothing(said: dict[str, Any]) -> None:
    body = json.dumps({"choices": [{"message": said, "finish_reason": "stop"}]}).encode()
    assert answered(body, stop=("\n\n",)) == Answer("an apple", ended=True)


@pytest.mark.parametrize(
    "said",
    [
        {"content": "<think>\nfruit"},
        {"content": "<think>fruit</think>\n"},
        {"content": None, "reasoning_content": "fruit"},
        {"reasoning": "fruit"},
        {"content": "", "reasoning_details": [{"text": "fruit"}]},
        {"content": [{"type": "thinking", "thinking": "fruit"}]},
    ],
)
def test_thoughts_alone_are_no_answer(said: dict[str, Any]) -> None:
    body = {finish: json.dumps({"choices": [{"message": said, "finish_reason": finish}]}).encode() for finish in ENDS}
    with pytest.raises(ExhaustedError, match=r"^wrote nothing within its tokens; a model that thinks first needs more"):
        answered(body["length"])
    with pytest.raises(ExhaustedError) as raised:
        answered(body["stop"], stop=("\n\n", "END"))
    assert str(raised.value) == (
        "gave thoughts and no answer: the server takes the answer for one of them (its reasoning parser), or "
        "[\"\\n\\n\", \"END\"] ended them ('fields: {stop: null}'); a model that is told not to think, by 'fields' of the "
        "endpoint, has none"
    )
    with pytest.raises(ExhaustedError, match=r"\(its reasoning parser\); a model"):
        answered(body["stop"])


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "'length_field: max_completion_tokens' of the endpoint gives it another name",
        ),
        (
            "Unsupported value: 'temperature' does not support 0.0 with this model.",
            "'fields: {temperature: null}' of the endpoint leaves it out",
        ),
        (
            '[{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]',
            "'fields: {seed: null}' of the endpoint leaves it out",
        ),
        ("'max_tokens' is too large: 9000. This model supports at most 4096 completion tokens", None),
        (
            "Unsupported parameter: 'top_p' is not supported when 'temperature' is set",
            "'fields: {top_p: null}' of the endpoint leaves it out",
        ),
        ("`seed` and `user` cannot both be given", "'fields: {seed: null}' of the endpoint leaves it out"),
        ("the temperature of this model is not supported", None),
    ],
)
def test_a_field_that_a_server_does_not_take_is_known_by_its_name(said: str, advice: str | None) -> None:
    assert refused_field(said, Endpoint(url="http://a/v1")) == advice


def test_the_other_name_is_advised_for_a_length_that_is_not_known() -> None:
    said = "Unknown field 'max_completion_tokens'; did you mean 'max_tokens'?"
    advice = "'length_field: max_tokens' of the endpoint gives it another name"
    assert refused_field(said, Endpoint(url="http://a/v1", length_field="max_completion_tokens")) == advice


def test_half_a_character_at_the_end_of_what_was_cut_is_left_out() -> None:
    assert Answer("bl\ufffd\ufffd", ended=False).whole().text == "bl"
    assert Answer("bl\ufffd", ended=True).whole().text == "bl\ufffd"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b" \n", "answers with what is no JSON: nothing"),
        (b"<html>", "answers with what is no JSON: <html>"),
        (b"[" * 40_000, f"answers with what is no JSON: {'[' * 40_000}"),
        (b"[" + b"9" * 9000, f"answers with what is no JSON: [{'9' * 9000}"),
        (b"[]", "answers with JSON that is no completion: []"),
        (b"null", "answers with JSON that is no completion: null"),
        (b'{"choices": {}}', 'answers with JSON that is no completion: {"choices": {}}'),
        (b'{"choices": [{"text": "x"}]}', 'answers with JSON that is no completion: {"choices": [{"text": "x"}]}'),
        (completion(7), f"answers with JSON that is no completion: {completion(7).decode()}"),
        (
            completion("I", "abort"),
            f"broke its answer off: {json.dumps(json.loads(completion('I', 'abort'))['choices'][0])}",
        ),
        (
            b'{"choices": [{"message": {"content": "I"}, "error": {"code": 502, "message": "no worker"}}]}',
            "broke its answer off: no worker",
        ),
    ],
    ids=range(11),
)
def test_what_is_no_completion_is_said(body: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=r"^(answers with|broke)") as raised:
        answered(body)
    assert str(raised.value) == text


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "no such field", "type": "x"}}',
        b'{"error": "no such field"}',
        b'{"object": "error", "message": "no such field"}',
        b'{"detail": "no such field"}',
        b"no such field",
    ],
)
def test_an_error_is_found_where_servers_say_it(body: bytes) -> None:
    assert message(body) == "no such field"


def test_an_excerpt_is_one_short_line_without_commands_to_a_terminal() -> None:
    assert excerpt("a \x1b[2J\r\n\tb\ufffd") == "a [2J b\ufffd"
    assert excerpt("x" * EXCERPT) == "x" * EXCERPT
    assert excerpt("x" * (EXCERPT + 1)) == "x" * EXCERPT + "..."


def test_answers_of_neighbouring_seeds_have_no_seed_in_common() -> None:
    seeds = [answer_seed(seed, number) for seed in range(8) for number in range(8)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [answer_seed(seed, 0) for seed in (0, 7, 2**31 - 1)] == [0, 7, 2**31 - 1]
