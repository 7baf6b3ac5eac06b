"""Checkpoints that are whole or not there: written aside, flushed to disk, and renamed as the last act."""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["SAVING", "exclusive", "fault", "faults", "finish_saves", "put_in_place", "seal"]

logger = logging.getLogger(__name__)

# Where a checkpoint is written, in the output folder and so on its disk. No checkpoint's name for transformers, and
# with an underscore it is not uploaded to the Hub.
SAVING = "_saving"
_LOCK = "_training.lock"
_FILES = "checkpoint_files.json"  # in a checkpoint: its other files and their sizes
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path) -> None:
    """Flushes the folder's files to the disk, and lists them in a file of their own after that."""
    listing = folder / _FILES
    listing.unlink(missing_ok=True)
    inside = sorted(folder.rglob("*"))
    for path in inside:
        _flush(path)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in inside if path.is_file()}
    listing.write_text(json.dumps({"files": sizes}, indent=2) + "\n", encoding="utf-8")
    for path in (listing, folder, folder.parent):
        _flush(path)


def put_in_place(staged: Path, final: Path) -> None:
    """Renames a sealed folder out of `SAVING` to its name, in place of what has the name. Without `staged`: nothing.

    Where something has the name there is a moment in which nothing has: what a run that is killed in it leaves is put
    right by `finish_saves`.
    """
    if not staged.is_dir():
        return
    replaced = staged.with_name(f"replaced-{final.name}")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    staged.rename(final)
    _flush(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    with suppress(OSError):  # where another save stands in it
        staged.parent.rmdir()


def finish_saves(folder: Path) -> None:
    """Ends what a killed run has begun: a save that lacked but its renaming is put in place, all else is removed."""
    for staged in sorted((folder / SAVING).glob("checkpoint-*")):
        if fault(staged) is None and fault(folder / staged.name) is not None:
            put_in_place(staged, folder / staged.name)
    shutil.rmtree(folder / SAVING, ignore_errors=True)


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None: it has all of its files, each as long as it was written."""
    if not folder.is_dir():
        return "there is no such folder"
    listing = folder / _FILES
    if not listing.is_file():
        return f"it lacks {_FILES}, the file that a save writes last"
    try:
        sizes = json.loads(listing.read_text(encoding="utf-8"))["files"]
    except ValueError:
        return f"its {_FILES} is cut short"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"it lacks {name}"
        if path.stat().st_size != size:
            return f"its {name} has {path.stat().st_size} bytes and was written with {size}"
    return None


def faults(folder: Path) -> dict[int, str | None]:
    """Step -> what is wrong with its checkpoint in the folder, of all there are, the earliest first."""
    found = [(_CHECKPOINT.fullmatch(path.name), path) for path in folder.glob("checkpoint-*") if path.is_dir()]
    return {step: fault(path) for step, path in sorted((int(match[1]), path) for match, path in found if match)}


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Whether no other process trains into the folder, and none will until this ends.

    A process that is killed loses its lock at once, and processes that it has forked never had it. Where the system
    has no such locks (Windows, some network drives) the answer is always yes.
    """
    if os.name != "posix":
        yield True
        return
    path = folder / _LOCK
    with open(path, "a") as file:
        alone = _lock(file)
        try:
            yield alone
        finally:
            if alone:
                path.unlink(missing_ok=True)


def _lock(file: IO[str]) -> bool:
    import fcntl  # POSIX has it

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        logger.info("%s cannot be locked (%s), so a second training there would not be noticed.", file.name, error)
    return True


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # folders cannot be opened there
    number = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # some network drives refuse to flush folders
            raise
    finally:
        os.close(number)
