"""Worker processes: started, asked, and never left behind."""

import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

_POLICY = "OMP_WAIT_POLICY"
_LEAST_GLIBC = (2, 35)  # which knows glibc.malloc.hugetlb


class WorkerLost(RuntimeError):
    """A worker that died, or did not answer in time; it is no longer running."""


def original_environment() -> dict[str, str]:
    """This process's environment without what the engine put there for itself when it was imported.

    Linux keeps the environment that a process was started with; elsewhere the engine's own value is taken to be it.
    """
    environment = dict(os.environ)
    try:
        started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
        kept = any(entry.startswith(f"{_POLICY}=".encode()) for entry in started_with)
    except OSError:
        kept = environment.get(_POLICY) != "passive"
    if not kept:
        environment.pop(_POLICY, None)
    return environment


def environment(name: str, threads: int | None = None) -> dict[str, str]:
    """What a worker is started with: the user's own, huge pages for "hugetlb", and its number of threads."""
    result = original_environment()
    if name == "hugetlb":
        before = result.get("GLIBC_TUNABLES")
        result["GLIBC_TUNABLES"] = ":".join(filter(None, (before, "glibc.malloc.hugetlb=1")))
    if threads is not None:
        result["NUMBA_NUM_THREADS"] = str(threads)
    result.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # compile in the worker: no helpers that could outlive it
    return result


def has_hugetlb() -> bool:
    """Whether malloc here can be told to ask for huge pages: Linux with glibc 2.35 or later."""
    library, version = platform.libc_ver()
    try:
        return sys.platform == "linux" and library == "glibc" and _version(version) >= _LEAST_GLIBC
    except ValueError:
        return False


def _version(text):
    return tuple(int(part) for part in text.split(".")[:2])


class Worker:
    """One worker process.

    arguments : after `python -m meanfield.benchmarks.worker`; or, with `command`, the whole command line
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], command: list[str] | None = None):
        command = command or [sys.executable, "-P", "-m", "meanfield.benchmarks.worker", *arguments]
        self._complaints = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, env=environment, text=True
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self._process.stdout or ():
            self._answers.put(line)
        self._answers.put(None)

    def ask(self, question: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Its answer, or WorkerLost."""
        try:
            pipe: Any = self._process.stdin
            pipe.write(json.dumps(question) + "\n")
            pipe.flush()
        except OSError:
            pass  # it has died; `answer` finds out how
        return self.answer(timeout)

    def answer(self, timeout: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise WorkerLost(f"no answer within {timeout:.0f} s") from None
        if line is None:
            code = self._process.wait()
            raise WorkerLost(f"its process died ({_ending(code)}){self._last_words()}")
        return json.loads(line)

    def _last_words(self):
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._complaints):
            try:
                if pipe:
                    pipe.close()
            except OSError:  # what was still to be written has no reader
                pass


def _ending(code):
    return f"signal {-code}" if code < 0 else f"exit code {code}"
