"""Table 6: the parts of the block: `python -m benchmarks.table6`.

The paper's sequential rows need recordings: `--dataset=mannequin/sequences`, or itop.
K2HPD's frames, which name no subjects, are one recording, in the order of their names.
"""

from typing import Any

from benchmarks import harness, paper

METHODS: dict[str, dict[str, Any]] = {
    "w/o CMB": {"model": "cmb_none"},
    "w/ ConvGRU": {"model": "convgru", "stream_frames": 4},
    "w/ ConvLSTM": {"model": "convlstm", "stream_frames": 4},
    "w/ Sequence": {"model": "cmb_sequence"},
    "w/ Sequence, 16 of one recording": {
        "model": "cmb_sequence",
        "stream_frames": 16,
    },
    "w/ Sequence, a memory a stream": {
        "model": "cmb_sequence",
        "memory_mode": "per_sample",
    },
    "w/ Half": {"model": "cmb_half"},
    "w/ Double": {"model": "cmb_double"},
    "Ours": {"model": "cmb"},
}


def main(sweep: harness.Sweep) -> None:
    """Compares what may stand in the block's place by PCKh@0.5 (Table 6)."""
    title = "Table 6: PCKh@0.5, %"
    harness.compare(sweep, "table6", title, METHODS, "pckh", paper.TABLE_6)


if __name__ == "__main__":
    harness.run(main)
