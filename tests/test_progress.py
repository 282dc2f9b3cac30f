"""Progress: lines in a log, a bar on a terminal, the arithmetic of the ETA."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from multiturn import progress as module
from multiturn.progress import duration, progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_come_at_once_then_after_3_then_every_10_seconds() -> None:
    """40 of 100 were done before; 10 more in 4 seconds leave 50, at 2.5 a second: 20 s."""
    now = [0.0]
    lines: list[str] = []
    bar = module._PlainBar("SFT", 100, 40, write=lines.append, clock=lambda: now[0])
    assert lines == ["SFT: 40/100 started"]
    for second in (1, 4, 6, 13, 14.5):
        now[0] = second
        bar.advance(10 if second == 4 else 0, note="loss 0.5" if second > 4 else None)
    bar.close(finished=True)
    assert lines[1:] == [
        "SFT: 50/100, 4 s elapsed, ETA 20 s",
        "SFT: 50/100, 14 s elapsed, ETA 1 min 12 s, loss 0.5",
        "SFT: 50/100 done in 14 s, loss 0.5",
    ]


def test_without_a_total_there_is_no_eta() -> None:
    now = [0.0]
    lines: list[str] = []
    bar = module._PlainBar("search", None, 0, write=lines.append, clock=lambda: now[0])
    now[0] = 5
    bar.advance()
    bar.resize(4)
    now[0] = 16
    bar.advance()
    bar.close(finished=False)
    assert lines == [
        "search: started",
        "search: 1, 5 s elapsed",
        "search: 2/4, 16 s elapsed, ETA 16 s",
        "search: 2/4 stopped after 16 s",
    ]


def test_lines_go_to_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "plain")

    def fail() -> None:
        with progress("work", total=3) as bar:
            bar.advance()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["work: 0/3 started", "work: 1/3 stopped after 0 s"]
    assert captured.out == ""


def test_nothing_when_off_or_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    with progress("work", total=3) as bar:
        bar.advance(3, note="x")
        bar.resize(4)
    monkeypatch.setenv("MULTITURN_PROGRESS", "plain")
    with progress("work", total=3, quiet=True) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nested_bars_on_a_terminal_from_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("MULTITURN_PROGRESS", "auto")
    monkeypatch.setenv("TERM", "xterm")
    with progress("outer", total=100) as outer:
        with progress("inner", total=None) as inner:
            inner.advance(note="[red]going[/red] :key:")
            inner.resize(1)
        threads = [threading.Thread(target=outer.advance, args=(25,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    shown = terminal.getvalue()
    assert "outer" in shown
    assert "[red]going[/red] :key:" in shown
    assert "100/100" in shown
    assert module._DISPLAY._progress is None
