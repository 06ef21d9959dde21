"""The encoder: BERT, ELECTRA, ALBERT or DistilBERT as a Keras graph by bert4keras, filled from a checkpoint."""

from typing import NamedTuple

from engine import layers as fast
from engine.checkpoints import check_shapes, load_variables, open_model, quiet
from engine.files import UserError

with quiet():
    import bert4keras.layers
    import bert4keras.models
    import tensorflow as tf
    from bert4keras.backend import keras

# ---- Layers and families --------------------------------------------------------------------------------------------


class Mean(keras.layers.Layer):
    """The mean over the real tokens: (batch, length, hidden) and its mask -> (batch, hidden)."""

    def call(self, inputs, mask=None):
        weights = tf.cast(mask, inputs.dtype)[:, :, None]
        return tf.reduce_sum(inputs * weights, 1) / tf.reduce_sum(weights, 1)

    def compute_mask(self, inputs, mask=None):
        return None


class Layers:
    """What all families have different from bert4keras's models: these layers, and what every layer's output is.

    Embeddings, the residual sums and LayerNorm stay in float32 (bert4keras computes them in the type of the policy, and
    ALBERT's LayerNorm with another epsilon); matrix products, gelu and dropout follow the policy.
    """

    def __init__(self, layer_norm_eps, seed, **settings):
        super().__init__(**settings)
        self.layer_norm_eps, self.seed, self.hidden_states = layer_norm_eps, seed, []

    @property
    def initializer(self):
        return keras.initializers.Zeros()       # every value comes from the checkpoint

    def apply(self, inputs=None, layer=None, arguments=None, **options):
        if layer in (bert4keras.layers.MultiHeadAttention, keras.layers.Dropout):
            layer = fast.Dropout if layer is keras.layers.Dropout else fast.Attention
            options['seed'] = 1000 * self.seed + len(self.layers)       # another one for every layer
        elif layer is bert4keras.layers.LayerNormalization:
            layer = fast.LayerNormalization
            options |= {'dtype': 'float32', 'epsilon': self.layer_norm_eps}
        elif layer in (bert4keras.layers.Embedding, bert4keras.layers.PositionEmbedding, keras.layers.Add):
            options['dtype'] = 'float32'
        return super().apply(inputs, layer, arguments, **options)

    def apply_embeddings(self, inputs):
        self.hidden_states.append(super().apply_embeddings(inputs))
        return self.hidden_states[-1]

    def apply_main_layers(self, inputs, index):
        self.hidden_states.append(super().apply_main_layers(inputs, index))
        return self.hidden_states[-1]


class Bert(Layers, bert4keras.models.BERT):
    """BERT, and DistilBERT, which has no segments."""


class Electra(Layers, bert4keras.models.ELECTRA):
    pass


class Albert(Layers, bert4keras.models.ALBERT):
    pass


class FactorizedWords(bert4keras.models.ALBERT):
    """ALBERT whose word vectors alone are narrow: they are projected before segments and positions are added."""

    def apply_embeddings(self, inputs):
        words, segments = inputs
        options = {'embeddings_initializer': self.initializer}
        x = self.apply(words, bert4keras.layers.Embedding, name='Embedding-Token', input_dim=self.vocab_size,
                       output_dim=self.embedding_size, mask_zero=True, **options)
        x = self.apply(x, keras.layers.Dense, name='Embedding-Mapping', units=self.hidden_size, use_bias=False,
                       kernel_initializer=self.initializer, dtype='float32')
        s = self.apply(segments, bert4keras.layers.Embedding, name='Embedding-Segment',
                       input_dim=self.segment_vocab_size, output_dim=self.hidden_size, **options)
        x = self.apply([x, s], keras.layers.Add, name='Embedding-Token-Segment')
        x = self.apply(x, bert4keras.layers.PositionEmbedding, name='Embedding-Position', input_dim=self.max_position,
                       output_dim=self.hidden_size, **options)
        x = self.apply(x, bert4keras.layers.LayerNormalization, name='Embedding-Norm')
        return self.apply(x, keras.layers.Dropout, name='Embedding-Dropout', rate=self.dropout_rate)

    def variable_mapping(self):
        """As BERT's, with one layer in place of all."""
        mapping = bert4keras.models.BERT.variable_mapping(self)
        shared = {layer.replace('Transformer-0-', 'Transformer-'): [
            name.replace('layer_0', 'layer_shared') for name in names]
            for layer, names in mapping.items() if layer.startswith('Transformer-0-')}
        return mapping | shared | {'Embedding-Mapping': ['bert/embeddings/word_embeddings_2']}


class AlbertZh(Layers, FactorizedWords):
    """ALBERT as brightmart/albert_zh trained it."""


MODELS = {'bert': Bert, 'distilbert': Bert, 'electra': Electra, 'albert': Albert, 'albert_zh': AlbertZh}

# ---- The encoder ----------------------------------------------------------------------------------------------------


class Encoder(NamedTuple):
    inputs: list            # token ids and segment ids, (batch, length); DistilBERT has no use for the second
    hidden_states: list     # the embeddings' output and every layer's, (batch, length, hidden)
    sequence: object        # the last layer's
    vector: object          # the text, by the model's own pooling, (batch, hidden)


def build_encoder(knobs):
    """The pre-trained encoder as a Keras graph, every variable filled from the checkpoint.

    What it returns is float32 whatever --precision says. Raises UserError for a variable of the model that the
    checkpoint lacks, for a wrong shape, and for a variable of the checkpoint that is neither used nor in SKIPPED.
    """
    checkpoint = open_model(knobs.model, knobs.model_dir)
    settings = checkpoint.config
    check_shapes(checkpoint)
    if knobs.maxlen > settings['max_position_embeddings']:
        raise UserError(f'--maxlen {knobs.maxlen}: the model has {settings["max_position_embeddings"]} positions.')
    pooling = checkpoint.pooling if knobs.pooling == 'auto' else knobs.pooling
    if pooling == 'pooler' and 'bert/pooler/dense/kernel' not in checkpoint.shapes:
        raise UserError(f'--pooling pooler: {checkpoint.path} has no pooler. Choose cls or mean.')
    activation = settings['hidden_act']
    if activation in ('gelu_tanh', 'gelu_erf'):
        activation = getattr(fast, activation)(jit=knobs.jit is not False)
    keras.mixed_precision.set_global_policy(
        'float32' if knobs.precision in ('auto', 'float32') else f'mixed_{knobs.precision}')
    try:
        with quiet():
            transformer = bert4keras.models.build_transformer_model(
                model=MODELS[checkpoint.family], return_keras_model=False, seed=knobs.seed,
                **settings | {'hidden_act': activation})
    finally:
        keras.mixed_precision.set_global_policy('float32')      # for what the script builds on top
    layers, mapping = transformer.layers, transformer.variable_mapping()

    sequence = transformer.hidden_states[-1]
    vector = Mean(name='Mean')(sequence) if pooling == 'mean' else sequence[:, 0]
    if pooling == 'pooler':
        layers['Pooler-Dense'] = keras.layers.Dense(settings['hidden_size'], 'tanh', name='Pooler-Dense')
        vector = layers['Pooler-Dense'](vector)
    inputs = transformer.inputs
    if len(inputs) == 1:
        inputs = [*inputs, keras.Input((None,), name='Input-Segment')]

    variables = {}
    for layer_name, names in mapping.items():
        if layer_name in layers:
            layers[layer_name].checkpoint_names = names
            variables.update(zip(names, layers[layer_name].trainable_weights, strict=True))
    load_variables(checkpoint, variables)
    return Encoder(inputs, transformer.hidden_states, sequence, vector)


def named_weights(model):
    """{name: variable} of the whole model: Google's names for the encoder, layer/variable for what is on top."""
    weights = {}
    for layer in model.layers:
        own = [f'{layer.name}/{variable.name.removesuffix(":0").removeprefix(layer.name + "/")}'
               for variable in layer.weights]
        weights.update(zip(getattr(layer, 'checkpoint_names', own), layer.weights, strict=True))
    assert len(weights) == len(model.weights), 'two variables of one name'
    return weights
