"""Table 3: PCKh@0.5 of the compared networks: `python -m benchmarks.table3`."""

from benchmarks import harness, paper

METHODS = {
    "3DCNN": {"model": "cnn3d"},
    "PHR": {"model": "phr"},
    "CPM": {"model": "cpm"},
    "SH": {"model": "sh8"},
    "Ours": {"model": "cmb"},
}


def main(sweep: harness.Sweep) -> None:
    """Compares networks by PCKh@0.5 (Table 3).

    3DCNN sees clips: of independent frames, as mannequin's are, it makes little; see
    mannequin/sequences.
    """
    title = "Table 3: PCKh@0.5, %"
    harness.compare(sweep, "table3", title, METHODS, "pckh", paper.TABLE_3)


if __name__ == "__main__":
    harness.run(main)
