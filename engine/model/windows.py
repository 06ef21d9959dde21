"""Texts that are longer than the model, as one row each: all their windows, the vectors of which are put together.

A row has its windows one behind the other, each maxlen wide; a text that fits into one window is a row like others.
    maxlen 5, 8 tokens:   [CLS] 0 1 2 [SEP]  [CLS] 3 4 5 [SEP]  [CLS] 6 7 [SEP] 0
"""



from engine.backend import keras, tf
from engine.model import layers as fast

WINDOWS_AT_ONCE = 64        # windows that prediction computes at a time, where the layer says nothing else

# ---- Layers ---------------------------------------------------------------------------------------------------------


class EncodeWindows(keras.layers.Layer):
    """An encoder's vector of every window: token ids and segment ids of InWindows, (batch, length) each -> (batch,
    windows, hidden), with Keras's mask on windows that are there.

    Memory does not grow with the texts: prediction computes a number of windows at a time, and so does training where
    `at_once` is not 0. Then no more than their vectors are kept, and everything else is computed again for the gradient
    (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; Gao et al. 2021, section 3, for vectors that a
    loss puts together), with the same dropout: the same numbers, for about half more time.
    """

    def __init__(self, encoder, maxlen, at_once=0, **options):
        super().__init__(dtype='float32', **options)
        self.encode = keras.Model(encoder.inputs, encoder.vector)
        self.words, self.maxlen, self.at_once = encoder.words.embeddings, maxlen, at_once

    @fast.plain
    def call(self, inputs, training=None):
        ids, segments = (tf.cast(x, tf.int32) for x in inputs)
        batch, length = tf.unstack(tf.shape(ids))
        width = tf.minimum(length, self.maxlen)
        count = length // width
        ids, segments = (tf.reshape(x, (batch * count, width)) for x in (ids, segments))
        used = tf.where(ids[:, 0] != 0)         # (windows that are not all padding, 1)
        ids, segments = (tf.gather_nd(x, used) for x in (ids, segments))
        if not training:
            vectors = self.encode_in_chunks(ids, segments, self.at_once or WINDOWS_AT_ONCE, training=False)
        elif self.at_once:
            vectors = self.encode_recomputing(ids, segments)
        else:
            vectors = self.encode((ids, segments), training=True)
        hidden = vectors.shape[-1]
        return tf.reshape(tf.scatter_nd(used, vectors, (batch * count, hidden)), (batch, count, hidden))

    def compute_mask(self, inputs, mask=None):
        first_tokens = inputs[0][:, ::self.maxlen]
        return tf.not_equal(first_tokens, 0)

    def encode_in_chunks(self, ids, segments, size, training):
        """encode() of so many windows at a time."""
        parts = tf.range(0, tf.shape(ids)[0], size)
        vectors = tf.TensorArray(tf.float32, tf.size(parts), infer_shape=False,
                                 element_shape=(None, self.encode.output_shape[-1]))

        def next_part(i, vectors):
            part = slice(parts[i], parts[i] + size)
            return i + 1, vectors.write(i, self.encode((ids[part], segments[part]), training=training))

        _, vectors = tf.while_loop(lambda i, _: i < tf.size(parts), next_part, (0, vectors), parallel_iterations=1)
        return vectors.concat()

    def encode_recomputing(self, ids, segments):
        """encode() of at_once windows at a time, in training: forward for the vectors, and again for the gradient."""
        dropouts = [layer for layer in self.encode.submodules if isinstance(layer, fast.Dropout)]

        @tf.custom_gradient
        def vectors_of(ids, segments):
            states = [dropout.generator.state.read_value() for dropout in dropouts]

            def gradient(of_vectors, variables):
                for dropout, state in zip(dropouts, states, strict=True):
                    dropout.generator.state.assign(state)       # the same random numbers once more
                return (None, None), self.gradients(variables, ids, segments, of_vectors)
            return self.encode_in_chunks(ids, segments, self.at_once, training=True), gradient
        return vectors_of(ids, segments)

    def gradients(self, variables, ids, segments, of_vectors):
        """The gradient of each of the variables, from that of the vectors of all windows."""
        def next_part(start, *sums):
            part = slice(start, start + self.at_once)
            with tf.GradientTape() as tape:
                vectors = self.encode((ids[part], segments[part]), training=True)
            gradients = tape.gradient(vectors, variables, of_vectors[part])
            return start + self.at_once, *[total + gradient for total, gradient in zip(sums, gradients, strict=True)]

        zeros = [tf.zeros_like(variable) for variable in variables]
        _, *sums = tf.while_loop(lambda start, *_: start < tf.shape(ids)[0], next_part, (0, *zeros),
                                 parallel_iterations=1)
        return [self.as_indexed_slices(total, ids) if variable is self.words else total
                for variable, total in zip(variables, sums, strict=True)]

    def as_indexed_slices(self, gradient, ids):
        """The gradient of the word embeddings as one of the rows that were looked up, as TensorFlow has it."""
        used, _ = tf.unique(tf.reshape(ids, (-1,)))
        return tf.IndexedSlices(tf.gather(gradient, used), used, tf.shape(gradient))


class MaxPooling(keras.layers.Layer):
    """The maximum over the real vectors: (batch, vectors, hidden) and its mask -> (batch, hidden)."""

    @fast.plain
    def call(self, inputs, mask=None):
        return tf.reduce_max(tf.where(mask[:, :, None], inputs, inputs.dtype.min), 1)

    def compute_mask(self, inputs, mask=None):
        return None


class AttentionPooling(keras.layers.Layer):
    """The mean over the real vectors, (batch, vectors, hidden) and its mask -> (batch, hidden), by weights that are
    learned: the softmax of v tanh(W x + b) (Lin et al. 2017, "A Structured Self-attentive Sentence Embedding", with one
    row of weights; Yang et al. 2016, section 2.2)."""

    def __init__(self, hidden, initial, **options):
        super().__init__(**options)
        self.inner = keras.layers.Dense(hidden, 'tanh', kernel_initializer=initial, name='inner')
        self.score = keras.layers.Dense(1, use_bias=False, kernel_initializer=initial, name='score')

    @fast.plain
    def call(self, inputs, mask=None):
        scores = tf.where(mask[:, :, None], self.score(self.inner(inputs)), -1e9)
        return tf.reduce_sum(inputs * tf.nn.softmax(scores, 1), 1)

    def compute_mask(self, inputs, mask=None):
        return None
