"""Leaving in good order when the machine is taken away: SIGTERM, or the cluster's notice.

Schedulers send SIGTERM and, after a grace period, SIGKILL. The signal only leaves a note; the loop
reads it between two steps, saves and ends. So nothing is ever interrupted, and a
second signal changes nothing.
"""

import signal
import threading
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils


class Preemption:
    """A context manager in which SIGTERM is a request; calling it between steps reads the request.

    Of several processes each may get the signal at another step, or only some of them. There JAX's
    own notifier takes it and agrees on a step with all others.
    """

    def __init__(self) -> None:
        self._signalled = self._leaving = False
        self._calls = 0
        self._before: Any = None

    def __enter__(self) -> "Preemption":
        if (
            not jax.distributed.is_initialized()
            and threading.current_thread() is threading.main_thread()
        ):
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            # The process is about to end with its code: no second signal may change that.
            signal.signal(signal.SIGTERM, signal.SIG_IGN if self._signalled else self._before)

    def __call__(self) -> bool:
        """Whether to leave now: between the same two steps in every process.

        All processes call it equally often: JAX agrees on the number of a call.
        """
        self._calls += 1
        # JAX says so at one call only, and something else may end the loop before it is acted upon.
        self._leaving |= multihost_utils.reached_preemption_sync_point(self._calls)
        return self._leaving or self._signalled

    def _note(self, *_: object) -> None:
        if not self._signalled:
            logging.warning("SIGTERM: saving after this step, then leaving")
        self._signalled = True
