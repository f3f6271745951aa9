"""A contender in a process of its own: `python -m meanfield.benchmarks.worker NAME [ENGINE]`.

It reads one JSON object a line and answers each with one: {"do": "prepare", "case": ..., "operation": ...},
{"do": "time", "calls": k, ...}, {"do": "release"}, {"do": "matmul" | "copy" | "fma" | "memory", ...}. What cannot
be done is answered {"skip": reason}. It ends with its standard input: whoever started it may vanish at any moment.
"""

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from typing import Any

from . import ours, peers
from .cases import Case
from .processes import original_environment

_POLICY = "OMP_WAIT_POLICY"


def main(name: str, engine: str = "cpu") -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    questions: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(questions,), daemon=True).start()

    def answer(what):
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    try:
        contender = _contender(name, engine)
    except Exception as problem:
        answer({"skip": _reason(problem)})
        return
    answer({"ready": name})
    work = _Work(contender, engine, name == "ours")
    while True:
        question = json.loads(questions.get())
        try:
            answer(getattr(work, "do_" + question.pop("do"))(**question))
        except Exception as problem:
            work.do_release()
            answer({"skip": _reason(problem)})


def _contender(name, engine):
    """Its operations. A peer meets the user's environment, without what the engine put there for itself."""
    if name == "ours":
        return ours.device_rates() if engine == "cuda" else {}
    policy = original_environment().get(_POLICY)
    os.environ.pop(_POLICY, None)
    if policy is not None:
        os.environ[_POLICY] = policy
    return peers.CONTENDERS[name]("cuda" if engine == "cuda" else "cpu")


class _Work:
    """What is prepared at the moment, and the answers."""

    def __init__(self, contender, engine, is_ours):
        self.contender, self.engine, self.is_ours = contender, engine, is_ours
        self.timed = contender.get("timed", _timed)
        self.call: Any = None
        self.units = 1

    def do_prepare(self, case, operation):
        case = Case(**case)
        if self.is_ours:
            self.call, probe = ours.OPERATIONS[operation](case, self.engine)
            self.units = ours.UNITS.get(operation, 1)
        elif operation in self.contender:
            (self.call, probe), self.units = self.contender[operation](case), 1
        else:
            return {"skip": f"has no {operation}"}
        began = time.perf_counter()
        result = self.call()
        first = time.perf_counter() - began
        probed = None if probe is None else probe(result).tolist()
        del result
        again = min(self._seconds(self.call, 2, limit=0.5))
        return {"seconds": again / self.units, "first_call_ms": 1e3 * first / self.units, "probe": probed}

    def do_time(self, calls, warm=0, limit=float("inf")):
        """Seconds of each of so many calls, or of fewer where they take longer than `limit` together."""
        self._seconds(self.call, warm)
        return {"seconds": [seconds / self.units for seconds in self._seconds(self.call, calls, limit)]}

    def do_release(self):
        self.call = None
        gc.collect()
        self.contender.get("release", lambda: None)()
        return {"released": True}

    def do_matmul(self, dtype, size, calls):
        """Largest GFLOP/s of a product of two square matrices."""
        call = self.contender["matmul"](dtype, size)
        call()
        return {"gflops": 2e-9 * size**3 / min(self._seconds(call, calls))}

    def do_fma(self, dtype, calls):
        """Largest GFLOP/s of multiplications with additions alone, two each."""
        call, flops = self.contender["fma"](dtype)
        call()
        return {"gflops": 1e-9 * flops / min(self._seconds(call, calls))}

    def do_copy(self, size, calls):
        """Largest GB/s of a copy, read and written bytes together."""
        call = self.contender["copy"](size)
        call()
        return {"gb_per_s": 2e-9 * size / min(self._seconds(call, calls))}

    def do_memory(self, case):
        return ours.memory(Case(**case), self.engine)

    def _seconds(self, call, times, limit=float("inf")):
        """Times of so many calls; each result is dropped outside of the time of the next one."""
        result = []
        while len(result) < times and sum(result) < limit:
            seconds, kept = self.timed(call)
            result.append(seconds)
            del kept
        return result


def _timed(call):
    """By the clock on the wall, for calls that return when their work is done."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _read(questions):
    for line in sys.stdin:
        questions.put(line)
    os._exit(0)


def _reason(problem):
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:200]}" if lines else type(problem).__name__


if __name__ == "__main__":
    main(*sys.argv[1:])
