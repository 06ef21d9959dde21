"""Batches: which rows come together, what they are padded to, what they weigh, and the stream of them."""

import itertools

import numpy as np

import config
from engine.backend import tf
from engine.console import progress_bar
from engine.data.tokens import PAIR

PREFETCH = 16       # batches that are made ahead
OPTIONS = tf.data.Options()
OPTIONS.autotune.enabled = False        # there is nothing to tune, and whoever deletes the stream waits for the tuner

# ---- Which rows come together ---------------------------------------------------------------------------------------


def split_batches(order, size):
    """`order` in pieces of this size; the last one may be shorter."""
    return [order[i:i + size] for i in range(0, len(order), size)]


def shuffled_batches(lengths, seed, epoch, batch_size):
    """The rows of every batch of one epoch: a function of (seed, epoch) alone.

    A batch holds rows of the same length or nearly so: the shuffled rows are sorted by length, cut, and the batches
    shuffled. So every epoch has batches of the same lengths, and the same padding.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    by_length = order[np.argsort(lengths[order], kind='stable')]
    batches = split_batches(by_length, batch_size)
    return [batches[i] for i in random.permutation(len(batches))]


def epoch_batches(knobs, data, epoch):
    """shuffled() for these knobs: batches of the rows that make one update."""
    return shuffled_batches(data.lengths, knobs.seed, epoch, knobs.batch_size * knobs.grad_accumulation)


def prediction_batches(lengths, batch_size, widths=()):
    """The rows of every batch, from the longest to the shortest.

    A batch ends after `batch_size` rows, or before they hold more padding than another batch costs. With widths, for
    XLA, all batches are full: the shortest rows occur twice.
    """
    order = np.argsort(-lengths, kind='stable')
    if widths:
        missing = -len(order) % batch_size if len(order) > batch_size else 0
        shortest_first = order[::-1]
        return split_batches(np.concatenate([order, shortest_first[:missing]]), batch_size)
    batches, start, padding = [], 0, 0
    sizes = lengths[order].tolist()
    for i, size in enumerate(sizes):
        padding += sizes[start] - size
        if i - start == batch_size or padding > config.BATCH_COST:
            batches.append(order[start:i])
            start, padding = i, 0
    return [*batches, order[start:]]


# ---- What they are padded to ----------------------------------------------------------------------------------------


def choose_widths(lengths, batches, most=None):
    """The widths to pad these batches to, ascending: the fewest with less than config.PADDING of padding, or `most`.

    Batches of unequal rows may hold more padding than that by themselves; then 2 % may be added to it.
    """
    longest = np.array([lengths[rows].max() for rows in batches])
    rows = np.array([len(rows) for rows in batches])
    tokens = lengths[np.concatenate(batches)].sum()
    allowed = max(tokens / (1 - config.PADDING), 1.02 * longest @ rows)
    return fewest_widths(longest, rows, allowed, most)


def fewest_widths(longest, rows, allowed, most=None):
    """The fewest widths, ascending, with which the batches have at most `allowed` tokens, padding included; or the best
    `most` widths. longest, rows: (batches,), the longest row of each batch and its number of rows.

    Let w[0] = 0 < w[1] < ... be the different longest rows, and total[k, j] the least number of tokens of all batches
    that are at most w[j] long when they are padded to k widths, the largest of which is w[j]:
        total[0, 0] = 0
        total[k, j] = the least, over i < j, of total[k - 1, i] + w[j] * rows of batches longer than w[i], up to w[j]
    The widths are read off backwards from the last j: w[j], then w[i] of the i that was the least, and so on.
    """
    w, place = np.unique(np.append(longest, 0), return_inverse=True)
    rows_up_to = np.cumsum(np.bincount(place, np.append(rows, 0)))
    rows_between = rows_up_to - rows_up_to[:, None]                     # [i, j]
    step = np.where(w[:, None] < w, rows_between * w, np.inf)           # [i, j]
    total = np.where(w > 0, np.inf, 0.0)
    least = []                                                          # [k - 1][j]: i
    while total[-1] > allowed and (most is None or len(least) < most):
        candidates = total[:, None] + step
        least.append(candidates.argmin(0))
        total = candidates.min(0)
    widths, j = [], len(w) - 1
    for before in reversed(least):
        widths.append(int(w[j]))
        j = before[j]
    return widths[::-1]


# ---- The streams ----------------------------------------------------------------------------------------------------


def training_steps(knobs, data, epoch):
    """Yield (rows, row_weights) of every training step of an epoch, (batch_size,) each: always full, so that XLA and
    several devices see one shape. Rows that only fill the last update up weigh 0, and the others there so much that the
    weights of the grad_accumulation steps of every update have the mean 1."""
    size = knobs.batch_size * knobs.grad_accumulation
    for rows in epoch_batches(knobs, data, epoch):
        weights = np.zeros(size, np.float32)
        weights[:len(rows)] = size / len(rows)
        full = np.resize(rows, size)
        yield from zip(split_batches(full, knobs.batch_size), split_batches(weights, knobs.batch_size), strict=True)


def training_batch(knobs, data, step, widths, epoch):
    """((ids, segments, ...), targets, weights) of a step of training_steps(): see targets.py for the weights."""
    rows, row_weights = step
    ids, segments = data.batch(rows, widths)
    ids, more, targets, used = data.targets.batch(ids, rows, (knobs.seed, epoch))

    def weigh(used, per_row):
        of_rows = row_weights.reshape(-1, *[1] * (used.ndim - 1))
        return used * of_rows * np.float32(used[0].size / per_row)
    return (ids, segments, *more), targets, tf.nest.map_structure(weigh, used, data.targets.per_row)


def training_stream(knobs, data, widths, plan, step=0):
    """An endless tf.data stream of training_batch(), epoch after epoch, from this step of the run on. On several
    devices each gets its part of every batch."""
    first_epoch, first_step = divmod(step, plan.steps_per_epoch)

    def batches():
        for epoch in itertools.count(first_epoch):
            for number, one_step in enumerate(training_steps(knobs, data, epoch)):
                if epoch > first_epoch or number >= first_step:
                    yield training_batch(knobs, data, one_step, widths, epoch)

    def stream(context):
        size = knobs.batch_size // context.num_replicas_in_sync
        here = context.num_replicas_in_sync // context.num_input_pipelines      # devices of this machine
        first = context.input_pipeline_id * here

        def parts():
            for batch in batches():
                for device in range(first, first + here):
                    yield slice_batch(batch, slice(device * size, (device + 1) * size))

        more, targets, weights = data.targets.specs
        dataset = tf.data.Dataset.from_generator(parts, output_signature=((*PAIR, *more), targets, weights))
        return dataset.prefetch(PREFETCH * here).with_options(OPTIONS)

    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1:
        return strategy.distribute_datasets_from_function(stream)
    return stream(tf.distribute.InputContext())


def slice_batch(batch, rows):
    return tf.nest.map_structure(lambda array: array[rows], batch)


def prediction_stream(data, batches, widths=()):
    """A tf.data stream of the inputs of these batches."""
    def inputs():
        bar = progress_bar(len(batches), 'predict', 'steps')
        for rows in batches:
            ids, segments = data.batch(rows, widths)
            more = ()
            if data.targets is not None:
                ids, more, _, _ = data.targets.batch(ids, rows, ())
            yield ((ids, segments, *more),)
            bar.update(1)
        bar.close()

    more = data.targets.specs[0] if data.targets is not None else ()
    dataset = tf.data.Dataset.from_generator(inputs, output_signature=((*PAIR, *more),))
    return dataset.prefetch(PREFETCH).with_options(OPTIONS)
