"""Table 2: PDJ of the compared networks: `python -m benchmarks.table2`."""

from benchmarks import harness, paper

METHODS = {
    "PHR": {"model": "phr"},
    "CPM": {"model": "cpm"},
    "SH": {"model": "sh8"},
    "IEML": {"model": "ieml"},
    "Ours": {"model": "cmb"},
}


def main(sweep: harness.Sweep) -> None:
    """Compares networks by PDJ (Table 2)."""
    title = "Table 2: PDJ, %"
    harness.compare(sweep, "table2", title, METHODS, "pdj", paper.TABLE_2)


if __name__ == "__main__":
    harness.run(main)
