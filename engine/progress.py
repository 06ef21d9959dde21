"""Long work shows itself: a bar on a terminal, else plain lines."""

import io
import sys
import time

from tqdm import tqdm


class Lines:
    """Progress in plain lines, two a minute."""

    def __init__(self, total, what, unit, initial):
        self.total, self.what, self.unit, self.n, self.initial = total, what, unit, initial, initial
        self.began = self.said = time.monotonic()

    def update(self, count):
        self.n += count
        now = time.monotonic()
        if now - self.said < 30:
            return
        self.said, size = now, tqdm.format_sizeof if self.unit == 'B' else '{:,}'.format
        left = tqdm.format_interval((now - self.began) * (self.total - self.n) / (self.n - self.initial)) if \
            self.total else '?'
        print(f'{self.what}: {size(self.n)} of {size(self.total) if self.total else "?"} {self.unit}, {left} left',
              flush=True)

    def close(self):
        pass


def progress(total, what, unit, initial=0):
    """A bar on a terminal, else Lines: both have update(count) and close(). No bar where standard output goes nowhere
    (--quiet)."""
    if sys.stderr.isatty() and not isinstance(sys.stdout, io.StringIO):
        return tqdm(total=total, desc=what, unit=unit, unit_scale=unit == 'B', initial=initial, leave=False)
    return Lines(total, what, unit, initial)
