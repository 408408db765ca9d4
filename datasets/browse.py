"""Looks at a data set: `python -m datasets.browse --dataset=people` writes a page."""

import dataclasses
import html
import re
import sys
from pathlib import Path

import tyro
from tqdm import tqdm

import datasets
from cmbjax import plots
from cmbjax.data.examples import Example, decode_depth, frame_name
from cmbjax.data.flags import DataFlags
from cmbjax.files import printable

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px sans-serif; background: #222; color: #ddd; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); }}
figure {{ margin: 6px; }} img {{ width: 100%; }}
</style>
<h1>{title}</h1>
<main>
{figures}
</main>
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrowseConfig(DataFlags):
    """Writes a page of labelled frames, spread evenly over a split."""

    split: str = "train"
    """train, validation or test."""
    num_frames: int = 48
    """Frames to show, at most."""
    out_dir: Path | None = None
    """Where the page goes; by default browse/<dataset>_<split>."""


def main(config: BrowseConfig) -> Path:
    """Writes pictures and index.html, and returns the latter's path."""
    frames = datasets.load(
        config.dataset,
        config.data_dir,
        config.tfds_dir,
        split=config.split,
        limit=config.num_frames,
    )
    name = re.sub(r"\W+", "_", f"{config.dataset}_{config.split}")
    out_dir = config.out_dir or Path("browse") / name
    figures = []
    for number in tqdm(range(len(frames.source)), unit="frame", disable=None):
        example, picture = frames.source[number], f"{number:05d}.png"
        depth = decode_depth(example)
        joints_px = [example["joints_px"]] if example["visible"].any() else []
        plots.frame(depth, joints_px, frames.skeleton, out_dir / picture)
        caption = html.escape(_caption(example, depth.shape))
        figures.append(
            f'<figure><img src="{picture}"><figcaption>{caption}</figcaption></figure>'
        )
    title = html.escape(f"{frames.name}: {len(figures)} frames")
    page = out_dir / "index.html"
    text = PAGE.format(title=title, figures="\n".join(figures))
    page.write_text(text, encoding="utf-8")
    print(printable(page))
    return page


def _caption(example: Example, shape: tuple[int, ...]) -> str:
    height, width = shape
    subject = example["subject"]
    subject = subject.decode() if isinstance(subject, bytes) else subject
    visible = f"{int(example['visible'].sum())} of {len(example['visible'])}"
    return f"{frame_name(example)}, {subject}, {width}x{height}, {visible} joints count"


if __name__ == "__main__":
    try:
        main(tyro.cli(BrowseConfig, use_underscores=True))
    except (ValueError, OSError) as error:
        sys.exit(f"browse: {error}")
