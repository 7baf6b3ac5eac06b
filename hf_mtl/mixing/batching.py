"""Whether a batch is of one task or of several, and what fits to that."""

from typing import Any, Protocol

from ..nearest import nearest

__all__ = ["BATCHINGS", "check_batching"]

BATCHINGS = ("per_task", "mixed")


class _Arguments(Protocol):
    batching: str
    batch_sizes: Any
    tasks_per_step: int | None
    share_rows: bool


def check_batching(args: _Arguments) -> None:
    """Raises ValueError for an unknown batching, and for what has no meaning where each row is of its own task."""
    if args.batching not in BATCHINGS:
        raise ValueError(f"Unknown batching {args.batching!r}. {nearest(str(args.batching), BATCHINGS)}")
    if args.batching != "mixed":
        return
    if args.batch_sizes:
        raise ValueError(
            f"batch_sizes={args.batch_sizes!r} and batching='mixed' do not fit together: a mixed batch has rows of any "
            "task. Limit it by max_tokens_per_batch, say shares by mixing_weights, or set batching='per_task'."
        )
    if args.tasks_per_step is not None:
        raise ValueError(
            f"tasks_per_step={args.tasks_per_step} and batching='mixed' do not fit together: a mixed batch draws a "
            "task for each row. Leave tasks_per_step out, or set batching='per_task'."
        )
    if args.share_rows:
        raise ValueError(
            "share_rows=True and batching='mixed' do not fit together: a row that is shared is of several tasks, and "
            "one of a mixed batch is of one. Set share_rows=False, or batching='per_task'."
        )
