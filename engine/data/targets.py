"""What a model is to predict for a row of tokens, and what each row counts for.

The contract of weights: a batch comes as (inputs, targets, weights). What only fills a batch up weighs 0: rows behind
a short last batch, padding, tokens without a label. The others weigh so much that Keras's mean of loss times weight,
and that of whoever multiplies a loss by the weights before taking the mean, is
- of rows: the mean over those that are really there. 4 rows, 3 of them real, weigh 4/3, 4/3, 4/3, 0;
- of tokens: the sum over those that have a label, divided by the number that so many rows have on average. So each
  weighs the same in every batch. With the mean of each batch by itself tokens of short rows, which come together, would
  weigh more than others.
With grad_accumulation this holds for the batches that make one update, together.

Targets are objects with these methods, for one of which a batch is (rows, width) token ids:
- per_row: how many elements with a weight a row has on average; where there are several targets with weights of their
  own, of each;
- batch(ids, rows, key): the inputs' token ids (other ones for masked language modelling), what else the model gets as
  input, the targets, and which of them have a weight, as 0 and 1; what is drawn at random depends on the row and on
  `key`, some whole numbers: (seed, epoch) in training, () in prediction;
- extra_token_ids(): ids that it may put into the inputs and that the texts may not have;
- specs: the tf.TensorSpecs of these further inputs, of the targets and of the weights;
- check(lengths): raises UserError where they are not of rows of these lengths;
- arrays(): what they are made of, to tell other data from the same.
"""

import numpy as np

from engine.backend import tf
from engine.files import UserError


class PerRow:
    """A value for each row: a class, a score, or (rows, n): several classes as 0 and 1, a pair of positions. A tuple of
    such arrays where the model has several outputs."""

    def __init__(self, values):
        self.values = tf.nest.map_structure(np.asarray, values)
        targets = tf.nest.map_structure(
            lambda array: tf.TensorSpec((None, *array.shape[1:]), tf.as_dtype(array.dtype)), self.values)
        self.specs = (), targets, tf.TensorSpec((None,), tf.float32)
        self.per_row = 1.0

    def batch(self, ids, rows, key):
        targets = tf.nest.map_structure(lambda array: array[rows], self.values)
        return ids, (), targets, np.ones(len(rows), np.float32)

    def extra_token_ids(self):
        return []

    def check(self, lengths):
        for array in self.arrays():
            if len(array) != len(lengths):
                raise UserError(f'Targets for {len(array)} rows do not fit data of {len(lengths)} rows.')

    def arrays(self):
        return tf.nest.flatten(self.values)


class PerToken:
    """A class for each token: `values` has an array for every row, as long as the row; NONE where there is no label,
    as on [CLS] and [SEP]. There the targets of a batch are `fill`: 0, which any loss takes, or NONE for a loss that is
    to know these places."""
    NONE = -1

    def __init__(self, values, fill=0):
        self.values, self.fill = [np.asarray(labels, np.int32) for labels in values], fill
        labelled = sum((labels != self.NONE).sum() for labels in self.values)
        self.per_row = max(labelled, 1) / max(len(self.values), 1)     # weights are divided by it
        self.specs = (), tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None), tf.float32)

    def batch(self, ids, rows, key):
        targets = np.full(ids.shape, self.NONE, np.int32)
        for i, row in enumerate(rows):
            targets[i, :len(self.values[row])] = self.values[row]
        labelled = targets != self.NONE
        return ids, (), np.where(labelled, targets, self.fill), labelled.astype(np.float32)

    def extra_token_ids(self):
        return []

    def check(self, lengths):
        if [len(labels) for labels in self.values] != list(lengths):
            raise UserError('Targets by token do not fit: a row needs one for every token, [CLS] and [SEP] included.')

    def arrays(self):
        return self.values


class MaskedTokens:
    """Tokens that are hidden and to be predicted (Devlin et al. 2019, section 3.1), others in every epoch.

    Of the tokens of a row that are no special ones `share` are drawn, without replacement, at least one and at most
    `slots`. The model gets their places as a third input, (batch, slots) int32, and predicts (batch, slots) tokens;
    slots that are not used are at place 0 with weight 0. In the input the share `masked` of them becomes [MASK], the
    share `random` any token but [PAD], the others stay. whole_words: the pieces of a word are drawn together; a word
    that would exceed the number is passed over (google-research/bert, create_pretraining_data.py).
    """

    def __init__(self, data, share=0.15, slots=20, masked=0.8, random=0.1, whole_words=False):
        vocabulary = data.vocabulary
        if vocabulary.mask is None:
            raise UserError('The vocabulary has no [MASK], which masked language modelling needs.')
        self.special = [0, vocabulary.cls, vocabulary.sep, vocabulary.mask]
        self.mask, self.words, self.slots = vocabulary.mask, vocabulary.tokenizer.get_vocab_size(), slots
        self.masked, self.random, self.data = masked, random, data if whole_words else None
        self.lengths = data.lengths
        self.drawn = np.clip(np.round(share * data.lengths).astype(np.int32), 1, np.minimum(slots, data.tokens))
        places = targets = tf.TensorSpec((None, slots), tf.int32)
        self.specs = (places,), targets, tf.TensorSpec((None, slots), tf.float32)
        self.per_row = self.drawn.mean()

    def batch(self, ids, rows, key):
        order, fate, other = self.noise(ids, rows, key)
        order[np.isin(ids, self.special)] = 2.0         # behind all others
        if self.data:
            places, used = self.choose_words(order, rows)
        else:
            places, used = self.choose_tokens(order, rows)
        row = np.arange(len(rows))[:, None]
        targets = np.where(used, ids[row, places], 0)
        fate, other = fate[row, places], 1 + (other[row, places] * (self.words - 1)).astype(np.int32)
        shown = np.where(fate < self.masked, self.mask, np.where(fate < self.masked + self.random, other, targets))
        hidden = ids.copy()
        np.put_along_axis(hidden, places, np.where(used, shown, ids[:, :1]), 1)     # unused slots are on [CLS]
        return hidden, (places,), targets, used.astype(np.float32)

    def noise(self, ids, rows, key):
        """Three random numbers from 0 to 1 for every token of each row, whatever batch it is in: 3 x (rows, width)."""
        noise = np.full((3, *ids.shape), 2.0)
        for i, row in enumerate(rows):
            length = self.lengths[row]
            noise[:, i, :length] = np.random.default_rng([*key, row]).random((3, length))
        return noise

    def choose_tokens(self, order, rows):
        """The places, ascending, of the drawn tokens with the lowest `order` in each row, and which slots are used:
        (rows, slots) int32 and bool."""
        width = order.shape[1]
        lowest = np.full((len(rows), self.slots), width)
        first = np.argsort(order, axis=1)[:, :self.slots]
        lowest[:, :first.shape[1]] = first
        lowest[np.arange(self.slots) >= self.drawn[rows][:, None]] = width
        lowest.sort(axis=1)
        used = lowest < width
        return np.where(used, lowest, 0).astype(np.int32), used

    def choose_words(self, order, rows):
        """The same for whole words: in the order of their first pieces, each that still has room."""
        joined = self.data.joined(rows, order.shape[1])
        places, used = np.zeros((len(rows), self.slots), np.int32), np.zeros((len(rows), self.slots), bool)
        for i, row in enumerate(rows):
            starts = np.flatnonzero(~joined[i] & (order[i] <= 1.0))
            ends = np.append(starts[1:], self.lengths[row])
            chosen = []
            for word in np.argsort(order[i, starts]):
                pieces = [place for place in range(starts[word], ends[word]) if order[i, place] <= 1.0]
                if len(chosen) + len(pieces) <= self.drawn[row]:
                    chosen += pieces
            count = len(chosen)
            places[i, :count], used[i, :count] = sorted(chosen), True
        return places, used

    def prediction_targets(self, data):
        """(targets, used), (rows, slots) each: the tokens that prediction hides, to score its outputs against."""
        batches = [self.batch(data.batch([row])[0], [row], ()) for row in range(len(data))]
        return np.concatenate([targets for _, _, targets, _ in batches]), np.concatenate([used for *_, used in batches])

    def extra_token_ids(self):
        return np.arange(self.words)

    def check(self, lengths):
        if len(self.drawn) != len(lengths):
            raise UserError('The tokens to be predicted are those of other data.')

    def arrays(self):
        return [self.drawn]


class ReplacedTokens(MaskedTokens):
    """ELECTRA's (Clark et al. 2020, section 2): besides the tokens that were hidden, for the generator, all tokens of
    the row as they were, (batch, width), for the discriminator. So the targets are two, and so are the weights: of the
    slots, and of the tokens, special ones included."""

    def __init__(self, data, share=0.15, slots=20, masked=0.85):
        super().__init__(data, share, slots, masked, random=0.0)
        places, targets, used = self.specs
        self.specs = (places, (targets, tf.TensorSpec((None, None), tf.int32)),
                      (used, tf.TensorSpec((None, None), tf.float32)))
        self.per_row = self.drawn.mean(), self.lengths.mean()

    def batch(self, ids, rows, key):
        hidden, places, targets, used = super().batch(ids, rows, key)
        is_real = np.arange(ids.shape[1]) < self.lengths[rows][:, None]
        return hidden, places, (targets, ids), (used, is_real.astype(np.float32))
