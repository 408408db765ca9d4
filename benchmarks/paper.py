"""The numbers in the tables of the paper (Wang et al., IJCAI 2018)."""

Column = dict[str, float]  # row of the table -> value
# What they were measured on.
DATA = {"pdj": "K2HPD", "pckh": "K2HPD", "map_10cm": "ITOP"}


def _columns(methods: str, table: str) -> dict[str, Column]:
    """Reads rows of a name, a colon and a value for each of methods set apart by |."""
    columns: dict[str, Column] = {method: {} for method in methods.split(" | ")}
    for line in table.strip().splitlines():
        row, values = line.split(":")
        for method, value in zip(columns, values.split(), strict=True):
            columns[method][row.strip()] = float(value)
    return columns


# K2HPD, PDJ.
TABLE_2 = _columns(
    "PHR | CPM | SH | IEML | Ours",
    """
    PDJ@0.05: 26.8 30.0 41.0 43.2 58.8
    PDJ@0.10: 70.3 58.5 73.7 64.1 89.0
    PDJ@0.15: 84.7 87.8 84.6 88.1 94.8
    PDJ@0.20: 91.3 93.6 89.0 91.0 97.1
    PDJ mean: 68.3 67.5 72.1 71.6 84.9
    """,
)

# K2HPD, PCKh@0.5.
TABLE_3 = _columns(
    "3DCNN | PHR | CPM | SH | Ours",
    """
    Head: 48.6 83.2 69.9 81.6 92.9
    Neck: 50.9 83.3 71.8 87.3 97.2
    Shoulders: 52.6 82.4 71.1 86.2 95.2
    Elbows: 45.5 71.2 65.7 77.9 90.4
    Hands: 42.1 65.7 65.9 73.4 86.7
    Wrists: 42.6 63.4 63.3 72.5 86.0
    Torso: 54.6 80.8 70.4 85.5 96.6
    Hips: 55.0 73.9 66.8 81.2 93.5
    Knees: 50.1 82.7 74.8 86.9 92.0
    Feet: 45.4 81.4 72.7 91.3 94.3
    Upper Body: 47.0 74.2 67.8 79.7 91.3
    Lower Body: 51.5 79.3 70.9 86.0 93.9
    Full Body: 48.9 76.3 69.1 82.3 92.4
    """,
)

# ITOP, front view, 10 cm rule.
TABLE_4 = _columns(
    "RF | RTW | IEF | VI | Ours",
    """
    Head: 63.8 97.8 96.2 98.1 97.0
    Neck: 86.4 95.8 85.2 97.5 98.5
    Shoulders: 83.3 94.1 77.2 96.5 75.1
    Elbows: 73.2 77.9 45.4 73.3 64.7
    Hands: 51.3 70.5 30.9 68.7 85.0
    Torso: 65.0 93.8 84.7 85.6 94.5
    Hips: 50.8 80.3 83.5 72.0 88.4
    Knees: 65.7 68.8 81.8 69.0 84.2
    Feet: 61.3 68.4 80.9 60.8 82.9
    Upper Body: 70.7 84.8 61.0 84.0 80.6
    Lower Body: 59.3 72.5 82.1 67.3 86.5
    Full Body: 65.8 80.5 71.0 77.4 83.4
    """,
)

# K2HPD: milliseconds an image on a GTX 980 Ti, MB, GFLOP.
TABLE_5 = {
    "PHR": (62.0, 570.0, 63.1),
    "CPM": (72.0, 525.0, 85.0),
    "SH": (56.0, 418.0, 30.7),
    "IEML": (40.0, None, None),
    "Ours": (14.0, 58.0, 5.4),
}

# K2HPD, PCKh@0.5.
TABLE_6 = _columns(
    "w/o CMB | w/ ConvGRU | w/ ConvLSTM | w/ Sequence | w/ Half | w/ Double | Ours",
    """
    Head: 91.9 94.3 91.2 97.2 97.2 97.7 92.9
    Neck: 95.4 92.7 95.3 97.1 96.9 97.9 97.2
    Shoulders: 92.7 91.1 92.8 95.2 94.9 96.0 95.2
    Elbows: 84.6 85.6 86.3 90.7 90.8 90.9 90.4
    Hands: 81.5 80.1 82.3 86.7 86.7 87.1 86.7
    Wrists: 79.9 80.6 81.8 85.8 85.8 87.0 86.0
    Torso: 89.2 92.3 92.8 96.0 95.6 97.0 96.6
    Hips: 74.3 86.3 85.2 92.3 91.8 93.8 93.5
    Knees: 80.8 78.4 85.2 91.5 90.5 90.2 92.0
    Feet: 90.2 87.0 90.9 93.9 93.7 93.7 94.3
    Upper Body: 87.4 87.0 88.1 91.7 91.6 92.3 91.3
    Lower Body: 82.7 85.6 88.0 93.3 92.7 93.5 93.9
    Full Body: 85.4 86.4 88.1 92.3 92.1 92.8 92.4
    """,
)

# ASTAR, mm: median and mean joint error.
ASTAR = {
    "Xu & Cheng": {"median error mm": 21.1, "mean error mm": 22.7},
    "Ours": {"median error mm": 10.02, "mean error mm": 11.42},
}
