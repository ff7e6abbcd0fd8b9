"""Where a language model answers: what is an address of a server."""

import pytest
from pydantic import ValidationError

from rankpipe import Pipeline, Query2doc
from rankpipe.errors import PipelineError
from rankpipe.models.endpoint import Endpoint


def test_an_address_ends_without_a_slash() -> None:
    assert Endpoint(url="http://localhost:8000/v1/").url == "http://localhost:8000/v1"
    assert Endpoint(url="https://[::1]").url == "https://[::1]"


def test_a_scheme_in_capitals_means_the_same() -> None:
    assert Endpoint(url="HTTPS://Host/V1").url == "https://Host/V1"


def test_nobody_waits_longer_than_a_week() -> None:
    assert Endpoint(url="http://a/v1", timeout=604_800).timeout == 604_800
    with pytest.raises(ValidationError, match="less than or equal to 604800"):
        Endpoint(url="http://a/v1", timeout=604_801)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://a/v1", "http://", "http://a b/v1", "http://a/v1\x7f", "http://ü/v1", "http://a/v1?b"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="not the address of a server, such as http://localhost:8000/v1"):
        Endpoint(url=url)


@pytest.mark.parametrize("url", ["http://a:99999/v1", "http://a:b/v1"])
def test_what_is_no_port_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="Port"):
        Endpoint(url=url)


def test_an_address_bears_no_password() -> None:
    with pytest.raises(ValidationError, match="'key_variable' names the environment variable that holds a key"):
        Endpoint(url="http://me:secret@localhost/v1")


def test_fields_are_json_and_none_of_those_that_answers_are_known_by() -> None:
    told = {"temperature": None, "chat_template_kwargs": {"enable_thinking": False}}
    assert Endpoint(url="http://a/v1", fields=told).fields == told
    for name in ("model", "messages", "n", "stream"):
        with pytest.raises(ValidationError, match=f"'{name}' is no field that can be set here"):
            Endpoint(url="http://a/v1", fields={name: 2})


def test_fields_of_a_pipeline_survive_its_yaml() -> None:
    text = """
        stages:
          - query2doc:
              writer: any
              endpoint:
                url: http://a/v1
                fields: {seed: null, stop: [a, b], provider: {order: [x]}}
          - bm25
    """
    pipeline = Pipeline.from_yaml(text)
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    [stage, _] = pipeline.stages
    assert isinstance(stage, Query2doc)
    assert stage.endpoint is not None
    assert stage.endpoint.fields == {"seed": None, "stop": ["a", "b"], "provider": {"order": ["x"]}}
    with pytest.raises(
        PipelineError, match=r"7:25: 'query2doc' setting 'endpoint.fields': 'n' is no field that can be set"
    ):
        Pipeline.from_yaml(text.replace("seed: null", "n: 2"))
