"""Ctrl-C, SIGTERM and a closed terminal end a run where it can go on later: after the training step."""

import contextlib
import signal
import threading

# A machine that is taken away sends SIGTERM, a terminal that is closed SIGHUP (which Windows has not).
SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, 'SIGHUP') else [])]


class Stopped(BaseException):
    """One of SIGNALS has come: `number`."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


class Signals:
    """What has come so far, and whether the program is where it can be stopped at once."""

    def __init__(self):
        self.came = None            # the number of the first signal that waits for check()
        self.postponed = False

    def handle(self, number, frame):
        is_first = self.came is None
        self.came = number      # for check(), also where the code that is interrupted here swallows the exception
        if not self.postponed or not is_first:      # a second one does not wait
            raise Stopped(number)


signals = Signals()     # of this process: signals are the process's, not an object's


@contextlib.contextmanager
def handle_signals():
    """While this lasts SIGNALS raise Stopped: at once, or where they are postponed, in check()."""
    before = {}
    signals.came = None
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            ignored_by_nohup = number not in SIGNALS[:2] and signal.getsignal(number) == signal.SIG_IGN
            if not ignored_by_nohup:
                before[number] = signal.signal(number, signals.handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred():
    """While this lasts a signal waits for check(). One that came is raised at the end, if nobody checked."""
    signals.postponed = True
    try:
        yield
    finally:
        signals.postponed = False
    raise_if_pending()


@contextlib.contextmanager
def immediate():
    """Within postponed(): while this lasts a signal does not wait."""
    signals.postponed = False
    try:
        raise_if_pending()
        yield
    finally:
        signals.postponed = True


def pending():
    """Whether a signal is waiting for check()."""
    return signals.came is not None


def raise_if_pending():
    """Raise Stopped where a signal is waiting."""
    if signals.came is not None:
        number, signals.came = signals.came, None
        raise Stopped(number)
