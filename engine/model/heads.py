"""The heads of pre-training: which words were hidden (BERT, and ELECTRA's generator), and which tokens were replaced
(ELECTRA's discriminator); and what lies between these two, the corrupted text."""

from engine.backend import keras, tf
from engine.model import layers as fast
from engine.model.checkpoints import open_model
from engine.model.encoders import PretrainingInitializer, activation, encoder_seed, name_variables, precision_policy
from engine.model.families import mlm_head_shapes, rtd_head_shapes


class Bias(keras.layers.Layer):
    """Adds a vector, in float32."""

    def __init__(self, **options):
        super().__init__(dtype='float32', **options)

    def build(self, input_shape):
        self.bias = self.add_weight('bias', (input_shape[-1],), initializer='zeros')

    @fast.plain
    def call(self, inputs):
        return inputs + self.bias


def mlm_head(knobs, encoder, places, prefix=''):
    """The logits of all words at these places of a text, (batch, slots) -> (batch, slots, words) float32: a dense
    layer, LayerNorm and the encoder's own word embeddings (google-research/bert, run_pretraining.py,
    get_masked_lm_output). Returns them, and {name: variable} of what is not the encoder's."""
    settings, compute = encoder.settings, keras.mixed_precision.Policy(precision_policy(knobs)).compute_dtype
    dense = keras.layers.Dense(settings['embedding_size'], activation(knobs, settings), dtype=precision_policy(knobs),
                               kernel_initializer=PretrainingInitializer(encoder_seed(knobs, f'{prefix}head')),
                               name=f'{prefix}Words-Dense')
    norm = fast.LayerNormalization(epsilon=settings['layer_norm_eps'], dtype='float32', name=f'{prefix}Words-Norm')
    bias = Bias(name=f'{prefix}Words-Bias')
    x = norm(dense(tf.gather(encoder.sequence, places, batch_dims=1)))
    logits = bias(encoder.words(tf.cast(x, compute), mode='dense'))
    return logits, name_layers([dense, norm, bias], mlm_head_shapes(encoder.family, settings))


def load_mlm_head(knobs, head):
    """Fill the head of hidden_words() from the checkpoint that --model names, where it has one, and say so. head:
    {name: variable}."""
    checkpoint = open_model(knobs.model, knobs.model_dir)
    if any(checkpoint.shapes.get(name) != tuple(variable.shape) for name, variable in head.items()):
        print(f'{checkpoint.path}: no head for hidden words in it, so it begins with fresh values')
        return
    for name, value in checkpoint.read(head):
        head[name].assign(value)
    print(f'{checkpoint.path}: its head for hidden words is used')


def rtd_head(knobs, encoder):
    """The logit, for every token of a text, that it is not the original one, (batch, length) float32 (Clark et al.
    2020, section 2; run_pretraining.py, _get_discriminator_output)."""
    settings = encoder.settings
    dense = keras.layers.Dense(settings['hidden_size'], activation(knobs, settings), dtype=precision_policy(knobs),
                               kernel_initializer=PretrainingInitializer(encoder_seed(knobs, 'discriminator head')),
                               name='Replaced-Dense')
    # Google's code leaves this layer's initial values to tf.layers.dense.
    logit = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(knobs.seed), dtype='float32',
                               name='Replaced-Logit')
    logits = logit(dense(encoder.sequence))
    name_layers([dense, logit], rtd_head_shapes(settings))
    return logits[:, :, 0]


def name_layers(layers, names):
    """Give the layers' variables these names, in this order."""
    names, named = list(names), {}
    for layer in layers:
        count = len(layer.trainable_weights)
        named |= name_variables(layer, names[:count])
        names = names[count:]
    return named


class SampleReplacements(keras.layers.Layer):
    """ELECTRA's corrupted text (Clark et al. 2020, section 2): at every place that was hidden a token drawn from the
    generator's distribution, by Gumbel noise; no gradient goes through it.

    Inputs: token ids (batch, length), places (batch, slots), 0 where a slot is not used, logits (batch, slots, words).
    Returns token ids (batch, length) int32. In training others every time; else a function of the text.
    """

    def __init__(self, seed, **options):
        super().__init__(dtype='float32', **options)
        self.generator = tf.random.Generator.from_seed(seed)

    @fast.plain
    def call(self, inputs, training=None):
        ids, places, logits = tf.cast(inputs[0], tf.int32), tf.cast(inputs[1], tf.int32), inputs[2]
        if training:
            uniform = self.generator.uniform(tf.shape(logits))
        else:
            uniform = tf.map_fn(lambda text: tf.random.stateless_uniform(tf.shape(logits)[1:], [text, 0]),
                                tf.reduce_sum(ids * tf.range(tf.shape(ids)[1]), 1), fn_output_signature=tf.float32)
        noise = -tf.math.log(-tf.math.log(uniform + 1e-9) + 1e-9)
        drawn = tf.argmax(tf.stop_gradient(logits) + noise, -1, output_type=tf.int32)
        drawn = tf.where(places > 0, drawn, ids[:, :1])         # [CLS] stays
        rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(places))
        return tf.tensor_scatter_nd_update(ids, tf.stack([rows, places], -1), drawn)

    def compute_mask(self, inputs, mask=None):
        """The real tokens are those of the text, also where [PAD] was drawn."""
        return tf.not_equal(inputs[0], 0)
