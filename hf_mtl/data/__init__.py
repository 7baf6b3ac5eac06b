"""Rows -> encoded features -> padded batches."""

from .collator import MultiTaskCollator
from .encoded import INPUTS, EncodedDataset
from .encoding import encode_dataset, named_rows
from .mixed import MultiTaskDataset

__all__ = ["INPUTS", "EncodedDataset", "MultiTaskCollator", "MultiTaskDataset", "encode_dataset", "named_rows"]
