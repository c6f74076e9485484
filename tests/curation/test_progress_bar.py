"""Bars: on the terminal of the first process, with the right counts, and nowhere else."""

import contextlib
import io

import jax
from absl import logging
from terminals import Terminal

from dinojax.curation.progress_bar import progress_bar, tracked


def run(screen):
    with contextlib.redirect_stderr(screen), progress_bar("embed: pool", 10, "images", 4) as bar:
        assert list(tracked(["ab", "cde", "f"], bar, len)) == ["ab", "cde", "f"]
        return bool(bar.disable)


def test_what_was_done_before_counts():
    screen = Terminal()
    assert not run(screen) and " 4/10 [" in screen.getvalue()
    (line,) = screen.bars()
    assert line.startswith("embed: pool: 100%") and "| 10/10 [" in line and "images/s]" in line


def test_a_step_counts_once_it_is_dealt_with():
    with contextlib.redirect_stderr(Terminal()), progress_bar("sample", 2, "steps") as bar:
        steps = tracked("ab", bar)
        assert [next(steps), bar.n, next(steps), bar.n] == ["a", 0, "b", 1]


def test_nothing_without_a_terminal():
    screen = io.StringIO()
    assert run(screen) and screen.getvalue() == ""


def test_nothing_in_other_processes(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    screen = Terminal()
    assert run(screen) and screen.getvalue() == ""


def test_a_line_of_the_log_does_not_hang_on_a_bar():
    log, screen = logging.get_absl_handler(), Terminal()
    before = list(log.filters)
    with contextlib.redirect_stderr(screen), progress_bar("mix", 2, "parts"):
        assert log.filter(logging.get_absl_logger().makeRecord("", 20, "", 1, "x", (), None))
        assert screen.getvalue().endswith(" \r")  # all of the line is blank
    assert log.filters == before
