"""Long texts as rows: all windows of an example in one row."""

import copy

import numpy as np

from engine.data.targets import PerRow


class WindowedTokens:
    """Tokens (tokens.py) of which all windows of an example are one row. What batches and training need of Tokens is
    here, too; lengths: (rows,), padding of the last window included where there are several."""

    def __init__(self, windows):
        self.windows, self.examples, self.labels = windows, windows.examples, windows.labels
        self.vocabulary, self.maxlen, self.gold = windows.vocabulary, windows.maxlen, windows.gold
        self.example = np.arange(len(self.examples))
        self.counts = np.bincount(windows.example)              # windows of each example
        self.firsts = np.cumsum(self.counts) - self.counts
        self.lengths = np.where(self.counts > 1, self.counts * self.maxlen, windows.lengths[self.firsts])
        self.targets = None if self.gold is None else PerRow(self.gold)

    def __len__(self):
        """The number of rows, which is that of the examples."""
        return len(self.example)

    def with_targets(self, targets):
        """The same rows with other targets: see targets.py."""
        targets.check(self.lengths)
        other = copy.copy(self)
        other.targets = targets
        return other

    def fingerprint(self):
        return self.windows.fingerprint()

    def words(self):
        return self.windows.words()

    def batch(self, rows, widths=()):
        """As Tokens.batch()."""
        longest = self.lengths[rows].max()
        width = next((width for width in widths if width >= longest), longest)
        ids, segments = (np.zeros((len(rows), width), np.int32) for _ in range(2))
        for i, row in enumerate(rows):
            windows = np.arange(self.firsts[row], self.firsts[row] + self.counts[row])
            own_ids, own_segments = self.windows.batch(windows, [self.lengths[row] // len(windows)])
            ids[i, :own_ids.size], segments[i, :own_ids.size] = own_ids.ravel(), own_segments.ravel()
        return ids, segments
