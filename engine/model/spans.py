"""Spans of tokens as answers: the scores of where they begin and end, the head of ELECTRA, and the best spans."""

import numpy as np

from engine.backend import keras, tf
from engine.model import layers as fast

MASKED_LOGIT = -1e9           # a score that no span has
INNER = 512             # units of the inner layer of ELECTRA's head


class MaskPositions(keras.layers.Layer):
    """Takes scores of tokens, (batch, length, n), to (batch, n, length), with LOWEST where no answer can begin or end:
    everywhere but on [CLS] and the paragraph's tokens. The other inputs are token ids and segment ids."""

    @fast.plain
    def call(self, inputs):
        scores, ids, segments = inputs
        behind = tf.pad(ids[:, 1:], [[0, 0], [0, 1]])           # 0 behind the last [SEP]
        in_paragraph = tf.logical_and(tf.not_equal(segments, 0), tf.not_equal(behind, 0))
        is_first = tf.one_hot(tf.zeros_like(ids[:, 0], tf.int32), tf.shape(ids)[1], True, False)
        allowed = tf.logical_or(in_paragraph, is_first)
        return tf.where(allowed[:, None], tf.transpose(tf.cast(scores, tf.float32), (0, 2, 1)), MASKED_LOGIT)


class JointSpanHead(keras.layers.Layer):
    """ELECTRA's head (google-research/electra, finetune/qa/qa_tasks.py, joint_prediction): where an answer ends, given
    where it begins, by Dense(512, gelu) on the vectors of the beginning and of a token, and Dense(1).

    Inputs: the tokens' vectors (batch, length, hidden), the logits of the beginning (batch, 1, length), the true
    beginning (batch, 1), token ids and segment ids. Returns logarithms of probabilities:
    in training (batch, 2, length): of the beginning, and of the end, given the true beginning;
    else (batch, 2 + beam, length): of the beginning; of the end, given [CLS]; of the end, given each of the `beam`
    top_starts beginnings in the paragraph, the top_starts first.
    """

    def __init__(self, beam, initial, **options):
        super().__init__(dtype='float32', **options)
        self.beam, self.initial, self.allowed = beam, initial, MaskPositions(dtype='float32')

    def build(self, input_shape):
        hidden = input_shape[0][-1]
        self.inner_kernel = self.add_weight('inner_kernel', (2 * hidden, INNER), initializer=self.initial)
        self.inner_bias = self.add_weight('inner_bias', (INNER,), initializer='zeros')
        self.end_kernel = self.add_weight('end_kernel', (INNER, 1), initializer=self.initial)
        self.end_bias = self.add_weight('end_bias', (1,), initializer='zeros')

    @fast.plain
    def call(self, inputs, training=None):
        vectors, starts, gold, ids, segments = inputs
        starts = tf.nn.log_softmax(starts, -1)
        places = tf.cast(gold, tf.int32) if training else self.top_starts(starts[:, 0])
        of_starts = tf.gather(vectors, places, batch_dims=1)                # (batch, places, hidden)
        # A dense layer on two vectors, one behind the other, is the sum of two products.
        start_kernel, token_kernel = tf.split(self.inner_kernel, 2)
        of_starts = tf.matmul(of_starts, start_kernel) + self.inner_bias
        of_tokens = tf.matmul(vectors, token_kernel)

        def ends(of_start):
            inner = tf.nn.gelu(of_start[:, None] + of_tokens, approximate=False)
            logits = tf.matmul(inner, self.end_kernel) + self.end_bias
            return self.allowed([logits, ids, segments])[:, 0]      # (batch, length)

        # One place after the other: together they would take `beam` times the memory.
        logits = tf.map_fn(ends, tf.transpose(of_starts, (1, 0, 2)), parallel_iterations=1)
        ends = tf.nn.log_softmax(tf.transpose(logits, (1, 0, 2)), -1)
        return tf.concat([starts, tf.ensure_shape(ends, (None, 1 if training else 1 + self.beam, None))], 1)

    def top_starts(self, starts):
        """[CLS] and the `beam` top_starts beginnings, (batch, 1 + beam); in short texts some are no beginnings."""
        behind_first = tf.pad(starts[:, 1:], [[0, 0], [0, self.beam]], constant_values=2 * MASKED_LOGIT)
        places = 1 + tf.math.top_k(behind_first, self.beam).indices
        places = tf.minimum(places, tf.shape(starts)[1] - 1)
        return tf.pad(places, [[0, 0], [1, 0]])


def best_spans(logits, may_begin, longest, count):
    """(first tokens, last tokens, scores) of at most `count` spans in a window, the best first.

    logits: (2, tokens) of the plain head, or (2 + beam, tokens) of the joint one; may_begin: (tokens,) bool; a span has
    at most `longest` tokens. It begins at one of the `count` top_starts tokens, if that may begin one.
    """
    starts, tokens = logits[0], np.arange(logits.shape[1])
    is_joint = len(logits) > 2
    if not is_joint:
        starts = np.where(may_begin, starts, MASKED_LOGIT)    # the joint head has chosen its beginnings already
    first = np.argsort(-starts, kind='stable')[:count]
    ends = logits[2:2 + len(first)] if is_joint else np.broadcast_to(logits[1], (len(first), len(tokens)))
    is_span = may_begin[first][:, None] & (first[:, None] <= tokens) & (tokens < first[:, None] + longest)
    rank, last = np.nonzero(is_span)
    scores = starts[first[rank]] + ends[rank, last]
    best = np.argsort(-scores, kind='stable')[:count]
    return first[rank[best]], last[best], scores[best]
