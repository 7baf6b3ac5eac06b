"""A small model Hub on loopback, for tests that push and pull with the real `huggingface_hub` client.

It speaks the Hub's HTTP interface for models as far as the client and transformers use it: repositories,
commits, branches, LFS uploads, downloads with ranges, cards. All of it is held in memory. There are no pull
requests, tags, data sets or Xet, downloads are never redirected, and `.gitignore` is not obeyed.
"""

import base64
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from typing_extensions import Self  # typing has it from Python 3.11 on

USER = "user"  # the account that the token belongs to
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".h5", ".npz", ".parquet")
LFS_SIZE = 10 * 2**20  # bytes from which on every file is LFS, as on the Hub
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Answer:
    body: Any = b""  # bytes, or what becomes JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """Ends a request with an error as the client reads it: status, message, the Hub's error code."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None):
        super().__init__(message)
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer({"error": message}, status, named | (headers or {}))


class File:
    """One version of one file. The client names a blob in its cache by `etag`."""

    def __init__(self, content: bytes, is_lfs: bool) -> None:
        sha256, size = hashlib.sha256(content).hexdigest(), len(content)
        pointer = POINTER.format(sha256, size).encode()
        self.content, self.is_lfs = content, is_lfs
        self.blob_id = git_hash(pointer if is_lfs else content)
        self.etag = sha256 if is_lfs else self.blob_id
        blob = {"oid": self.blob_id, "blobId": self.blob_id}  # trees and repositories name it differently
        self.facts: dict[str, Any] = {"type": "file", "size": size, **blob}
        if is_lfs:
            self.facts["lfs"] = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": len(pointer)}


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, File]

    def list_folder(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """What lies in `folder` ("" is the root), at any depth if `recursive`."""
        root, entries = PurePosixPath(folder), {}
        for path, file in sorted(self.files.items()):
            for place in [*reversed(PurePosixPath(path).parents), PurePosixPath(path)]:
                if place.parent == root or (recursive and root in place.parents):
                    oid = git_hash(f"{self.oid} {place}".encode())
                    directory = {"type": "directory", "oid": oid, "size": 0}
                    entries[str(place)] = file.facts if str(place) == path else directory
        entries.pop(".", None)  # pathlib holds "." to be its own parent
        if folder and not entries:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        return [{**facts, "path": path} for path, facts in entries.items()]


class Repo:
    """The commits of one repository and the branches that point to them."""

    def __init__(self, name: str, private: bool) -> None:
        self.name, self.private = name, private
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        self.add_commit("main", {".gitattributes": File(attributes.encode(), False)}, "initial commit")

    def add_commit(self, branch: str, files: dict[str, File], title: str) -> str:
        # The count keeps two commits of one tree apart, as their dates do in git.
        parts = [self.name, len(self.commits), title, *[(p, f.blob_id) for p, f in sorted(files.items())]]
        oid = hashlib.sha1(repr(parts).encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files)
        self.branches[branch] = oid
        return oid

    def at(self, revision: str) -> Commit:
        """The commit that a branch or a commit hash stands for."""
        oid = self.branches.get(revision.removeprefix("refs/heads/"), revision)
        if oid not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]


def read_card(text: str) -> Any:
    """The metadata of a README, {} where there is none; a `yaml.YAMLError` where it is not YAML."""
    block = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(\n|$)", text, re.DOTALL)
    return (yaml.safe_load(block[1]) or {}) if block else {}


def find_card_faults(card: Any) -> list[str]:
    """Which of the Hub's rules for `tags` and `model-index` a card's metadata breaks."""
    if not isinstance(card, dict):
        return ["metadata must be a mapping"]
    faults = [] if isinstance(card.get("tags", []), list) else ['"tags" must be an array']
    for m, model in enumerate(card.get("model-index") or []):
        needed = [(f"model-index[{m}]", model, "name")]
        for r, result in enumerate(model.get("results") or []):
            place = f"model-index[{m}].results[{r}]"
            needed += [(f"{place}.{part}", result.get(part) or {}, "type") for part in ("task", "dataset")]
            needed += [(f"{place}.dataset", result.get("dataset") or {}, "name")]
            for i, metric in enumerate(result.get("metrics") or [{}]):
                needed += [(f"{place}.metrics[{i}]", metric, key) for key in ("type", "value")]
        faults += [f'"{place}.{key}" is required' for place, part, key in needed if part.get(key) is None]
    return faults


class Handler(BaseHTTPRequestHandler):
    """The endpoints: each gets the unquoted groups of its route and gives an `Answer`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small answer waits for the client's delayed acknowledgement

    def __init__(self, hub: "LoopbackHub", *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def respond(self) -> None:
        url = urlsplit(self.path)
        # Always, or the body would be taken for the next request of the connection.
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.query = parse_qs(url.query)
        self.hub.requests.append(f"{self.command} {url.path}")
        try:
            answer = self.find_answer("GET" if self.command == "HEAD" else self.command, url.path)
        except Refused as refused:
            answer = refused.answer
        is_bytes = isinstance(answer.body, bytes)
        body = answer.body if is_bytes else json.dumps(answer.body).encode()
        kind = {"Content-Type": "application/octet-stream" if is_bytes else "application/json"}
        self.send_response(answer.status)
        for key, value in {**kind, **answer.headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

    def find_answer(self, method: str, path: str) -> Answer:
        for pattern, endpoint in ROUTES.items():
            match = re.fullmatch(pattern, f"{method} {path}")  # still quoted: a branch may be `a%2Fb`
            if match:
                with self.hub.lock:
                    return endpoint(self, *[unquote(group or "") for group in match.groups()])
        raise Refused(404, f"This Hub has no endpoint {method} {path}")

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: `LoopbackHub.requests` has it."""

    def is_logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def repo(self, name: str, write: bool = False) -> Repo:
        """The repository, if this request may read it, or `write` to it."""
        repo = self.hub.repos.get(name)
        # Without a login a repository that is not there looks like a private one.
        if (repo is None or repo.private or write) and not self.is_logged_in():
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        if repo is None:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repo

    def whoami(self) -> Answer:
        if not self.is_logged_in():
            raise Refused(401, "Invalid credentials in Authorization header")
        access = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
        return Answer({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": access})

    def create(self) -> Answer:
        asked = json.loads(self.body)
        owner, private = asked.get("organization") or USER, asked.get("visibility") == "private"
        name = f"{owner}/{asked['name']}"
        if not self.is_logged_in():
            raise Refused(401, "Invalid username or password.")
        if owner != USER or asked.get("type", "model") != "model":
            raise Refused(403, f'No right to create a {asked.get("type", "model")} under "{owner}"')
        status = 409 if name in self.hub.repos else 200
        self.hub.repos.setdefault(name, Repo(name, private))
        return Answer({"url": f"{self.hub.url}/{name}", "name": name}, status)

    def validate_yaml(self) -> Answer:
        try:
            card = read_card(json.loads(self.body)["content"])
            faults = find_card_faults(card)
        except yaml.YAMLError as error:
            card, faults = {}, [f"Invalid YAML: {error}"]
        warnings = [] if card or faults else [{"message": "empty or missing yaml metadata in repo card"}]
        errors = [{"message": fault} for fault in faults]
        return Answer({"errors": errors, "warnings": warnings}, 400 if faults else 200)

    def preupload(self, name: str, revision: str) -> Answer:
        files, answers = self.repo(name, write=True).at(revision).files, []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            is_lfs = path.endswith(LFS_SUFFIXES) or asked["size"] >= LFS_SIZE
            # By the hash of what is there already the client leaves out what has not changed.
            known = {"oid": files[path].etag} if path in files else {}
            mode = {"uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            answers.append({"path": path, **mode, **known})
        return Answer({"files": answers})

    def lfs_batch(self, name: str) -> Answer:
        self.repo(name, write=True)
        objects = [{"oid": asked["oid"], "size": asked["size"]} for asked in json.loads(self.body)["objects"]]
        for asked in objects:
            if asked["oid"] not in self.hub.uploads:
                asked["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
        return Answer({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:  # no login here: the client sends no token along
            raise Refused(400, f"The content is not that of {oid}")
        self.hub.uploads[oid] = self.body
        return Answer()

    def commit(self, name: str, revision: str) -> Answer:
        repo, branch = self.repo(name, write=True), revision.removeprefix("refs/heads/")
        if branch not in repo.branches or "create_pr" in self.query:
            raise Refused(404, f"No branch to commit to: {self.path}", "RevisionNotFound")
        files, header = dict(repo.at(branch).files), {"summary": ""}
        for line in map(json.loads, self.body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                files[value["path"]] = File(self.hub.uploads[value["oid"]], True)
            else:  # deletedFile, deletedFolder
                path = value["path"].rstrip("/")
                gone = [p for p in files if f"{p}/".startswith(f"{path}/")]
                if not gone:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                files = {p: file for p, file in files.items() if p not in gone}
        if header.get("parentCommit") not in (None, repo.branches[branch]):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        oid = repo.add_commit(branch, files, header["summary"])
        return Answer({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def create_branch(self, name: str, branch: str) -> Answer:
        repo = self.repo(name, write=True)
        if branch in repo.branches:
            raise Refused(409, f"Reference already exists: {branch}")
        repo.branches[branch] = repo.at(json.loads(self.body).get("startingPoint", "main")).oid
        return Answer()

    def info(self, name: str, revision: str = "main") -> Answer:
        repo = self.repo(name)
        commit = repo.at(revision)
        detail = "blobs" in self.query
        siblings = [{"rfilename": p, **(f.facts if detail else {})} for p, f in sorted(commit.files.items())]
        readme = commit.files.get("README.md")
        card = read_card(readme.content.decode()) if readme else {}
        shown = card.keys() & {"tags", "pipeline_tag", "library_name", "model-index"}
        about = {"id": name, "author": USER, "private": repo.private, "gated": False, "tags": []}
        found = {"sha": commit.oid, "siblings": siblings, "cardData": card}
        return Answer({**about, **found, **{key: card[key] for key in shown}})

    def tree(self, name: str, revision: str, folder: str) -> Answer:
        recursive = self.query.get("recursive", [""])[0].lower() == "true"
        return Answer(self.repo(name).at(revision).list_folder(folder.strip("/"), recursive))

    def paths_info(self, name: str, revision: str) -> Answer:
        asked = parse_qs(self.body.decode()).get("paths", [])
        everything = self.repo(name).at(revision).list_folder("", recursive=True)
        return Answer([entry for entry in everything if entry["path"] in asked])

    def refs(self, name: str) -> Answer:
        branches = self.repo(name).branches.items()
        heads = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": oid} for b, oid in branches]
        return Answer({"branches": heads, "tags": [], "converts": [], "pullRequests": []})

    def resolve(self, name: str, revision: str, path: str) -> Answer:
        commit = self.repo(name).at(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:  # `headers`, so that the client can remember that it is not there
            raise Refused(404, "Entry not found", "EntryNotFound", headers)
        file, size = commit.files[path], len(commit.files[path].content)
        headers["ETag"] = f'"{file.etag}"'
        if file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(size)}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or asked[0] == "bytes=-":
            return Answer(file.content, 200, headers)
        start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
        stop = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
        if start >= stop:
            return Answer(b"", 416, headers | {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Answer(file.content[start:stop], 206, headers)

    def other_type(self) -> Answer:
        raise Refused(404, "Repository not found", "RepoNotFound")


REPO = "((?:[^/]+/)?[^/]+)"  # "user/model", or a bare "model", which is never there but gets its own answer
ROUTES: dict[str, Callable[..., Answer]] = {
    "GET /api/whoami-v2": Handler.whoami,
    "POST /api/repos/create": Handler.create,
    "POST /api/validate-yaml": Handler.validate_yaml,
    f"POST /api/models/{REPO}/preupload/([^/]+)": Handler.preupload,
    rf"POST /{REPO}\.git/info/lfs/objects/batch": Handler.lfs_batch,
    "PUT /lfs/([0-9a-f]{64})": Handler.lfs_upload,
    f"POST /api/models/{REPO}/commit/([^/]+)": Handler.commit,
    f"POST /api/models/{REPO}/branch/([^/]+)": Handler.create_branch,
    f"POST /api/models/{REPO}/paths-info/([^/]+)": Handler.paths_info,
    f"GET /api/models/{REPO}/tree/([^/]+)(/.*)?": Handler.tree,
    f"GET /api/models/{REPO}/refs": Handler.refs,
    f"GET /api/models/{REPO}/revision/([^/]+)": Handler.info,
    f"GET /api/models/{REPO}": Handler.info,
    "GET /(?:api/)?(?:datasets|spaces)/.+": Handler.other_type,
    f"GET /{REPO}/resolve/([^/]+)/(.+)": Handler.resolve,
}


class Server(ThreadingHTTPServer):
    """Keeps the tracebacks of its own faults, which http.server would print."""

    def __init__(self, hub: "LoopbackHub") -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, hub))

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that went away is its own affair
            self.hub.faults.append(traceback.format_exc())


class LoopbackHub:
    """The Hub: a context manager that serves while it is open.

    Attributes:
        url: What `HF_ENDPOINT` has to be.
        token: The one access token there is; it belongs to the account `user`.
        repos: The repositories by id, for a look from the test's side.
        requests: `"METHOD /path"` of every request in order.
        faults: Tracebacks of requests on which this server itself failed; `run` raises on them.
    """

    def __init__(self) -> None:
        self.token = "hf_loopback"
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.lock = threading.Lock()
        self.server = Server(self)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def run(
        self, script: str, *, cache: Path, token: bool = True, check: bool = True, **env: str | Path
    ) -> subprocess.CompletedProcess[str]:
        """Runs Python code in a new process whose Hub is this one.

        A new process, because `huggingface_hub` reads its environment once, when it is imported.

        Args:
            script: The code, indented or not.
            cache: `HF_HOME` of the process; an empty folder for one that has to download everything.
            token: Whether the process is logged in.
            check: Whether a failure raises.
            **env: More environment variables.

        Raises:
            AssertionError: The process failed, or this server did; with all output.
        """
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
        switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        login = {"HF_TOKEN": self.token} if token else {}
        named = {key: str(value) for key, value in env.items()}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=inherited | own | dict.fromkeys(switches, "1") | login | named,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check and (done.returncode != 0 or self.faults):
            ended = [f"exit code {done.returncode}", done.stdout, done.stderr]
            raise AssertionError("\n".join([*ended, *self.faults, *self.requests[-10:]]))
        return done


@pytest.fixture
def loopback_hub() -> Iterator[LoopbackHub]:
    """An empty Hub for one test."""
    with LoopbackHub() as hub:
        yield hub
