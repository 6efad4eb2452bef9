"""Faults that no one foresaw: one line and an exit status, or the whole traceback where it is asked for."""

import threading

import pytest

from kinetic.cli import partners
from kinetic.cli.errors import guarded


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), 1, "error: there is not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), 1, "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), 70, "error: unexpected RecursionError: maximum recursion"),
        (KeyError("a\nb"), 70, "error: unexpected KeyError"),
        (FileNotFoundError(2, "No such file or directory", "x\ny"), 1, "error: x y: No such file or directory"),
        (OSError(36, "File name too long", "x" * 5000), 1, "File name too long"),
    ],
)
def test_any_error_is_one_line(error, status, words, capsys, monkeypatch):
    monkeypatch.delenv("KINETIC_TRACEBACK", raising=False)

    def command(args):
        raise error

    partners.begin()
    assert guarded(command, []) == status
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert words in said
    assert len(said) < 900
    assert ("KINETIC_TRACEBACK=1 shows where" in said) == (status == 70)


def test_a_traceback_is_shown_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("KINETIC_TRACEBACK", "1")

    def command(args):
        raise RecursionError("deep")

    with pytest.raises(RecursionError, match="deep"):
        guarded(command, [])


@pytest.mark.parametrize(("advice", "words"), [(None, "go on with --resume"), (partners.AGAIN, "same command again")])
def test_what_to_do_when_a_process_is_lost_is_the_commands_own(monkeypatch, capsys, advice, words):
    class Lost:
        returncode = -9

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr(partners, "GRACE", 0.0)
    ended = threading.Event()
    monkeypatch.setattr(partners.os, "_exit", lambda status: ended.set())
    partners.begin()
    with partners.watching(lambda: [Lost()], lambda: False, **({} if advice is None else {"advice": advice})):
        assert ended.wait(10)
    assert words in capsys.readouterr().err
