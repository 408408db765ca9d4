"""Files of settings, and folders that are gone on in."""

import pytest

from cmbjax.files import check_same, write_json


def test_other_settings_are_refused_with_both_values(tmp_path):
    path = tmp_path / "settings.json"
    write_json(path, {"seed": 1, "model": "rf"})
    check_same(path, {"seed": 1, "model": "rf"}, "--run_dir=x holds a forest")
    match = "^--run_dir=x holds a forest of other settings; .* seed: 1 there, 2 here$"
    with pytest.raises(ValueError, match=match):
        check_same(path, {"seed": 2, "model": "rf"}, "--run_dir=x holds a forest")
    with pytest.raises(ValueError, match="flags. model: rf there, None here"):
        check_same(path, {"seed": 1}, "--run_dir=x holds a forest")
    path.write_text("[]")
    with pytest.raises(ValueError, match="seed: None there, 2 here"):
        check_same(path, {"seed": 2}, "--run_dir=x holds a forest")
