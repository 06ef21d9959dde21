"""Examples as rows of tokens: [CLS] a [SEP] or [CLS] a [SEP] b [SEP], cut to maxlen or in windows."""

import copy
import hashlib
import itertools
from typing import NamedTuple

import numpy as np

from engine.backend import tf
from engine.data.targets import PerRow
from engine.data.vocabulary import tokenize_cached, tokenize_texts
from engine.data.windows import WindowedTokens
from engine.files import UserError

PAIR = (tf.TensorSpec((None, None), tf.int32),) * 2     # token ids and segment ids


class Row(NamedTuple):
    """One row, without padding. Arrays of its length."""
    ids: np.ndarray
    segments: np.ndarray        # 0 up to and with the first [SEP], 1 behind it
    texts: np.ndarray           # 0 on tokens of text_a, 1 on those of text_b, -1 on [CLS] and [SEP]
    offsets: np.ndarray | None  # (length, 2): a token's first character in its text and the one behind it; else -1


class Tokens:
    """Examples with their token ids, as rows of at most maxlen tokens; windows make several rows of an example.

    examples, labels: the Examples, and the names of their classes (() where they have none). example: (rows,), which
    example each row belongs to; tokens, lengths: (rows,), without and with [CLS] and [SEP]. gold: (examples,) the
    labels' numbers, or the scores, and targets (targets.py): these for every row; both None where the examples have no
    number as label, as in test files. with_targets() gives other targets.

    A row is made of pieces of the flat array `ids`: piece p of row r is ids[starts[r, p]:starts[r, p] + counts[r, p]]
    and belongs to text span_texts[p] (0 or 1). There is one piece a text, or two where the middle of it is left out.
    """

    def __init__(self, examples, labels, vocabulary, maxlen, ids, offsets, example, starts, counts, span_texts):
        self.examples, self.labels, self.vocabulary, self.maxlen = examples, labels, vocabulary, maxlen
        self.ids, self.offsets, self.example = ids, offsets, example
        self.starts, self.counts, self.span_texts = starts, counts, span_texts
        self.tokens = counts.sum(1)
        self.lengths = self.tokens + 2 + max(span_texts)
        self.gold = self.targets = None
        if isinstance(examples[0].label, int | float):
            self.gold = np.array([row.label for row in examples])       # int64, or float64 for scores
            self.targets = PerRow(self.gold[example])

    def __len__(self):
        """The number of rows."""
        return len(self.example)

    def with_targets(self, targets):
        """The same rows with other targets, such as PerToken(...): see targets.py."""
        targets.check(self.lengths)
        other = copy.copy(self)
        other.targets = targets
        return other

    def fingerprint(self):
        """A hash of what the model sees: token ids, their order, targets."""
        digest = hashlib.sha256()
        for values in (self.ids, self.starts, self.counts, *(self.targets.arrays() if self.targets else ())):
            digest.update(np.ascontiguousarray(values))
        return digest.hexdigest()

    def words(self):
        """The different token ids that the model may see, those of [PAD], [CLS] and [SEP] included, ascending."""
        around = [0, self.vocabulary.cls, self.vocabulary.sep]
        return np.unique(np.concatenate([np.flatnonzero(np.bincount(self.ids)), around, self.targets.extra_token_ids()]))

    def row(self, number):
        """A row as a Row, for what is worked out from its tokens and their places."""
        pieces = list(zip(self.starts[number], self.counts[number], self.span_texts, strict=True))
        nothing = np.full((1, 2), -1)
        ids, texts, offsets, segments = [[self.vocabulary.cls]], [[-1]], [nothing], [[0]]
        for text in range(max(self.span_texts) + 1):
            for start, count, _ in (piece for piece in pieces if piece[2] == text):
                ids.append(self.ids[start:start + count])
                texts.append(np.full(count, text))
                if self.offsets is not None:
                    offsets.append(self.offsets[start:start + count])
                segments.append(np.full(count, text))
            ids.append([self.vocabulary.sep])
            texts.append([-1])
            offsets.append(nothing)
            segments.append([text])
        return Row(np.concatenate(ids), np.concatenate(segments), np.concatenate(texts),
                   None if self.offsets is None else np.concatenate(offsets))

    def batch(self, rows, widths=()):
        """Token ids and segment ids of these rows, (len(rows), width) int32 each, padded with 0 to the first of
        `widths` (ascending) that is enough, or else to the longest row."""
        longest = self.lengths[rows].max()
        width = next((width for width in widths if width >= longest), longest)
        ids, segments = (np.zeros((len(rows), width), np.int32) for _ in range(2))
        ids[:, 0] = self.vocabulary.cls
        for i, row in enumerate(rows):
            end, text = 1, 0        # of what is written of the row, and the text that is being written
            for start, count, belongs_to in zip(self.starts[row], self.counts[row], self.span_texts, strict=True):
                if belongs_to > text:
                    ids[i, end] = self.vocabulary.sep
                    end, text = end + 1, belongs_to
                ids[i, end:end + count] = self.ids[start:start + count]
                segments[i, end:end + count] = text
                end += count
            ids[i, end], segments[i, end] = self.vocabulary.sep, text
        return ids, segments


# ---- From examples to rows ------------------------------------------------------------------------------------------


def build_rows(vocabulary, maxlen, examples, labels=(), cache=None, offsets=False, keep='head', stride=0, joined=False,
              longest_a=0):
    """tokenize() with a Vocabulary, and the folder where token ids are kept, if they shall be."""
    if (stride or joined) and keep != 'head':
        raise UserError('Windows hold the whole text: stride= and keep= do not go together.')
    pair = examples[0].text_b is not None
    columns = [[example.text_a for example in examples]]
    if pair:
        columns.append([example.text_b for example in examples])
    numbers = {}        # of the different texts: each is cut once, however often it occurs
    for text in itertools.chain(*columns):
        numbers.setdefault(text, len(numbers))
    if cache is None:
        cut = tokenize_texts(vocabulary.tokenizer, list(numbers), offsets)
    else:
        cut = tokenize_cached(cache, vocabulary.tokenizer, list(numbers), offsets)
    which = np.array([[numbers[text] for text in column] for column in columns]).T      # (examples, texts)
    text_starts = np.cumsum(cut.counts, dtype=np.int64) - cut.counts
    starts, counts = text_starts[which], cut.counts[which].astype(np.int64)
    if longest_a and pair:
        counts[:, 0] = np.minimum(counts[:, 0], longest_a)
    room = maxlen - 2 - pair
    example, span_texts = np.arange(len(examples)), list(range(1 + pair))
    if stride or joined:
        example, starts, counts = sliding_windows(examples, starts, counts, room, stride)
    else:
        kept = counts_that_fit(counts, room)
        if keep == 'tail':
            starts = starts + counts - kept
        elif keep != 'head':
            starts, kept, span_texts = head_and_tail(starts, counts, kept, keep)
        counts = kept
    rows = Tokens(examples, labels, vocabulary, maxlen, cut.ids, cut.offsets, example, starts, counts, span_texts)
    return WindowedTokens(rows) if joined else rows


def counts_that_fit(counts, room):
    """How many tokens of each text stay where `room` tokens are to share, by Google's rule, for (examples, 1 or 2).

    Google's loop, while there are too many: the longer text loses one, on a tie the second. Without a loop: a keeps at
    least the larger half of the room, and more where b leaves it; b keeps what a leaves.
        room 7: (9, 2) -> (5, 2)    (2, 9) -> (2, 5)    (9, 9) -> (4, 3)    (3, 4) -> (3, 4)
    """
    if counts.shape[1] == 1:
        return np.minimum(counts, room)
    a, b = counts.T
    kept_a = np.minimum(a, np.maximum(room - b, (room + 1) // 2))
    kept_b = np.minimum(b, room - kept_a)
    return np.stack([kept_a, kept_b], axis=1)


def head_and_tail(starts, counts, kept, head):
    """(starts, counts, span_texts) of two pieces for each text: `head` tokens from its beginning, and from its end
    what else is kept of it. A text that is kept whole has no second piece, but one of no tokens.
        10 tokens, 6 kept, head 2: tokens 0 1, 6 7 8 9
    """
    heads = np.where(kept < counts, np.minimum(kept, head), kept)
    tails = kept - heads
    pieces = np.stack([starts, starts + counts - tails], axis=2), np.stack([heads, tails], axis=2)
    texts = starts.shape[1]
    starts, counts = (piece.reshape(len(piece), 2 * texts) for piece in pieces)
    return starts, counts, [text for text in range(texts) for _ in range(2)]


def sliding_windows(examples, starts, counts, room, stride):
    """(example, starts, counts) of windows over the last text of each example, with the first text in front.
        10 tokens, room for 6, stride 3: tokens 0-5, 3-8, 6-9; stride 0, which is all there is room for: 0-5, 6-9
    """
    example, window_starts, window_counts = [], [], []
    for i, (text_starts, text_counts) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        *before, length = text_counts
        size = room - sum(before)
        if size < 1 or stride > size and length > size:
            beside = ' beside the first text' if before else ''
            skipped = f', and windows that begin {stride} apart would skip some' if stride else ''
            raise UserError(f'{location_of(examples[i])}: a window has room for {max(size, 0)} tokens{beside}{skipped}. '
                            'Choose a smaller stride or a larger --maxlen.')
        begin = 0
        while True:
            example.append(i)
            window_starts.append([*text_starts[:-1], text_starts[-1] + begin])
            window_counts.append([*before, min(size, length - begin)])
            if begin + size >= length:
                break
            begin += stride or size
    return np.array(example), np.array(window_starts), np.array(window_counts)


def location_of(example):
    """Where an example comes from, for messages: its id, where it has one, says more than a line of a JSON file."""
    where = f'question {example.index}' if isinstance(example.index, str) else f'line {example.line}'
    return f'{example.file}, {where}'
