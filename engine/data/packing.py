"""The lines of a corpus as rows for pre-training: packed by ELECTRA's rule, held out by documents."""

import array
import hashlib
import random
from typing import NamedTuple

import numpy as np

from engine.console import progress_bar
from engine.files import atomic_write

# ---- The rule -------------------------------------------------------------------------------------------------------


class Packer:
    """Lines of documents to rows of one or two segments, by ELECTRA's rule (google-research/electra,
    build_pretraining_dataset.py, ExampleBuilder).

    Lines are added until they have the target length; then they make a row, the last one of a document from what there
    is. In one row of ten, they are one segment. Else a line goes to the first segment while this is less than half
    full, and by a coin where it would no longer be; the rest is the second segment. What is too long is cut off, and
    lost. The target length is maxlen, for one row of twenty a random one.

    Two differences. Once the second segment has begun, all further lines belong to it (in Google's code a later short
    line may still go to the first one, which then is no stretch of text). And a line that is longer than half a row,
    which would mostly be cut off, is first taken apart (pieces_of).
    """

    def __init__(self, maxlen, seed):
        self.maxlen, self.random, self.target = maxlen, random.Random(seed), maxlen
        self.rows = array.array('q')        # start and count of the first segment, of the second, the document
        self.lines, self.length = [], 0

    def add(self, start, count, document):
        """The next line of a document: so many tokens from this one on."""
        self.lines.append((start, count))
        self.length += count
        if self.length >= self.target:
            self.make_row(document)

    def end(self, document):
        """The document ends."""
        if self.length:
            self.make_row(document)

    def make_row(self, document):
        half = 100000 if self.random.random() < 0.1 else (self.target - 3) // 2
        first = second = 0
        for _, count in self.lines:
            if not second and (not first or first + count < half or first < half and self.random.random() < 0.5):
                first += count
            else:
                second += count
        start = self.lines[0][0]
        first_kept = min(first, self.maxlen - 2)
        second_kept = min(second, max(0, self.maxlen - first_kept - 3))
        self.rows.extend((start, first_kept, start + first, second_kept, document))
        self.lines, self.length = [], 0
        self.target = self.random.randint(5, self.maxlen) if self.random.random() < 0.05 else self.maxlen


def split_line(ids, most, ends):
    """The lengths of the pieces of a line: it is taken apart behind the tokens `ends` (full stops), and what is longer
    than `most` then after so many tokens."""
    breaks = np.append(np.flatnonzero(ends[ids]) + 1, len(ids))
    lengths = []
    for length in np.diff(breaks, prepend=0):
        while length > 0:
            lengths.append(int(min(length, most)))
            length -= lengths[-1]
    return lengths


# ---- Rows -----------------------------------------------------------------------------------------------------------

FULL_STOPS = '.!?。！？…'


def pack(corpus, vocabulary, maxlen, seed, line_by_line=False):
    """(rows, 5) int64, mapped into memory: start and count of each row's first segment in corpus.ids, of its second,
    and its document. line_by_line: every line is a row, cut to maxlen. Packed once for a length and a seed."""
    path = corpus.folder / f'rows-{maxlen}-{"lines" if line_by_line else seed}'
    if not path.is_file():
        with atomic_write(path) as beside, open(beside, 'wb') as file:
            if line_by_line:
                pack_lines(corpus, maxlen, file)
            else:
                pack_documents(corpus, vocabulary, Packer(maxlen, seed), file)
    return np.memmap(path, np.int64, 'r').reshape(-1, 5)


def pack_documents(corpus, vocabulary, packer, file):
    tokenizer, most = vocabulary.tokenizer, (packer.maxlen - 3) // 2
    ends = np.zeros(tokenizer.get_vocab_size(), bool)
    ends[[tokenizer.token_to_id(stop) for stop in FULL_STOPS if tokenizer.token_to_id(stop) is not None]] = True
    start = 0
    for document, counts in documents_of(corpus):
        for count in counts:
            pieces = [count] if count <= most else split_line(corpus.ids[start:start + count], most, ends)
            for piece in pieces:
                packer.add(start, piece, document)
                start += piece
        packer.end(document)
        packer.rows.tofile(file)
        del packer.rows[:]


def pack_lines(corpus, maxlen, file):
    start = 0
    for document, counts in documents_of(corpus):
        for count in counts:
            if count:
                kept = min(count, maxlen - 2)
                np.array([start, kept, start + kept, 0, document], np.int64).tofile(file)
            start += count


def documents_of(corpus):
    """Yield (number, [tokens of each line]) of every document."""
    bar = progress_bar(len(corpus.documents), 'pack', 'documents')
    for document in range(len(corpus.documents)):
        first = corpus.documents[document, 0]
        last = corpus.documents[document + 1, 0] if document + 1 < len(corpus.documents) else len(corpus.lines)
        yield document, corpus.lines[first:last].tolist()
        bar.update(1)
    bar.close()


class PackedRows:
    """Rows of a corpus for training and prediction, as Tokens are those of examples (tokens.py)."""

    def __init__(self, corpus, vocabulary, rows, which):
        """which: the numbers of those of the packed rows that these are."""
        self.corpus, self.vocabulary, self.rows, self.which = corpus, vocabulary, rows, which
        first, second = (rows[:, column].astype(np.int32)[which] for column in (1, 3))
        self.tokens = first + second        # without special ones
        self.lengths = self.tokens + 2 + (second > 0)
        self.example, self.targets, self.labels = np.arange(len(which)), None, ()

    def __len__(self):
        return len(self.lengths)

    @property
    def examples(self):
        """Of each row where its text is: the file, and the line in which its document begins."""
        return Locations(self)

    def with_targets(self, targets):
        targets.check(self.lengths)
        self.targets = targets
        return self

    def fingerprint(self):
        """A hash of what the model sees."""
        digest = hashlib.sha256(self.corpus.about['sha256'].encode())
        for values in (self.which, self.lengths, *self.targets.arrays()):
            digest.update(np.ascontiguousarray(values))
        return digest.hexdigest()

    def pieces(self, rows):
        """Yield (start, count) of each of the one or two segments of each of these rows."""
        for first, first_count, second, second_count, _ in self.rows[self.which[rows]].tolist():
            yield [(first, first_count), (second, second_count)] if second_count else [(first, first_count)]

    def batch(self, rows, widths=()):
        """Token ids and segment ids of these rows, as Tokens.batch()."""
        longest = self.lengths[rows].max()
        width = next((width for width in widths if width >= longest), longest)
        ids, segments = (np.zeros((len(rows), width), np.int32) for _ in range(2))
        ids[:, 0] = self.vocabulary.cls
        for i, pieces in enumerate(self.pieces(rows)):
            end = 1
            for segment, (start, count) in enumerate(pieces):
                ids[i, end:end + count] = self.corpus.ids[start:start + count]
                ids[i, end + count] = self.vocabulary.sep
                segments[i, end:end + count + 1] = segment
                end += count + 1
        return ids, segments

    def joined(self, rows, width):
        """Which tokens go on with the word of the one before them, (rows, width) bool."""
        joined = np.zeros((len(rows), width), bool)
        for i, pieces in enumerate(self.pieces(rows)):
            end = 1
            for start, count in pieces:
                joined[i, end + 1:end + count] = self.corpus.joined[start + 1:start + count]
                end += count + 1
        return joined


class Location(NamedTuple):
    file: str
    line: int


class Locations:
    """The Place of each row of a Packed, looked up when it is asked for."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, row):
        return Location(*self.data.corpus.place(self.data.rows[self.data.which[row], 4]))


def hold_out(rows, every):
    """The numbers of the rows (to train on, held out): of so many documents one is held out, at most of 20. Of fewer
    documents the last rows. Both are at least one."""
    every = max(20, every)
    if rows[-1, 4] >= every:
        is_out = rows[:, 4] % every == every - 1
    else:
        is_out = np.arange(len(rows)) >= len(rows) - max(1, len(rows) // every)
    return np.flatnonzero(~is_out), np.flatnonzero(is_out)
