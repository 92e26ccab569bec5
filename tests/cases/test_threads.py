"""Training in a thread, and beside a running event loop, as notebook servers do it."""

import asyncio
import dataclasses
import signal
import threading
import warnings
from pathlib import Path

import pytest

import jaxdiff as jd
from jaxdiff.train import fit, preemption
from tests.test_train import PLAIN

FEW = dataclasses.replace(
    PLAIN, batch_size=1, steps=4, log_every=2, checkpoint_every=2, sample_every=0
)


def test_a_run_trains_and_resumes_outside_the_main_thread(tmp_path: Path) -> None:
    ended: list[object] = []

    def work() -> None:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for steps in (2, 4):
                    state = fit(
                        dataclasses.replace(FEW, steps=steps), tmp_path, progress=False
                    )
                ended.extend([int(state.step), jd.restore(tmp_path).step])
            ended.append([str(w.message) for w in caught])
        except BaseException as error:
            ended.append(error)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended[:2] == [4, 4], ended
    messages = [message for message in ended[2] if "outside the main thread" in message]
    assert len(messages) == 2
    assert "neither Ctrl-C nor SIGTERM can stop it" in messages[0]
    assert signal.getsignal(signal.SIGINT) == before


def test_of_several_processes_sigterm_is_heard_in_any_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preemption.processes, "several", lambda: True)
    ended: list[str] = []

    def work() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with preemption.stoppable():
                ended.extend(str(w.message) for w in caught)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    [message] = ended
    assert "Ctrl-C cannot stop it: to stop, send SIGTERM to any" in message


def test_a_run_trains_and_is_restored_while_an_event_loop_runs(tmp_path: Path) -> None:
    async def cell() -> tuple[int, int]:
        state = fit(FEW, tmp_path, progress=False)
        return int(state.step), jd.restore(tmp_path).step

    assert asyncio.run(cell()) == (4, 4)


def test_the_main_thread_is_told_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with preemption.stoppable():
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
