"""Mixing by what the evaluations have found."""

from collections.abc import Mapping

from .state import MixingState

__all__ = ["adaptive_weights"]

# The part of a task's usual share that it keeps however well it does, so that it is not forgotten.
FLOOR = 0.25


def adaptive_weights(
    usual: Mapping[str, float], state: MixingState, references: Mapping[str, float] | None
) -> dict[str, float]:
    """Weights by how far behind, or how much in motion, tasks are.

    With references, a task's need is how far its last score is below that of a model for it alone, as a part of it:
    `max(0, 1 - score / reference)` (dynamic sampling: Gottumukkala et al. 2020, arXiv:2011.00820, there the difference
    itself). Without, it is how much its score changed between its last two evaluations, up or down (learning progress:
    Graves et al. 2017, arXiv:1704.03003; Matiisen et al. 2017, arXiv:1707.00183). A quarter of the usual shares stays
    as it is; the rest goes by need. Tasks that have not been scored (twice, without references) keep their usual share.

    Args:
        usual: task -> its share while nothing is known; they sum to 1.
        state: where the training stands.
        references: task -> main metric of a model that was trained for it alone; None goes by learning progress.
    """
    needs: dict[str, float] = {}
    for task in usual:
        scores = state.scores(task)
        if references is not None and scores:
            needs[task] = max(0.0, 1 - scores[-1] / references[task])
        elif references is None and len(scores) > 1:
            needs[task] = abs(scores[-1] - scores[-2])
    total = sum(needs.values())
    if not total > 0:
        return dict(usual)
    divided = sum(usual[task] for task in needs)
    return dict(usual) | {
        task: FLOOR * usual[task] + (1 - FLOOR) * divided * need / total for task, need in needs.items()
    }
