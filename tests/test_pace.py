"""Estimates that are told only when they mean something."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from enhancer_dask.chunks import progress
from enhancer_dask.chunks.journal import Journal
from enhancer_dask.chunks.pace import WINDOW_S, Pace


def test_pace__an_hour_in_the_queue_and_compiling_say_nothing_of_the_rest():
    pace, told = Pace(), []
    for n_back in range(9):  # two workers; the first result after an hour, then one in five seconds
        now = 0.0 if n_back == 0 else 3600.0 + 5 * n_back
        pace.note(now, n_back, n_back, 1000 * n_back, 2)
        told.append(pace.seconds_left(100 - n_back))
    assert told[:3] == [None, None, None]  # nothing, the first, one of the first round
    assert told[3:] == [pytest.approx(5 * (100 - n)) for n in range(3, 9)]
    assert pace.refits_per_second == pytest.approx(200)


def test_pace__results_of_the_first_round_are_not_extrapolated():
    pace = Pace()
    for n_back in range(1, 51):
        pace.note(100 + n_back / 100, n_back, n_back, 0, 50)
    assert pace.seconds_left(1000) is None
    assert pace.refits_per_second is None


def test_pace__follows_workers_that_come_later():
    pace = Pace()
    for n_back in range(1, 11):  # one a minute, then ten
        pace.note(60.0 * n_back, n_back, n_back, 0, 1)
    for n_back in range(11, 200):
        pace.note(600.0 + 6 * (n_back - 10), n_back, n_back, 0, 10)
    assert pace.seconds_left(100) == pytest.approx(600, rel=0.05)
    assert pace._marks[-1].time - pace._marks[0].time <= WINDOW_S + 60


def test_pace__chunks_longer_than_the_window_are_enough():
    pace = Pace()
    for n_back in range(1, 8):
        pace.note(2 * WINDOW_S * n_back, n_back, n_back, 0, 1)
    assert pace.seconds_left(3) == pytest.approx(6 * WINDOW_S)


def test_bar__of_a_run_that_goes_on_shows_no_time_before_something_is_computed():
    bar = progress._bar(Console(force_terminal=True, width=120))
    shown = progress._Bar("scent", bar)
    for _ in range(2):  # as many were found
        shown(Journal("scent", 300, n_found=200, n_done=200))
        time.sleep(0.01)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(bar)
    assert "200/300" in capture.get()
    assert "left" not in capture.get()
    shown(Journal("scent", 300, n_found=200, n_done=220, seconds_left=300.0))
    with console.capture() as capture:
        console.print(bar)
    assert "about 5 min left" in capture.get()
