"""Files that cannot be written: a full disk, a folder without permission, said in one message with a way out."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["UnwrittenError", "check_no_file", "check_writable", "naming_unwritten"]

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than the system allows (ulimit -f)",
    errno.EROFS: "the file system can only be read",
    errno.EACCES: "there is no permission to write there",
    errno.EPERM: "there is no permission to write there",
}
# torch and safetensors write by themselves, and raise errors of their own, without a number.
_WORDS = {
    "no space left on device": errno.ENOSPC,
    "quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "permission denied": errno.EACCES,
    "pytorchstreamwriter failed": errno.ENOSPC,  # which does not say why; a full disk is by far the commonest
    "file write failed": errno.ENOSPC,
    "unexpected pos": errno.ENOSPC,
}


@contextmanager
def naming_unwritten(what: str, folder: str | os.PathLike[str], way_out: str) -> Iterator[None]:
    """Inside, an error of writing becomes one OSError: what was not written, where, why, and what to do.

    Args:
        what: begins the message, as "The checkpoint of step 20".
        folder: where it is written.
        way_out: the message's last sentence.

    Raises:
        OSError: with the error's own number. Other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number is None or isinstance(error, UnwrittenError):
            raise
        reason = f"{what} could not be written to {os.fspath(folder)!r}: {_REASONS[number]}"
        raise UnwrittenError(number, f"{reason} ({_free(Path(folder))}). {way_out}") from error


class UnwrittenError(OSError):
    """What has been said once is not said again around it."""

    def __str__(self) -> str:
        return str(self.strerror)  # without the number in front


def _number(error: BaseException) -> int | None:
    """The number of the system's error that stands behind an error; None: another kind of error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _REASONS:
            return seen.errno
        text = str(seen).lower()
        for words, number in _WORDS.items():
            if words in text:
                return number
        seen = seen.__cause__ or seen.__context__
    return None


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(_there(folder)).free / 2**20:,.0f} MiB are free there"


def _there(folder: Path) -> Path:
    """The nearest folder or file that exists."""
    whole = folder.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())


def check_no_file(name: str, folder: str | os.PathLike[str]) -> None:
    """Raises where a folder cannot be made, because it, or one above it, is a file.

    Args:
        name: the argument that names the folder.
        folder: a folder, which need not exist yet.

    Raises:
        OSError: says which file is in the way.
    """
    there = _there(Path(folder))
    if not there.is_dir():
        raise UnwrittenError(errno.ENOTDIR, f"{name}={os.fspath(folder)!r}: {there} is a file. Name another folder.")


def check_writable(name: str, folder: str | os.PathLike[str]) -> None:
    """Raises before long work begins, where its result could not be written. Leaves nothing behind.

    Args:
        name: the option that names the folder.
        folder: a folder, which need not exist yet.

    Raises:
        OSError: the folder, or the nearest one above it that exists, is a file or cannot be written into.
    """
    check_no_file(name, folder)
    there = _there(Path(folder))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise UnwrittenError(
            error.errno, f"{name}={os.fspath(folder)!r}: nothing can be written into {there}: {reason}. Name another."
        ) from error
