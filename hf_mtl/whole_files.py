"""Files of a folder that is written again: each is the old one or the new one, and never a half."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["written_whole"]

_ASIDE = "_writing-"  # what is left of a writer that was killed goes when it is so old, in seconds:
_OLD = 3600.0
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\..+)")


@contextmanager
def written_whole(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write into, whose files take their places in `folder` at the end.

    They are renamed, so a process that is killed leaves whole files, and one that fails leaves the folder as it was.
    Shards of weights that the new ones do not have go, as do the one file or the index that they replace.

    Args:
        folder: made where it is not there.
    """
    final = Path(folder)
    final.mkdir(parents=True, exist_ok=True)
    for left in final.glob(f"{_ASIDE}*"):
        with suppress(FileNotFoundError):  # another process has just been done with its own
            if time.time() - left.stat().st_mtime > _OLD:
                shutil.rmtree(left, ignore_errors=True)
    # All processes of a distributed run may write the same at once.
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=final))
    try:
        yield aside
        written = sorted(path.relative_to(aside) for path in aside.rglob("*") if path.is_file())
        for name in written:
            with open(aside / name, "rb+") as file:
                os.fsync(file.fileno())
        for name in written:
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / name, final / name)
        for path in _outdated(final, {name.as_posix() for name in written}):
            path.unlink(missing_ok=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _outdated(folder: Path, written: set[str]) -> list[Path]:
    """Weights of an earlier save that was cut into shards otherwise, and would be read in place of the new ones."""
    whole = {_whole(name) for name in written} - {None}
    others = {index for name in whole for index in (name, f"{name}.index.json")}
    return [
        path
        for path in folder.iterdir()
        if path.is_file() and path.name not in written and (path.name in others or _whole(path.name) in whole)
    ]


def _whole(name: str) -> str | None:
    """The name of the file that a weights file is, or is a shard of."""
    shard = _SHARD.fullmatch(name)
    if shard is not None:
        return f"{shard[1]}{shard[2]}"
    return name if name.endswith(".safetensors") else None
