"""What a model is to predict for a row of tokens, and what each row counts for.

The contract of weights: a batch comes as (inputs, targets, weights). What only fills a batch up weighs 0: rows behind
a short last batch, padding, tokens without a label. Everything else weighs the same, and the weights of a batch add up
to its number of elements: 4 rows, 3 of them real: 4/3, 4/3, 4/3, 0. So Keras's mean of loss times weight, and that of
whoever multiplies a loss by the weights before taking the mean, is the mean over what is really there. With
grad_accumulation this holds for the batches that make one update, together.

Targets are objects with these methods, for one of which a batch is (rows, width) token ids:
- counts(rows): how many elements with a weight each of the rows has;
- batch(ids, rows, key): the inputs' token ids (other ones for masked language modelling), what else the model gets as
  input, the targets, and which of them have a weight, as 0 and 1; what is drawn at random depends on the row and on
  `key`, some whole numbers: (seed, epoch) in training, () in prediction;
- words_put_in(): ids that it may put into the inputs and that the texts may not have;
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

    def counts(self, rows):
        return np.ones(len(rows))

    def batch(self, ids, rows, key):
        targets = tf.nest.map_structure(lambda array: array[rows], self.values)
        return ids, (), targets, np.ones(len(rows), np.float32)

    def words_put_in(self):
        return []

    def check(self, lengths):
        for array in self.arrays():
            if len(array) != len(lengths):
                raise UserError(f'Targets for {len(array)} rows do not fit data of {len(lengths)} rows.')

    def arrays(self):
        return tf.nest.flatten(self.values)


class PerToken:
    """A class for each token: `values` has an array for every row, as long as the row; NONE where there is no label,
    as on [CLS] and [SEP]."""
    NONE = -1

    def __init__(self, values):
        self.values = [np.asarray(labels, np.int32) for labels in values]
        self.labelled = np.array([(labels != self.NONE).sum() for labels in self.values])
        self.specs = (), tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None), tf.float32)

    def counts(self, rows):
        return self.labelled[rows]

    def batch(self, ids, rows, key):
        targets = np.full(ids.shape, self.NONE, np.int32)
        for i, row in enumerate(rows):
            targets[i, :len(self.values[row])] = self.values[row]
        labelled = targets != self.NONE
        return ids, (), np.where(labelled, targets, 0), labelled.astype(np.float32)

    def words_put_in(self):
        return []

    def check(self, lengths):
        if [len(labels) for labels in self.values] != list(lengths):
            raise UserError('Targets by token do not fit: a row needs one for every token, [CLS] and [SEP] included.')

    def arrays(self):
        return self.values


class Masked:
    """Tokens that are hidden and to be predicted (Devlin et al. 2019, section 3.1), others in every epoch.

    Of the tokens of a row that are no special ones `share` are drawn, at least one and at most `slots`. The model gets
    their places as a third input, (batch, slots) int32, and predicts (batch, slots) tokens; slots that are not used
    are at place 0 with weight 0. In the input 80 % of them become [MASK], 10 % any token but [PAD], 10 % stay.
    """

    def __init__(self, data, share=0.15, slots=20):
        if data.vocabulary.mask is None:
            raise UserError('The vocabulary has no [MASK], which masked language modelling needs.')
        self.special = [0, data.vocabulary.cls, data.vocabulary.sep]
        self.mask, self.words, self.slots = data.vocabulary.mask, data.vocabulary.tokenizer.get_vocab_size(), slots
        candidates = data.counts.sum(1)
        self.drawn = np.minimum(np.clip(np.round(share * data.lengths).astype(int), 1, slots), candidates)
        places = targets = tf.TensorSpec((None, slots), tf.int32)
        self.specs = (places,), targets, tf.TensorSpec((None, slots), tf.float32)

    def counts(self, rows):
        return self.drawn[rows]

    def batch(self, ids, rows, key):
        hidden = ids.copy()
        places, targets = (np.zeros((len(rows), self.slots), np.int32) for _ in range(2))
        used = np.zeros((len(rows), self.slots), np.float32)
        for i, row in enumerate(rows):
            random = np.random.default_rng([*key, row])
            candidates = np.flatnonzero(~np.isin(ids[i], self.special))
            chosen = np.sort(random.permutation(candidates)[:self.drawn[row]])
            count = len(chosen)
            places[i, :count], targets[i, :count], used[i, :count] = chosen, ids[i, chosen], 1.0
            fate = random.random(count)
            hidden[i, chosen[fate < 0.8]] = self.mask
            other = chosen[(fate >= 0.8) & (fate < 0.9)]
            hidden[i, other] = random.integers(1, self.words, size=len(other))
        return hidden, (places,), targets, used

    def in_prediction(self, data):
        """(targets, used), (rows, slots) each: the tokens that prediction hides, to score its outputs against."""
        batches = [self.batch(data.batch([row])[0], [row], ()) for row in range(len(data))]
        return np.concatenate([targets for _, _, targets, _ in batches]), np.concatenate([used for *_, used in batches])

    def words_put_in(self):
        return np.arange(self.words)

    def check(self, lengths):
        if len(self.drawn) != len(lengths):
            raise UserError('The tokens to be predicted are those of other data.')

    def arrays(self):
        return [self.drawn]
