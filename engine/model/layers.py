"""bert4keras's layers made exact in mixed precision and fast: the same weights, the same numbers, fewer passes.

On a processor the matrix products of a BERT take about half of a training step if all else is left to automatic
differentiation; so what is between them has its gradient written out here.
"""

import inspect

import bert4keras.layers

from engine.backend import keras, tf

PI = 3.141592653589793


def plain(call):
    """Marks a layer's call() as one that AutoGraph need not rewrite, as no `if` and no loop in it depends on a tensor:
    rewriting takes half of the time in which a model is built."""
    marked = tf.autograph.experimental.do_not_convert(call)
    marked.__signature__ = inspect.signature(call)      # where Keras looks for `mask` and `training`
    return marked


class Dropout(keras.layers.Layer):
    """Inverted dropout (Srivastava et al. 2014) by 16-bit random numbers: the rate is right to 1 / 65,536.

    Its random state is a variable, `generator.state`; on several devices everyone has its own.
    """

    def __init__(self, rate, seed, **options):
        super().__init__(**options)
        self.rate, self.generator, self.supports_masking = rate, tf.random.Generator.from_seed(seed), True

    @plain
    def call(self, inputs, training=None):
        if not self.rate or training is None or training is False:
            return inputs
        # A random number of 32 bits is two of 16: half as many to draw, which is what dropout's time goes into.
        size = tf.size(inputs)
        bits = self.generator.uniform_full_int(((size + 1) // 2,), tf.uint32)
        keep = tf.reshape(tf.bitcast(bits, tf.uint16), (-1,))[:size] >= round(self.rate * 65536)
        return inputs * tf.reshape(tf.cast(keep, inputs.dtype) * (1.0 / (1.0 - self.rate)), tf.shape(inputs))


class Attention(bert4keras.layers.MultiHeadAttention):
    """Self-attention with one product for queries, keys and values, and a softmax in float32."""

    def __init__(self, *sizes, seed=0, **options):
        super().__init__(*sizes, **options)
        self.dropout = Dropout(self.attention_dropout or 0.0, seed, dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        for dense in (self.q_dense, self.k_dense, self.v_dense, self.o_dense):
            dense.build(input_shape[0])

    @plain
    def call(self, inputs, mask=None, **kwargs):
        """Three times the same (batch, length, hidden), with the mask (batch, length) of real tokens -> the same."""
        x, (batch, length) = inputs[0], tf.unstack(tf.shape(inputs[0])[:2])
        parts = self.q_dense, self.k_dense, self.v_dense
        kernel = tf.concat([tf.cast(part.kernel, x.dtype) for part in parts], 1)
        bias = tf.concat([tf.cast(part.bias, x.dtype) for part in parts], 0)
        x = tf.nn.bias_add(tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel), bias)
        x = tf.reshape(x, (batch, length, 3, self.heads, self.key_size))
        q, k, v = tf.unstack(tf.transpose(x, (2, 0, 3, 1, 4)))         # (batch, heads, length, size)
        weights = self.dropout(tf.cast(self.weights_of(q, k, mask[1]), v.dtype))
        x = tf.transpose(tf.matmul(weights, v), (0, 2, 1, 3))
        x = self.o_dense(tf.reshape(x, (-1, self.out_dim)))         # of a matrix Dense is 2 operations, of 3 axes 20
        return tf.reshape(x, (batch, length, self.out_dim))

    def weights_of(self, q, k, mask):
        """The weights of attention, (batch, heads, length, length) float32."""
        scores = tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32) / self.key_size ** 0.5
        padding = (1.0 - tf.cast(mask, tf.float32)) * -1e9          # exp() of it is 0
        return tf.nn.softmax(scores + padding[:, None, None, :])


class Embedding(bert4keras.layers.Embedding):
    """bert4keras's; as the output layer that is tied to it (mode 'dense') in the type of its input. Token ids may bring
    a mask of their own."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, autocast=False, **options)

    @plain
    def call(self, inputs, mode='embedding'):
        """Token ids -> (..., size); with mode 'dense' (..., size) -> (..., words)."""
        if mode == 'embedding':
            return super().call(inputs)
        return tf.matmul(inputs, tf.cast(self.embeddings, inputs.dtype), transpose_b=True)

    def compute_mask(self, inputs, mask=None):
        return super().compute_mask(inputs, mask) if mask is None else mask


class FeedForward(bert4keras.layers.FeedForward):
    """bert4keras's, on matrices."""

    @plain
    def call(self, inputs):
        x = self.o_dense(self.i0_dense(tf.reshape(inputs, (-1, inputs.shape[-1]))))
        return tf.reshape(x, tf.shape(inputs))


class LayerNormalization(bert4keras.layers.LayerNormalization):
    """bert4keras's, with its gradient written out."""

    @plain
    def call(self, inputs):
        return normalize(inputs, self.gamma, self.beta, self.epsilon)


def normalize(x, gamma, beta, epsilon):
    """LayerNorm (Ba et al. 2016) over the last axis."""
    @tf.custom_gradient
    def apply(x, gamma, beta):
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        scale = 1.0 / tf.sqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon)
        unit = centred * scale

        def gradient(dy):
            axes = list(range(len(dy.shape) - 1))
            d = dy * gamma
            dx = (d - tf.reduce_mean(d, -1, keepdims=True) - unit * tf.reduce_mean(d * unit, -1, keepdims=True)) * scale
            return dx, tf.reduce_sum(dy * unit, axes), tf.reduce_sum(dy, axes)
        return unit * gamma + beta, gradient
    return apply(x, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta))


def activation(value, slope, jit):
    """The activation function of these two, float32 -> float32. `jit`: each is one loop by XLA instead of ten passes
    over memory."""
    options = {'jit_compile': jit, 'reduce_retracing': True, 'autograph': False}
    forward = tf.function(lambda x: tf.cast(value(tf.cast(x, tf.float32)), x.dtype), **options)
    backward = tf.function(lambda x, dy: dy * tf.cast(slope(tf.cast(x, tf.float32)), dy.dtype), **options)
    return tf.custom_gradient(lambda x: (forward(x), lambda dy: backward(x, dy)))


def gelu_erf(jit):
    """x times the normal distribution function (Hendrycks and Gimpel 2016), as in ELECTRA."""
    def below(x):
        return 0.5 * tf.math.erf(x * 0.5 ** 0.5) + 0.5

    return activation(lambda x: x * below(x),
                      lambda x: below(x) + x * tf.exp(-0.5 * tf.square(x)) * (0.5 / PI) ** 0.5, jit)


def gelu_tanh(jit):
    """Its approximation by tanh, as in Google's BERT and ALBERT."""
    def tanh(x):
        return tf.tanh((0.044715 * tf.square(x) + 1.0) * x * (2 / PI) ** 0.5)

    def slope(x):
        t = tanh(x)
        return 0.5 * t + 0.5 + (1.0 - tf.square(t)) * x * (0.134145 * tf.square(x) + 1.0) * (0.5 / PI) ** 0.5

    return activation(lambda x: x * (0.5 * tanh(x) + 0.5), slope, jit)
