"""A model's outputs for texts, in the order of the file, in bounded memory."""

import collections

import numpy as np

from engine.backend import tf
from engine.data.batches import prediction_batches, prediction_stream
from engine.files import UserError

AHEAD = 4       # batches under way on the device while an earlier one is fetched


class Predictor:
    """Computes a model's outputs. Its forward pass is traced once, at its first use.

    widths: what training batches are padded to, for XLA, so that few shapes are compiled; else a batch is as wide as
    its longest row.
    """

    def __init__(self, knobs, model, widths=()):
        self.knobs, self.model, self.axes = knobs, model, [token_axis(output) for output in model.outputs]
        self.widths = [*widths, knobs.maxlen] if model.jit_compile else []
        # Every input is a matrix of whole numbers: token ids, segment ids, places.
        signature = tuple(tf.TensorSpec((None, None), tf.int32) for _ in model.inputs)
        self.forward = tf.function(lambda inputs: model(inputs, training=False), input_signature=(signature,),
                                   jit_compile=model.jit_compile, autograph=False)

    def batches(self, data):
        """Yield (rows, outputs) of every batch of `data`, the longest rows first; outputs as numpy, padding included.
        Of several devices the first computes it."""
        under_way = collections.deque()
        batches = prediction_batches(data.lengths, self.knobs.eval_batch_size, self.widths)
        try:
            for rows, (inputs,) in zip(batches, prediction_stream(data, batches, self.widths), strict=True):
                under_way.append((rows, self.forward(inputs)))
                if len(under_way) > AHEAD:
                    yield fetched(under_way.popleft())
            while under_way:
                yield fetched(under_way.popleft())
        except tf.errors.ResourceExhaustedError as error:
            raise UserError(f'out of memory when predicting {len(rows)} examples of {data.lengths[rows].max()} tokens. '
                            'Lower --eval-batch-size.') from error

    def predict(self, data):
        """The outputs for the rows of `data`, in the order of the file.

        An output of one vector a row, (batch, n, ...), becomes an array (rows, n, ...); one with an axis of tokens
        becomes a list of arrays (tokens of the row, n, ...). A tuple of these where the model has several outputs.
        """
        return in_file_order(data, self.batches(data), self.axes)


def in_file_order(data, batches, axes):
    """What Predictor.predict() returns, from (rows, outputs) of batches in any order; rows may occur twice. axes: of
    each output its token_axis()."""
    columns = [[None] * len(data) for _ in axes]
    for rows, outputs in batches:
        for column, output, axis in zip(columns, outputs, axes, strict=True):
            for row, value in zip(rows, output, strict=True):
                if axis is not None:
                    value = np.moveaxis(value, axis, 0)[:data.lengths[row]].copy()     # not the whole padded batch
                column[row] = value
    results = tuple(np.stack(column) if axis is None else column for column, axis in zip(columns, axes, strict=True))
    return results if len(results) > 1 else results[0]


def fetched(batch):
    rows, outputs = batch
    return rows, [output.numpy() for output in tf.nest.flatten(outputs)]


def token_axis(output):
    """Which axis of an output, without that of the batch, is as long as the input: the one whose size the model leaves
    open; None where there is none. Raises UserError where there are two."""
    sizes = output.shape.as_list()[1:]
    if sizes.count(None) > 1:
        raise UserError(f'The output {output.shape} has two axes of tokens; at most one is predicted here.')
    return sizes.index(None) if None in sizes else None
