"""Which task the next batch is of, and which of its rows.

A *rule* gives each task's probability, a *plan* turns it into the draws of an epoch, a *stream* says which
rows a draw holds, and the *sampler* deals them out to processes and micro-batches. All four are pure
functions of the seed, the epoch and the task, so a run can be resumed from its epoch number and its step
alone.
"""

from .plan import MixturePlan
from .rules import MIXING_RULES, MixingRule, mixing_probabilities
from .sampler import MultiTaskBatchSampler
from .stream import TaskStream

__all__ = [
    "MIXING_RULES",
    "MixingRule",
    "MixturePlan",
    "MultiTaskBatchSampler",
    "TaskStream",
    "mixing_probabilities",
]
