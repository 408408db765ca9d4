from pathlib import Path

import cv2
import pytest

from datasets import browse
from tests import fabricate


def test_a_page_shows_each_chosen_frame(tmp_path):
    fabricate.itop(tmp_path / "source")
    config = browse.BrowseConfig(
        dataset="itop",
        data_dir=tmp_path / "source",
        tfds_dir=tmp_path / "tfds",
        split="train",
        num_frames=3,
        out_dir=tmp_path / "page",
    )
    page = browse.main(config)
    text = page.read_text()
    pictures = sorted(path.name for path in page.parent.glob("*.png"))
    assert len(pictures) == text.count("<figure>") == 3
    for name in pictures:
        assert f'src="{name}"' in text
        height, width = cv2.imread(str(page.parent / name)).shape[:2]
        assert abs(width / height - 320 / 240) < 0.01
    assert "320x240, 15 of 15 joints count" in text


def test_no_frames_is_refused():
    with pytest.raises(ValueError, match="--num_frames must be at least 1, got 0"):
        browse.BrowseConfig(num_frames=0)


def test_paths_begin_at_home_where_they_say_so(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    config = browse.BrowseConfig(out_dir=Path("~/page"), tfds_dir=Path("~/tfds"))
    assert config.out_dir == Path("/somewhere/page")
    assert config.tfds_dir == Path("/somewhere/tfds")
