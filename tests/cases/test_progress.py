"""What long computations say, in a pipe and on a terminal."""

import io
import re
import sys
import time

import pytest

from jaxdiff.runtime import progress


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that runs two hundred times as fast as usual."""
    for name in ("FIRST", "EVERY", "TICK"):
        monkeypatch.setattr(progress, name, getattr(progress, name) / 200)
    monkeypatch.setattr(progress, "_ticker", progress._Ticker())  # no slow thread of others


class Terminal(io.StringIO):
    """A terminal's file."""

    def isatty(self) -> bool:
        return True


class Output:
    """All that was written to stderr in a test so far."""

    def __init__(self, capture: pytest.CaptureFixture) -> None:
        self._capture, self._text = capture, ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def output(capsys: pytest.CaptureFixture, fast: None) -> Output:
    return Output(capsys)


def test_what_is_done_is_named_at_once(output: Output) -> None:
    with progress.doing("compiling"):
        assert output.getvalue() == "compiling\n"
    assert output.getvalue() == "compiling\n"  # nothing more, as it was short


def test_one_call_that_takes_long_is_no_silence(output: Output) -> None:
    with progress.doing("compiling"):
        time.sleep(0.3)
    first, *ticks, done = output.getvalue().splitlines()
    assert first == "compiling"
    assert len(ticks) >= 2
    assert all(re.fullmatch(r"compiling: \d+ s", line) for line in ticks)
    assert re.fullmatch(r"compiling: done in \d+ s", done)


def test_a_bar_in_a_pipe_is_a_line_now_and_then(output: Output) -> None:
    with progress.bar(total=2000, unit="image", desc="drawing", initial=100) as bar:
        time.sleep(0.1)  # compiling, which says nothing of the pace
        bar.update(100)
        bar.update(800)
        bar.set_postfix(loss="0.5")
        time.sleep(0.3)
        bar.update(1000)
    *ticks, last = output.getvalue().splitlines()
    before = [
        t for t in ticks if re.fullmatch(r"drawing: 100 of 2,000 \(5%\) image, \d+ s", t)
    ]
    rest = r"drawing: 1,000 of 2,000 \(50%\) image, \d+ s, \d+ s left, loss 0.5"
    after = [t for t in ticks if re.fullmatch(rest, t)]
    assert len(before) >= 1
    assert len(after) >= 2
    assert last.startswith("drawing: 2,000 of 2,000 (100%) image")
    assert "\r" not in output.getvalue()


def test_a_bar_says_what_it_waits_for_at_first(output: Output) -> None:
    with progress.bar(total=2, unit="images", desc="drawing") as drawn:
        with progress.compiling(drawn):
            time.sleep(0.1)
        during = output.getvalue()
        with progress.compiling(drawn, first=False):
            drawn.update(2)
            time.sleep(0.1)
    assert re.search(r"drawing: 0 of 2 \(0%\) images, \d+ s, now compiling", during)
    assert "compiling" not in output.getvalue().removeprefix(during)


def test_a_short_bar_says_nothing_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert list(progress.bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_other_lines_put_a_tick_off(capsys: pytest.CaptureFixture) -> None:
    with progress.bar(total=2, unit="image") as bar:
        progress.say("step")
        bar.tick()
        assert capsys.readouterr().err == "step\n"
        bar._began = progress._ticker.last = time.monotonic() - progress.FIRST
        bar.tick()
        assert capsys.readouterr().err.startswith("0 of 2 (0%) image")


def test_the_innermost_ticks(output: Output) -> None:
    with progress.bar(total=2, unit="point", desc="sweep"), progress.doing("compiling"):
        time.sleep(0.15)
    lines = output.getvalue().splitlines()
    assert not any(line.startswith("sweep") for line in lines)


def test_nothing_is_said_unasked(output: Output) -> None:
    with progress.bar(total=9, unit="image", show=False) as bar:
        with progress.doing("compiling", show=False):
            time.sleep(0.1)
        bar.update()
    assert (output.getvalue(), bar.n) == ("", 1)


def test_a_terminal_has_one_line_that_ticks(
    monkeypatch: pytest.MonkeyPatch, fast: None
) -> None:
    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    with progress.doing("compiling"):
        time.sleep(0.05)
        assert written.getvalue().count("compiling (00:00)") >= 2
        assert "\n" not in written.getvalue()
    with progress.bar(total=10, unit="image", desc="drawing") as bar:
        time.sleep(0.05)
        progress.say("a line above it")
        bar.update(10)
    text = written.getvalue()
    assert "drawing" in text
    assert "a line above it\n" in text
    assert "10.0/10.0" in text


def test_the_thread_ends_with_the_work(output: Output) -> None:
    with progress.doing("compiling"):
        pass
    time.sleep(0.05)
    assert progress._ticker._thread is None
    with progress.doing("again"):
        assert progress._ticker._thread is not None
