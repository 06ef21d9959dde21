"""What programs share on the command line and the screen: progress, tables, words in front of options."""

import io
import itertools
import sys
import time

from tqdm import tqdm

# ---- Progress -------------------------------------------------------------------------------------------------------


class LineProgress:
    """Progress in plain lines, two a minute."""

    def __init__(self, total, what, unit, initial):
        self.total, self.what, self.unit, self.n, self.initial = total, what, unit, initial, initial
        self.began = self.said = time.monotonic()

    def update(self, count):
        self.n += count
        now = time.monotonic()
        if now - self.said < 30:
            return
        self.said = now
        size = tqdm.format_sizeof if self.unit == 'B' else '{:,}'.format
        total = left = '?'
        if self.total:
            seconds_each = (now - self.began) / (self.n - self.initial)
            total, left = size(self.total), tqdm.format_interval(seconds_each * (self.total - self.n))
        print(f'{self.what}: {size(self.n)} of {total} {self.unit}, {left} left', flush=True)

    def close(self):
        pass


def progress_bar(total, what, unit, initial=0):
    """A bar on a terminal, else Lines: both have update(count) and close(). No bar where standard output goes nowhere
    (--quiet)."""
    if sys.stderr.isatty() and not isinstance(sys.stdout, io.StringIO):
        return tqdm(total=total, desc=what, unit=unit, unit_scale=unit == 'B', initial=initial, leave=False)
    return LineProgress(total, what, unit, initial)


# ---- Words and tables -----------------------------------------------------------------------------------------------


def split_arguments(argv):
    """A command line whose words (tasks) come first: (the words up to the first option, the rest)."""
    words = list(itertools.takewhile(lambda word: not word.startswith('-'), argv))
    return words, argv[len(words):]


def markdown_row(cells):
    return f'| {" | ".join(map(str, cells))} |'


def markdown_table(head, rows=()):
    """A table as text, with a line end behind every row. Rows may also be printed one by one, after the head alone."""
    lines = [markdown_row(head), markdown_row(['---'] * len(head)), *map(markdown_row, rows)]
    return '\n'.join(lines) + '\n'
