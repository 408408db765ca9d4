"""`python -m tests.hostile`: what it says in the end, however that comes."""

import os
import signal
import sys
import time

import pytest

from tests.hostile import __main__ as hostile


@pytest.fixture
def arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hostile", "--minutes=1", "png", "npy"])
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_tells_what_came(arguments, monkeypatch, capsys, number):
    ends = iter([{"read": 3, "refused": 497}, {"refused": 499, "KeyError: 1": 1}])

    def in_a_process(name, seed, keep):
        if (end := next(ends, None)) is None:
            os.kill(os.getpid(), number)
            time.sleep(9)
        return end

    monkeypatch.setattr(hostile, "in_a_process", in_a_process)
    assert hostile.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "interrupted; until then:"
    assert "| png | 500 | 3 | 497 | 0 |" in lines
    assert "| npy | 500 | 0 | 499 | 1 |" in lines
    assert "1000 inputs" in lines and '  "KeyError: 1": 1' in lines


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1", "0"])
def test_a_time_that_is_none_is_refused(monkeypatch, capsys, minutes):
    monkeypatch.setattr(sys, "argv", ["hostile", f"--minutes={minutes}"])
    with pytest.raises(SystemExit):
        hostile.main()
    assert "--minutes must be above 0, got" in capsys.readouterr().err


def test_a_process_that_dies_is_an_end_like_others(tmp_path):
    """There is no such target: the child ends without a word to its parent."""
    ends = hostile.in_a_process("absent", 7, str(tmp_path))
    assert ends == {"the process died, seed 7": 1}
