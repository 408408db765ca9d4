"""Table 4: the 10 cm rule, in metres: `python -m benchmarks.table4`."""

from benchmarks import harness, paper

METHODS = {
    "RF": {"model": "rf"},
    "RTW": {"model": "rtw"},
    "IEF": {"model": "ief", "head3d": "dense"},
    "VI": {"model": "vi", "head3d": "dense"},
    "Ours": {"model": "cmb", "head3d": "dense"},
    "Ours, depth maps": {"model": "cmb", "head3d": "maps"},
    "Ours, depth looked up": {"model": "cmb"},
}


def main(sweep: harness.Sweep) -> None:
    """Compares networks by the 10 cm rule (Table 4).

    Ours has the paper's two layers of 1024 on the heat maps; beside it are the two
    other ways to depth that this library has.
    """
    title = "Table 4: 10 cm rule, %"
    harness.compare(sweep, "table4", title, METHODS, "map_10cm", paper.TABLE_4)


if __name__ == "__main__":
    harness.run(main)
