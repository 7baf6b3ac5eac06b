"""What an epoch of a mixture is, in words."""

from .planned import PlannedBatchSampler

__all__ = ["describe_epoch"]


def describe_epoch(sampler: PlannedBatchSampler) -> str:
    """The steps of the current epoch, the rows that it takes of each task, and how often it goes through them.

    For the whole training the passes are counted as if every epoch were as this one.
    """
    plan, rows = sampler.plan, sampler.rows_per_epoch()
    strategy = plan.mixture.strategy
    rule = strategy if isinstance(strategy, str) else getattr(strategy, "__name__", "own rule")
    lines = [f"Mixture {rule}: an epoch has {plan.steps_per_epoch:,} steps and {sum(rows.values()):,} rows."]
    for task, size in sampler.sizes.items():
        passes = rows[task] / size
        line = f"  {task}: {rows[task]:,} rows an epoch of {size:,} there are, {passes:.2f} passes"
        if plan.epochs is not None:
            line += f"; {passes * plan.epochs:.2f} in {plan.epochs:.4g} epochs"
        lines.append(line)
    if plan.mixture.changes:
        lines.append("  The shares change in the course of the training: these are of this epoch.")
    return "\n".join(lines)
