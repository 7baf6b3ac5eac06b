"""Scores of several tasks: one flat dict, one mean, the gain over single-task models, a table."""

from collections.abc import Collection, Iterable, Mapping

from .nearest import nearest

__all__ = ["TaskScores", "flatten_scores", "gain", "main_scores", "mean_score", "score_table"]

TaskScores = Mapping[str, Mapping[str, float]]


def flatten_scores(scores: TaskScores, prefix: str = "eval") -> dict[str, float]:
    """`{task: {metric: value}}` as `{"<prefix>_<task>_<metric>": value}`, in the same order.

    Raises:
        ValueError: Two scores get the same name (metric "b_f1" of task "a", and "f1" of task "a_b").
    """
    flat: dict[str, float] = {}
    for task, values in scores.items():
        for metric, value in values.items():
            name = f"{prefix}_{task}_{metric}"
            if name in flat:
                raise ValueError(
                    f"Two scores are named {name!r}, the second is task {task!r}, metric {metric!r}. "
                    "Rename one of the tasks."
                )
            flat[name] = float(value)
    return flat


def main_scores(scores: TaskScores, main: Mapping[str, str]) -> dict[str, float]:
    """Each task's main metric.

    Args:
        scores: `{task: {metric: value}}`.
        main: `{task: metric}`; tasks that `scores` lacks are ignored.

    Returns:
        `{task: value}`, in the order of `scores`.

    Raises:
        ValueError: No tasks, a task that `main` lacks, or a main metric that the task's scores lack.
    """
    if not scores:
        raise ValueError("scores has no tasks.")
    found: dict[str, float] = {}
    for task, values in scores.items():
        if task not in main:
            raise ValueError(f"main names no metric for task {task!r}. {nearest(task, main)}")
        if main[task] not in values:
            raise ValueError(f"Task {task!r} has no metric {main[task]!r}. {nearest(main[task], values)}")
        found[task] = float(values[main[task]])
    return found


def mean_score(scores: TaskScores, main: Mapping[str, str]) -> float:
    """Mean of each task's main metric; arguments and errors as `main_scores`."""
    values = main_scores(scores, main).values()
    return sum(values) / len(values)


def gain(scores: Mapping[str, float], single_task_scores: Mapping[str, float]) -> float:
    """Mean relative gain over single-task models, 0.01 for one percent.

    The multi-task performance Δm of Vandenhende et al. 2021 (arXiv:2004.13379),
    1/T Σ (multi - single) / single. Its sign per task is left out:
    every main metric here is better when higher.

    Args:
        scores: `{task: value}` of one model for all tasks, as `main_scores` gives them.
        single_task_scores: The same of models trained for one task; tasks that `scores` lacks are ignored.

    Raises:
        ValueError: No tasks, a task without a single-task score, or one that is not above 0.
    """
    if not scores:
        raise ValueError("scores has no tasks.")
    gains = []
    for task, value in scores.items():
        if task not in single_task_scores:
            raise ValueError(f"single_task_scores has no score for task {task!r}. {nearest(task, single_task_scores)}")
        single = single_task_scores[task]
        if single <= 0:
            raise ValueError(
                f"single_task_scores[{task!r}] is {single}: a relative gain needs a score above 0. "
                "Leave the task out of scores."
            )
        gains.append((value - single) / single)
    return sum(gains) / len(gains)


def score_table(
    scores: TaskScores, baselines: TaskScores | None = None, errors: Mapping[str, Collection[str]] | None = None
) -> str:
    """A plain text table with a line per task and metric, for terminals.

    Args:
        scores: `{task: {metric: value}}`.
        baselines: The same for the majority answer. Given, the table has it beside each score, and the gain
            as a difference (a relative one does not exist over a score of 0); "-" where it has no value.
        errors: task -> its metrics that are better when lower: their gain is how far they are below the majority's.

    Returns:
        The lines, joined by line breaks and without one at the end.
    """
    rows = [["task", "metric", "score"] + (["majority", "gain"] if baselines is not None else [])]
    for task, values in scores.items():
        for metric, value in values.items():
            row = [task, metric, f"{value:.4f}"]
            if baselines is not None:
                baseline = baselines.get(task, {}).get(metric)
                sign = -1 if metric in (errors or {}).get(task, ()) else 1
                row += ["-", "-"] if baseline is None else [f"{baseline:.4f}", f"{sign * (value - baseline):+.4f}"]
            rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_aligned(row, widths)).rstrip() for row in rows)


def _aligned(row: list[str], widths: list[int]) -> Iterable[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column < 2 else cell.rjust(width)
