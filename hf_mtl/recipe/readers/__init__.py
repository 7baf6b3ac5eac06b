"""Files of data -> `datasets.Dataset`: a reader for each format, chosen by the file's ending."""

from .files import ENDINGS, UNNAMED_COLUMNS, ending, read_files
from .streams import keep_rows

__all__ = ["ENDINGS", "UNNAMED_COLUMNS", "ending", "keep_rows", "read_files"]
