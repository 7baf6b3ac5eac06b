"""The training of `hf-mtl train` as a script, for launchers that start one on every device.

accelerate launch recipes/finetune.py RECIPE.yaml --output_dir DIR [--training.learning_rate 3e-5 ...]
torchrun --nproc-per-node 2 recipes/finetune.py RECIPE.yaml --output_dir DIR
"""

import sys

from hf_mtl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
