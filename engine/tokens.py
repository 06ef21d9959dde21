"""From texts to batches: token ids, kept on disk, and batches of similar length padded to one of a few lengths."""

import array
import contextlib
import functools
import hashlib
import io
import itertools
import os
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf
import tokenizers

import config
from engine.checkpoints import load_tokenizer, open_model
from engine.files import UserError, drop_abandoned, write_file
from engine.progress import progress

# ---- Token ids ------------------------------------------------------------------------------------------------------

FORMAT = 1      # of the files in the cache; a new number makes the old ones useless


def tokenize(knobs, examples):
    """[CLS] a [SEP] or [CLS] a [SEP] b [SEP] for every example, at most `maxlen` tokens, as Tokens.

    Word pieces as in Google's BERT. A pair that is too long loses tokens from the end of the longer text, on a tie
    from the second (BERT, run_classifier.py, _truncate_seq_pair).
    """
    checkpoint = open_model(knobs.model, knobs.model_dir)
    return token_ids(load_tokenizer(checkpoint.folder, checkpoint.config['vocab_size']), knobs.maxlen, examples,
                     Path(knobs.cache_dir) if knobs.cache else None)


def token_ids(tokenizer, maxlen, examples, cache=None):
    """tokenize() with load_tokenizer()'s answer and the folder where ids are kept, if they shall be."""
    tokenizer, cls, sep = tokenizer
    pair = examples[0].text_b is not None
    texts = [[example.text_a for example in examples], [example.text_b for example in examples] if pair else []]
    numbers = {}        # of the different texts: each is cut once, however often it occurs
    which = np.fromiter((numbers.setdefault(text, len(numbers)) for text in itertools.chain(*texts)), np.int64)
    counts, ids = kept_ids(cache, tokenizer, list(numbers)) if cache else encode(tokenizer, list(numbers))
    starts = np.cumsum(counts, dtype=np.int64) - counts
    starts, counts = (one[which].reshape(1 + pair, -1).T for one in (starts, counts))
    if pair:
        room, (a, b) = maxlen - 3, counts.T
        cut_a = np.minimum(a, np.maximum(room - b, -(-room // 2)))
        counts = np.stack([cut_a, np.minimum(b, room - cut_a)], axis=1)
    else:
        counts = np.minimum(counts, maxlen - 2)
    return Tokens(examples, ids, starts, counts, maxlen, cls, sep)


def encode(tokenizer, texts, chunk=10000):
    """How many tokens every text has, and the ids of all in one array, both int32; in chunks, as encodings are large.
    `tokenizers` uses every core."""
    counts, ids = [], array.array('i')
    bar = progress(len(texts), 'tokenize', 'texts')
    for start in range(0, len(texts), chunk):
        for encoding in tokenizer.encode_batch_fast(texts[start:start + chunk], add_special_tokens=False):
            one = encoding.ids
            counts.append(len(one))
            ids.fromlist(one)
        bar.update(len(counts) - bar.n)
    bar.close()
    return np.array(counts, np.int32), np.array(ids, np.int32)


def kept_ids(folder, tokenizer, texts):
    """encode() from a file in `folder`, mapped into memory, or made now and kept there.

    The file's name is the hash of all that the ids depend on, so it cannot be out of date: the texts and the tokenizer
    with its vocabulary and every option. It is an int32 array: a checksum, the number of tokens of every text, the ids.
    """
    key = hashlib.sha256(f'{FORMAT} {tokenizers.__version__} {tokenizer.to_str()}'.encode())
    key.update(np.array([len(text) for text in texts]))
    for start in range(0, len(texts), 10000):
        key.update(''.join(texts[start:start + 10000]).encode())
    path = folder / f'tokens-{key.hexdigest()}.npy'

    def checksum(kept):
        return zlib.crc32(kept[1:], zlib.crc32(key.digest())) & 0x7fffffff

    try:
        kept = np.asarray(np.lib.format.open_memmap(path, mode='r'))
        counts, ids = kept[1:len(texts) + 1], kept[len(texts) + 1:]
        if kept.dtype != np.int32 or kept.ndim != 1 or kept[0] != checksum(kept) or len(ids) != counts.sum():
            raise ValueError
        with contextlib.suppress(OSError):
            os.utime(path)              # the last use, for trim()
        return counts, ids
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception:       # numpy evaluates the header as Python
        print(f'{path}: damaged, or no file of token ids; made again.')

    counts, ids = encode(tokenizer, texts)
    kept = np.concatenate([np.zeros(1, np.int32), counts, ids])
    kept[0] = checksum(kept)
    file = io.BytesIO()
    np.save(file, kept)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, file.getbuffer())
        trim(folder, path)
    except (OSError, UserError) as error:
        say_once(f'{folder}: token ids cannot be kept here ({(error.__cause__ or error).strerror}); going on without.')
    return counts, ids


def trim(folder, newest):
    """Delete the files that were not used for longest, so that no more than CACHE_LIMIT bytes stay."""
    total = 0
    drop_abandoned(folder, '.tokens-*.npy.[0-9]*')
    with contextlib.suppress(OSError):      # another run may be doing the same
        for path in sorted(folder.glob(f'tokens-{"[0-9a-f]" * 64}.npy'), key=lambda path: -path.stat().st_mtime_ns):
            total += path.stat().st_size
            if total > config.CACHE_LIMIT and path != newest:
                path.unlink()


@functools.cache
def say_once(line):
    print(line)


# ---- Batches --------------------------------------------------------------------------------------------------------

PREFETCH = 16       # batches that are made ahead
PAIR = (tf.TensorSpec((None, None), tf.int32),) * 2     # ids and segment ids
OPTIONS = tf.data.Options()
OPTIONS.experimental_optimization.apply_default_optimizations = False   # no prefetching of clocks
OPTIONS.autotune.enabled = False        # there is nothing to tune, and whoever deletes the stream waits for the tuner


class Tokens:
    """Examples with their token ids.

    Text k (0 or 1) of example i is ids[starts[i, k]:starts[i, k] + counts[i, k]], already truncated, without [CLS] and
    [SEP], which batch() adds. The first `lengths_a[i]` of all its `lengths[i]` tokens are [CLS], text a and [SEP]
    (segment 0), the rest text b and [SEP] (segment 1).
    """

    def __init__(self, examples, ids, starts, counts, maxlen, cls, sep):
        self.examples, self.ids, self.starts, self.counts, self.maxlen = examples, ids, starts, counts, maxlen
        self.cls, self.sep, self.lengths_a, self.waited = cls, sep, counts[:, 0] + 2, 0.0
        self.lengths = (counts + 1).sum(1) + 1
        if examples[0].label is not None:
            self.labels = np.array([example.label for example in examples])     # int64, or float64 for scores

    def __len__(self):
        return len(self.examples)

    def vocabulary(self):
        """The different token ids, those of [PAD], [CLS] and [SEP] included, in ascending order."""
        return np.union1d(np.flatnonzero(np.bincount(self.ids)), [0, self.cls, self.sep])

    def batch(self, rows, lengths=()):
        """Token ids and segment ids of these examples, (len(rows), width) int32 each, padded with 0 to the first of
        `lengths` that is enough, or else to the longest example."""
        length, length_a = self.lengths[rows, None], self.lengths_a[rows, None]
        longest = length.max()
        column = np.arange(min((one for one in lengths if one >= longest), default=longest))
        inside = column < length
        ids = np.where(inside, np.int32(self.sep), np.int32(0))
        ids[:, 0] = self.cls
        starts, counts = self.starts[rows].ravel(), self.counts[rows].ravel()
        text = inside & (column > 0) & (column != length_a - 1) & (column != length - 1)
        ids[text] = self.ids[np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
        return ids, (inside & (column >= length_a)).astype(np.int32)

    def shuffled(self, seed, epoch, batch_size):
        """The rows of every batch of one epoch: a function of (seed, epoch) alone.

        A batch holds examples of the same length or nearly so: the shuffled rows are sorted by length, cut, and the
        batches shuffled. So every epoch has batches of the same lengths, and the same padding.
        """
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self))
        order = order[np.argsort(self.lengths[order], kind='stable')]
        batches = cut(order, batch_size)
        return [batches[i] for i in random.permutation(len(batches))]

    def fewest_lengths(self, batches):
        """The fewest lengths to pad these batches to with less than config.PADDING of padding, ascending.

        Batches of unequal examples may hold more than that by themselves; then 2 % may be added to it.
        """
        longest, rows = np.array([(self.lengths[rows].max(), len(rows)) for rows in batches]).T
        widths, at = np.unique(np.append(longest, 0), return_inverse=True)
        below = np.cumsum(np.bincount(at, np.append(rows, 0)))      # rows in batches of this width or less
        allowed = max(self.lengths[np.concatenate(batches)].sum() / (1 - config.PADDING), 1.02 * longest @ rows)
        # step[i, j]: the size of all batches wider than widths[i] when padded to widths[j]
        step = np.where(widths[:, None] < widths, (below - below[:, None]) * widths, np.inf)
        # size[j]: that of all batches up to widths[j] with 0, then 1, 2, ... lengths
        size, before = np.where(widths > 0, np.inf, 0.0), []
        while size[-1] > allowed:
            before.append((size[:, None] + step).argmin(0))
            size = (size[:, None] + step).min(0)
        lengths, j = [], len(widths) - 1
        for one in before[::-1]:
            lengths.append(int(widths[j]))
            j = one[j]
        return lengths[::-1]

    def steps(self, knobs, epoch):
        """The rows, (batch_size,), and their weights, of every training step of this epoch.

        A last batch of n rows is filled up with rows of weight 0; the others weigh batch_size / n, so that the mean of
        weighted losses is the mean over the n rows. A batch of grad_accumulation steps is one batch in this, too.
        """
        size = knobs.batch_size * knobs.grad_accumulation
        for rows in self.shuffled(knobs.seed, epoch, size):
            weights = np.zeros(size, np.float32)
            weights[:len(rows)] = size / len(rows)
            yield from zip(cut(np.resize(rows, size), knobs.batch_size), cut(weights, knobs.batch_size), strict=True)

    def training_batches(self, knobs, epoch=0, step=0):
        """An endless tf.data stream of ((ids, segments), labels, weights), as steps() gives them, epoch after epoch,
        from this step of this epoch on (both from 0).

        Every batch has `batch_size` rows, so that XLA has no other shape to compile and several devices get equal parts
        of it. `waited` counts the seconds that the training has waited for batches; several devices, which fetch ahead,
        do not show it, nor does --deterministic. knobs.lengths is set to what they are padded to, for dev and test.
        """
        knobs.lengths = lengths = self.fewest_lengths([rows for rows, _ in self.steps(knobs, 0)])
        strategy, self.waited = tf.distribute.get_strategy(), 0.0

        def stream(parts):
            for number in itertools.count(epoch):
                for rows, weights in itertools.islice(self.steps(knobs, number), step if number == epoch else 0, None):
                    longest = [one for one in lengths if one >= self.lengths[rows].max()][:1]
                    for part in parts:
                        yield self.batch(rows[part], longest), self.labels[rows[part]], weights[part]

        def batches(context):
            size = knobs.batch_size // context.num_replicas_in_sync
            here = context.num_replicas_in_sync // context.num_input_pipelines      # devices of this machine
            parts = [slice(i * size, (i + 1) * size) for i in range(context.input_pipeline_id * here,
                                                                    (context.input_pipeline_id + 1) * here)]
            label = tf.TensorSpec((None,), tf.as_dtype(self.labels.dtype))
            return tf.data.Dataset.from_generator(
                functools.partial(stream, parts), output_signature=(PAIR, label, tf.TensorSpec((None,), tf.float32))
            ).prefetch(PREFETCH * here).with_options(OPTIONS)

        if strategy.num_replicas_in_sync > 1:
            return strategy.distribute_datasets_from_function(batches)
        if knobs.deterministic:         # forbids clocks
            return batches(tf.distribute.InputContext())

        def count(seconds):
            self.waited += seconds
            return np.int32(0)

        def timed(asked, batch, got):
            with tf.control_dependencies([tf.numpy_function(count, [got - asked], tf.int32)]):
                return tf.nest.map_structure(tf.identity, batch)

        # A zip asks its parts one after the other: the clock, then for the batch, then the clock again.
        clock = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: tf.timestamp())
        parts = clock, batches(tf.distribute.InputContext()), clock
        return tf.data.Dataset.zip(parts).map(timed).with_options(OPTIONS)

    def batches(self, batch_size, lengths=None):
        """A tf.data stream of (ids, segments) from the longest examples to the shortest, and the order of the rows.

        A batch ends after `batch_size` examples, or before they hold more padding than another batch costs. `lengths`,
        for XLA, are few shapes instead: full batches, padded to one of these, or to maxlen beyond; where there are
        several, the last is as large as the others: the shortest examples occur twice.
        """
        order = np.argsort(-self.lengths, kind='stable')
        if lengths:
            if len(order) > batch_size:
                order = np.concatenate([order, order[:-batch_size - 1:-1][:-len(order) % batch_size]])
            batches, lengths = cut(order, batch_size), [*lengths, self.maxlen]
        else:
            batches, start, padding, sizes = [], 0, 0, self.lengths[order].tolist()
            for i, size in enumerate(sizes):
                padding += sizes[start] - size
                if i - start == batch_size or padding > config.BATCH_COST:
                    batches.append(order[start:i])
                    start, padding = i, 0
            batches, lengths = [*batches, order[start:]], ()

        def stream():
            bar = progress(len(batches), 'predict', 'steps')
            for rows in batches:
                yield (self.batch(rows, lengths),)
                bar.update(1)
            bar.close()

        dataset = tf.data.Dataset.from_generator(stream, output_signature=(PAIR,)).prefetch(PREFETCH)
        return dataset.with_options(OPTIONS), order


def cut(order, batch_size):
    return [order[i:i + batch_size] for i in range(0, len(order), batch_size)]
