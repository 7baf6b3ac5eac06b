"""What `import hf_mtl` costs over `import transformers`: fresh processes, in turn.

    python benchmarks/import_time.py [RUNS]

Prints both medians in seconds and their difference; the goal is at most 0.1 s.
"""

import statistics
import subprocess
import sys

TIMER = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def seconds(statement: str) -> float:
    """Time of an import in a fresh process, the interpreter's own start left out."""
    run = subprocess.run([sys.executable, "-c", TIMER.format(statement)], capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    seconds("import transformers, hf_mtl")  # fills the page cache
    bare, ours = [], []
    for _ in range(runs):
        bare.append(seconds("import transformers"))
        ours.append(seconds("import transformers, hf_mtl"))
    first, second = statistics.median(bare), statistics.median(ours)
    print(f"import transformers          {first:.3f} s")
    print(f"import transformers, hf_mtl  {second:.3f} s")
    print(f"difference                   {second - first:+.3f} s (goal: at most 0.1 s), median of {runs}")


if __name__ == "__main__":
    main()
