"""How long the mixture takes to plan an epoch and to hand out its first batch, and how much padding batches have.

Run: `python benchmarks/sampler.py [--rows 10000000] [--tasks 100] [--batch_size 32] [--strategy annealed]
[--batching mixed]`: seconds.
`python benchmarks/sampler.py --lengths FILE.json`, task -> length of each of its rows: real tokens / all tokens of an
epoch at several sizes of length groups and under a token budget, of batches of one task and of mixed ones.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from hf_mtl.mixing import MIXING_RULES, MixedBatchSampler, Mixture, MultiTaskBatchSampler, PlannedBatchSampler


def padding(lengths: dict[str, np.ndarray], batch_size: int) -> None:
    """One line for each size of a length group: real tokens / all tokens, of rows mixed in proportion."""
    sizes = {task: len(of_rows) for task, of_rows in lengths.items()}
    together = np.concatenate(list(lengths.values()))
    tokens = max(int(batch_size * np.percentile(together, 90)), int(together.max()))
    common = {"lengths": lengths, "mixture": Mixture(strategy="proportional")}

    def shown(name: str, sampler: PlannedBatchSampler) -> None:
        batches = [together[batch] for batch in sampler]
        share = sum(of_rows.sum() for of_rows in batches) / sum(of_rows.max() * len(of_rows) for of_rows in batches)
        print(f"{name:48} {share:.3f} in {len(batches):,} batches")

    for size in (1, 2, 4, 8, 16, 50, 100, None):
        name = "by the task's size" if size is None else f"length_group={size}"
        shown(name, MultiTaskBatchSampler(sizes, batch_size=batch_size, length_group=size, **common))
    shown(
        f"length_group=50, {tokens} tokens at most",
        MultiTaskBatchSampler(sizes, batch_size=8 * batch_size, length_group=50, max_tokens=tokens, **common),
    )
    ends = np.cumsum(list(sizes.values()))
    for size in (1, 2, 4, 8, 16, 50, 100, None):
        sampler = MixedBatchSampler(sizes, batch_size=batch_size, length_group=size, **common)
        of_batch = [len(np.unique(np.searchsorted(ends, batch, side="right"))) for batch in sampler]
        name = f"by the shortest pass, {sampler.length_group}" if size is None else f"length_group={size}"
        shown(f"mixed, {name}, {np.mean(of_batch):.1f} tasks a batch", sampler)
    shown(
        f"mixed, length_group=50, {tokens} tokens at most",
        MixedBatchSampler(sizes, batch_size=8 * batch_size, length_group=50, max_tokens=tokens, **common),
    )


def main() -> None:
    """Plan, draw the first batch, go on through a part of the epoch; one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of all tasks together")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--batches", type=int, default=20_000, help="micro-batches to draw after the first")
    parser.add_argument("--strategy", default="temperature", choices=[r for r in MIXING_RULES if r != "weights"])
    parser.add_argument("--batching", default="per_task", choices=["per_task", "mixed"])
    parser.add_argument("--lengths", type=Path, help="JSON: task -> length of each of its rows")
    args = parser.parse_args()
    if args.lengths is not None:
        given = json.loads(args.lengths.read_text(encoding="utf-8"))
        padding({task: np.array(of_rows) for task, of_rows in given.items()}, args.batch_size)
        return

    random = np.random.default_rng(0)
    # Sizes that differ as real ones do: from a few hundred rows to a large part of the whole.
    shares = random.lognormal(sigma=1.5, size=args.tasks)
    sizes = {f"task{i}": max(1, round(args.rows * share / shares.sum())) for i, share in enumerate(shares)}
    lengths = {
        task: np.minimum(random.lognormal(3.0, 0.6, size) + 3, 512).astype(np.int64) for task, size in sizes.items()
    }
    low, high = min(sizes.values()), max(sizes.values())
    print(f"{sum(sizes.values()):,} rows, {len(sizes)} tasks of {low:,} to {high:,}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    start = time.perf_counter()
    kind = MixedBatchSampler if args.batching == "mixed" else MultiTaskBatchSampler
    sampler = kind(
        sizes, batch_size=args.batch_size, accumulation=args.accumulation, lengths=lengths, epochs=3,
        mixture=Mixture(strategy=args.strategy),
    )  # fmt: skip
    made = time.perf_counter()
    draws = len(sampler.plan.draws(0))
    planned = time.perf_counter()
    batches = iter(sampler)
    next(batches)
    first = time.perf_counter()
    drawn = sum(1 for _ in zip(range(args.batches), batches, strict=False))
    done = time.perf_counter()

    print(f"sampler built          {made - start:8.3f} s")
    print(f"epoch planned          {planned - made:8.3f} s  ({draws:,} draws, {len(sampler):,} micro-batches)")
    print(f"first batch (re-plans) {first - planned:8.3f} s")
    print(f"plan to first batch    {first - start:8.3f} s  (wanted: under 2)")
    print(f"{drawn:,} more batches   {done - first:8.3f} s  ({(done - first) / drawn * 1e6:.0f} us each)")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"memory grown           {grown / 1024:8.0f} MiB")


if __name__ == "__main__":
    main()
