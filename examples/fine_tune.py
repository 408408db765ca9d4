"""Fine-tunes the shipped network on one's own labelled frames, and compares both.

python examples/fine_tune.py my_frames runs/mine

The folder's form is in datasets/folder/README.md: train.json, validation.json and
test.json beside the images.
"""

import sys
from pathlib import Path

import evaluate
import train
from cmbjax.train.config import TrainConfig


def main(folder: Path, run_dir: Path, num_steps: int = 1000) -> float:
    """Trains, evaluates, and returns PCKh@0.5 over all joints."""
    config = TrainConfig(
        dataset="folder",
        data_dir=folder,
        run_dir=run_dir,
        init_from="people-96",
        num_steps=num_steps,
        learning_rate=5e-4,
        schedule="cosine",
        r_switch_step=0,  # its memory holds something already
        batch_size=8,
        validate_every=0,
        # The size of people-96, so that everything is taken over.
        side=96,
        width=0.5,
        head3d="maps",
    )
    train.main(config)
    columns = evaluate.main(evaluate.EvalConfig(run_dir=run_dir, metric="pckh"))
    return columns["PCKh@0.5"]["Full Body"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
