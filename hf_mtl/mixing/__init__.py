"""Which task the next batch is of, and which of its rows.

A *mixture* names a rule, which gives each task's probability; a *plan* turns it into the draws of an epoch, a
*stream* says which rows a draw holds, and the *sampler* deals them out to processes and micro-batches. All four are
pure functions of the seed, the epoch, the task and of the evaluations that are recorded, where a rule learns from them
or tasks leave by them. So a run
can be resumed from its step and its recorded evaluations alone.
"""

from .callback import MixtureCallback, record_in_mixture
from .mixed_sampler import MixedBatchSampler
from .mixture import Mixture
from .plan import MixturePlan
from .planned import PlannedBatchSampler
from .rules import MIXING_RULES, MixingRule, mixing_probabilities
from .sampler import MultiTaskBatchSampler
from .state import Evaluation, MixingState
from .stream import TaskStream
from .token_stream import TokenStream

__all__ = [
    "MIXING_RULES",
    "Evaluation",
    "MixedBatchSampler",
    "MixingRule",
    "MixingState",
    "Mixture",
    "MixtureCallback",
    "MixturePlan",
    "MultiTaskBatchSampler",
    "PlannedBatchSampler",
    "TaskStream",
    "TokenStream",
    "mixing_probabilities",
    "record_in_mixture",
]
