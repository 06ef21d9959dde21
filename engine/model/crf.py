"""A linear-chain conditional random field on the logits of words (Lafferty et al. 2001), which scores whole paths of
labels in place of each label by itself. The layer with its loss for training, the best paths for prediction.

The score of a path y of n words: start[y1] + the logits of its labels + transitions[y1, y2] + ... + end[yn].
"""

import numpy as np

from engine.backend import keras, tf
from engine.model import layers as fast

SENTENCES_AT_ONCE = 512       # sentences whose best paths are looked for together


class CRF(keras.layers.Layer):
    """Passes logits on, (batch, length, labels) -> the same in float32, and owns what the scores of paths have besides:
    `transitions`, (labels, labels), from the row's label to the column's, `start` and `end`, (labels,). All begin with
    0, where a CRF scores as a softmax does."""

    def __init__(self, **options):
        super().__init__(dtype='float32', **options)

    def build(self, input_shape):
        labels = input_shape[-1]
        self.transitions = self.add_weight('transitions', (labels, labels), initializer='zeros')
        self.start = self.add_weight('start', (labels,), initializer='zeros')
        self.end = self.add_weight('end', (labels,), initializer='zeros')

    @fast.plain
    def call(self, logits):
        return tf.cast(logits, tf.float32)

    def parameters(self):
        """(transitions, start, end) as arrays."""
        return tuple(variable.numpy() for variable in (self.transitions, self.start, self.end))

    def loss(self, targets, logits):
        """The negative log-likelihood of each sentence, in equal parts at its words: targets (batch, length), logits
        (batch, length, labels) -> (batch, length). Tokens whose target is negative are no words: the paths pass over
        them, and their loss is 0."""
        is_word = targets >= 0
        words = tf.reduce_sum(tf.cast(is_word, tf.int32), 1)
        # The words of each sentence to the front, in their order.
        place = tf.range(tf.shape(targets)[1])
        order = tf.argsort(tf.where(is_word, place, place + tf.size(place)), 1)
        path = tf.gather(tf.maximum(targets, 0), order, batch_dims=1)
        logits = tf.gather(logits, order, batch_dims=1)
        unlikely = self.log_partition(logits, words) - self.score_of(path, logits, words)        # -log(probability)
        share = unlikely / tf.cast(tf.maximum(words, 1), tf.float32)
        return tf.where(is_word, share[:, None], 0.0)

    def score_of(self, path, logits, words):
        """The scores of these paths, (batch,). path: (batch, length) labels; words: (batch,) how many are real."""
        place = tf.range(tf.shape(path)[1])
        is_word = tf.cast(place < words[:, None], tf.float32)
        own = tf.reduce_sum(tf.gather(logits, path, batch_dims=2) * is_word, 1)
        steps = tf.gather_nd(self.transitions, tf.stack([path[:, :-1], path[:, 1:]], -1))
        last = tf.gather(path, tf.maximum(words - 1, 0), batch_dims=1)
        return (own + tf.reduce_sum(steps * is_word[:, 1:], 1)
                + tf.gather(self.start, path[:, 0]) + tf.gather(self.end, last))

    def log_partition(self, logits, words):
        """The logarithm of the sum of exp(score) over all paths, (batch,)."""
        by_word = tf.transpose(logits, (1, 0, 2))

        def next_word(sums, word):
            """sums: (batch, labels), of the paths that end in each label so far."""
            place, logits = word
            longer = tf.reduce_logsumexp(sums[:, :, None] + self.transitions, 1) + logits
            return tf.where((place < words)[:, None], longer, sums)

        places = tf.range(1, tf.shape(by_word)[0])
        sums = tf.scan(next_word, (places, by_word[1:]), self.start + by_word[0])
        return tf.reduce_logsumexp(sums[-1] + self.end, 1)


def path_scores(logits, parameters):
    """For every label of every word, how far the best path through it is behind the best of all: a (words, labels)
    array <= 0 for each of the (words, labels) arrays `logits`. It is 0 along the best path, which Viterbi's algorithm
    finds (Rabiner 1989, section III.B), so that argmax reads it off.

    Sentences are computed together, longest first, so that those which have a word at a place are the first ones, and
    no padding is ever part of a path.
    """
    lengths = np.array([len(sentence) for sentence in logits])
    order = [i for i in np.argsort(-lengths, kind='stable') if lengths[i]]
    scores = [np.zeros(sentence.shape, np.float32) for sentence in logits]
    for begin in range(0, len(order), SENTENCES_AT_ONCE):
        some = order[begin:begin + SENTENCES_AT_ONCE]
        for i, through in zip(some, batch_path_scores([logits[i] for i in some], *parameters), strict=True):
            scores[i] = through
    return scores


def batch_path_scores(logits, transitions, start, end):
    """path_scores() of sentences in descending order of length, none without words."""
    lengths = np.array([len(sentence) for sentence in logits])
    longest, labels = logits[0].shape
    padded = np.zeros((longest, len(logits), labels))
    for i, sentence in enumerate(logits):
        padded[:len(sentence), i] = sentence
    before, behind = np.zeros_like(padded), np.zeros_like(padded)
    before[0] = start + padded[0]               # the best way to each label, its own logit included
    for t in range(1, longest):
        count = (lengths > t).sum()             # sentences that have a word here
        ways = before[t - 1, :count, :, None] + transitions
        before[t, :count] = ways.max(1) + padded[t, :count]
    behind[lengths - 1, range(len(logits))] = end       # the best way from each label on
    for t in range(longest - 2, -1, -1):
        count = (lengths > t + 1).sum()
        ways = transitions + (padded[t + 1, :count] + behind[t + 1, :count])[:, None]
        behind[t, :count] = ways.max(2)
    through = before + behind
    through -= through.max(2, keepdims=True)
    return [through[:length, i].astype(np.float32) for i, length in enumerate(lengths)]
