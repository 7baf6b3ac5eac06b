"""A folder, written for the occasion, to the Hub in one commit."""

import tempfile
from collections.abc import Callable

import httpx2
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError

__all__ = ["PUSH_OPTIONS", "push_folder"]

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
