"""Trained networks by name, for other people's JAX code."""

from pathlib import Path
from typing import Any

from cmbjax.files import expanded


def load(network: str | Path) -> tuple[Any, dict[str, Any]]:
    """Returns a trained network and its variables.

    ```python
    model, variables = cmbjax.load("people-96")
    outputs = model.apply(variables, depth, train=False, r=3.0, method="outputs")
    outputs.heatmaps  # depth is [batch, side, side, 1], see data.views
    ```

    Args:
        network: A name of the package's own weights, a folder that export.py wrote, or
            the folder of a run, of which the latest checkpoint is taken.

    Returns:
        The network, and params, memory and batch_stats.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: What there is, is damaged or of another version.
    """
    folder = expanded(network)
    if (folder / "checkpoints").is_dir():
        from cmbjax.train.run import Run

        run = Run.open(folder)
        model, state = run.restore()
        return model, state.variables
    from cmbjax.predict.card import find_folder, read_card
    from cmbjax.predict.runtimes import load_weights

    return load_weights(read_card(find_folder(network)))
