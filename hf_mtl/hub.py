"""A folder, written for the occasion, to the Hub in one commit; and some files of a repository from there."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx2
from huggingface_hub import CommitInfo, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

__all__ = ["PUSH_OPTIONS", "fetch_folder", "push_folder"]

# What `push_folder` takes beside the repository and the writer.
PUSH_OPTIONS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")


def push_folder(
    repo_id: str,
    write: Callable[[str, str], None],
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Makes the repository (and the branch) where needed and uploads what `write` puts into a folder.

    Args:
        repo_id: `user/name`, or a name in the token's own account.
        write: called with a new folder and the repository's full id.
        commit_message: first line of the commit.
        commit_description: the rest of it.
        private: whether a new repository is private; None: the account's default.
        token: Hub token; None: the one of `hf auth login`.
        revision: a branch, `main` by default.
        create_pr: a pull request in place of a commit.

    Raises:
        PermissionError: the Hub does not let this token write there, or there is no token.
        ConnectionError: the Hub cannot be reached.
    """
    api = HfApi(token=token)
    try:
        model_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise PermissionError(
            f"The Hub does not let you write to {repo_id!r} ({error.response.status_code}). Log in by `hf auth login`, "
            f"or give token=... of an account that may. ({error})"
        ) from error
    except httpx2.TransportError as error:
        raise ConnectionError(
            f"{repo_id!r} cannot be pushed: the Hub at {api.endpoint} cannot be reached ({error}). Save the model by "
            "save_pretrained(folder), and push when there is a network."
        ) from error
    if revision is not None and not create_pr:
        api.create_branch(model_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write(folder, model_id)
        return api.upload_folder(
            repo_id=model_id,
            folder_path=folder,
            commit_message=commit_message or "Upload multi-task model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def fetch_folder(
    name: str | os.PathLike[str],
    files: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """A folder with the files of a repository that match one of the patterns `files`. A folder here is itself.

    Raises:
        OSError: there is neither such a folder nor such a repository that this token may read, or no network.
    """
    if os.path.isdir(name):
        return Path(name)
    try:
        found = snapshot_download(
            os.fspath(name), revision=revision, token=token, cache_dir=cache_dir, allow_patterns=list(files)
        )
    except HFValidationError as error:
        raise OSError(f"{str(name)!r} is neither a folder that exists nor a repository's id on the Hub.") from error
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"{str(name)!r} is no folder here, it is not in the Hub's local cache, and the Hub cannot be reached. Give "
            "a folder, or go online."
        ) from error
    except HfHubHTTPError as error:
        raise OSError(
            f"{str(name)!r} is neither a folder nor a repository that you may read on the Hub"
            f"{'' if revision is None else f' at revision {revision!r}'}. Check the spelling; for a private one log in "
            f"by `hf auth login`, or give token=... ({error})"
        ) from error
    return Path(found)
