"""The encoder: BERT, ELECTRA, ALBERT or DistilBERT as a Keras graph by bert4keras, filled from a checkpoint or with
fresh values."""

import itertools
import weakref
import zlib
from typing import NamedTuple

import bert4keras.layers
import bert4keras.models
import numpy as np

from engine.backend import GPUS, keras, quiet, tf
from engine.files import UserError
from engine.model import layers as fast
from engine.model.checkpoints import Checkpoint, check_shapes, load_variables, model_spec, open_model
from engine.model.families import FAMILIES
from engine.model.windows import EncodeWindows

# ---- Layers and families --------------------------------------------------------------------------------------------


class MeanPooling(keras.layers.Layer):
    """The mean over the real tokens: (batch, length, hidden) and its mask -> (batch, hidden)."""

    @fast.plain
    def call(self, inputs, mask=None):
        weights = tf.cast(mask, inputs.dtype)[:, :, None]
        return tf.reduce_sum(inputs * weights, 1) / tf.reduce_sum(weights, 1)

    def compute_mask(self, inputs, mask=None):
        return None


class WithoutMask(keras.layers.Layer):
    """Takes Keras's mask off."""

    @fast.plain
    def call(self, inputs):
        return tf.identity(inputs)

    def compute_mask(self, inputs, mask=None):
        return None


class PretrainingInitializer(keras.initializers.Initializer):
    """The initial values of pre-training (Devlin et al. 2019, initializer_range): a truncated normal distribution,
    other values at every call."""

    def __init__(self, seed):
        self.seed, self.calls = seed, itertools.count()

    def __call__(self, shape, dtype=None, **options):
        return tf.random.stateless_truncated_normal(shape, (self.seed, next(self.calls)), stddev=0.02,
                                                    dtype=dtype or tf.float32)


class SinusoidalInitializer(keras.initializers.Initializer):
    """Sines and cosines for position embeddings to begin as (Vaswani et al. 2017, section 3.5), as large as
    FreshValues: of position p, column 2 i is that of p / 10000^(2 i / columns). Unlike random values, those of
    neighbours are alike."""

    def __call__(self, shape, dtype=None, **options):
        positions, columns = shape
        rates = 10000.0 ** (-2 * (np.arange(columns) // 2) / columns)
        angles = np.arange(positions)[:, None] * rates
        waves = np.where(np.arange(columns) % 2, np.cos(angles), np.sin(angles))
        return tf.cast(0.02 * 2 ** 0.5 * waves, dtype or tf.float32)


class ExactLayers:
    """What all families have different from bert4keras's models: these layers, and what every layer's output is.

    Embeddings, the residual sums and LayerNorm stay in float32 (bert4keras computes them in the type of the policy, and
    ALBERT's LayerNorm with another epsilon); matrix products, gelu and dropout follow the policy.
    """

    def __init__(self, layer_norm_eps, seed, fresh, sines=False, given_inputs=None, **settings):
        super().__init__(**settings)
        self.layer_norm_eps, self.seed, self.hidden_states = layer_norm_eps, seed, []
        self.sines, self.given_inputs = sines, given_inputs
        # Without fresh values every one comes from the checkpoint.
        self.initial_values = PretrainingInitializer(seed) if fresh else keras.initializers.Zeros()

    @property
    def initializer(self):
        return self.initial_values

    def apply(self, inputs=None, layer=None, arguments=None, **options):
        if layer in (bert4keras.layers.MultiHeadAttention, keras.layers.Dropout):
            layer = fast.Dropout if layer is keras.layers.Dropout else fast.Attention
            options['seed'] = 1000 * self.seed + len(self.layers)       # another one for every layer
        elif layer is bert4keras.layers.FeedForward:
            layer = fast.FeedForward
        elif layer is bert4keras.layers.LayerNormalization:
            layer = fast.LayerNormalization
            options |= {'dtype': 'float32', 'epsilon': self.layer_norm_eps}
        elif layer is bert4keras.layers.Embedding:
            layer = fast.Embedding
            options['dtype'] = 'float32'
        elif layer in (bert4keras.layers.PositionEmbedding, keras.layers.Add):
            options['dtype'] = 'float32'
        if layer is bert4keras.layers.PositionEmbedding and self.sines:
            options['embeddings_initializer'] = SinusoidalInitializer()
        return super().apply(inputs, layer, arguments, **options)

    def get_inputs(self):
        return self.given_inputs or super().get_inputs()

    def apply_embeddings(self, inputs):
        self.hidden_states.append(super().apply_embeddings(inputs))
        return self.hidden_states[-1]

    def apply_main_layers(self, inputs, index):
        self.hidden_states.append(super().apply_main_layers(inputs, index))
        return self.hidden_states[-1]


class Bert(ExactLayers, bert4keras.models.BERT):
    """BERT, and DistilBERT, which has no segments."""


class Electra(ExactLayers, bert4keras.models.ELECTRA):
    pass


class Albert(ExactLayers, bert4keras.models.ALBERT):
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


class AlbertZh(ExactLayers, FactorizedWords):
    """ALBERT as brightmart/albert_zh trained it."""


MODELS = {'bert': Bert, 'distilbert': Bert, 'electra': Electra, 'albert': Albert, 'albert_zh': AlbertZh}

# ---- The encoder ----------------------------------------------------------------------------------------------------


class Encoder(NamedTuple):
    inputs: list            # token ids and segment ids, (batch, length); DistilBERT has no use for the second
    hidden_states: list     # the embeddings' output and every layer's, (batch, length, hidden)
    sequence: object        # the last layer's, without Keras's mask, by which Keras would scale a loss of its tokens
    vector: object          # the text, by the model's own pooling, (batch, hidden)
    words: object           # the layer of the word embeddings: .embeddings, (words, embedding size), for tied heads
    embeddings: dict        # {name: layer} of all that makes the embeddings' output but dropout and projection
    family: str             # 'bert', 'electra', ...
    settings: dict          # its sizes, as Checkpoint.config has them


def build_encoder(knobs):
    """The pre-trained encoder as a Keras graph, every variable filled from the checkpoint.

    What it returns is float32 whatever --precision says. Raises UserError for a variable of the model that the
    checkpoint lacks, for a wrong shape, and for a variable of the checkpoint that is neither used nor in SKIPPED.
    """
    checkpoint = open_model(knobs.model, knobs.model_dir)
    check_shapes(checkpoint)
    pooling = checkpoint.pooling if knobs.pooling == 'auto' else knobs.pooling
    if pooling == 'pooler' and 'bert/pooler/dense/kernel' not in checkpoint.shapes:
        raise UserError(f'--pooling pooler: {checkpoint.path} has no pooler. Choose cls or mean.')
    encoder, variables = assemble(knobs, checkpoint.family, checkpoint.config, pooling)
    load_variables(checkpoint, variables)
    return encoder


def build_fresh_encoder(knobs, family, settings, prefix='', inputs=None, embeddings=None, sines=False):
    """An encoder of this family ('bert', 'electra', ...) and these sizes (as Checkpoint.config has them), with the
    initial values of pre-training; sines: the position embeddings begin as Sines.

    Where a model has two encoders: prefix, of the names of this one's layers and variables ('generator/'); inputs: the
    token ids and segment ids to compute it of; embeddings: the other one's Encoder.embeddings, to use the same.
    """
    pooling = 'cls' if knobs.pooling == 'auto' else knobs.pooling
    return assemble(knobs, family, settings, pooling, True, prefix, inputs, embeddings, sines)[0]


def assemble(knobs, family, settings, pooling, fresh=False, prefix='', inputs=None, embeddings=None, sines=False):
    """(Encoder, {name: variable}): the graph."""
    if knobs.maxlen > settings['max_position_embeddings']:
        raise UserError(f'--maxlen {knobs.maxlen}: the model has {settings["max_position_embeddings"]} positions.')
    keras.mixed_precision.set_global_policy(precision_policy(knobs))
    try:
        with quiet():
            transformer = bert4keras.models.build_transformer_model(
                model=MODELS[family], return_keras_model=False, seed=encoder_seed(knobs, prefix), fresh=fresh,
                sines=sines, prefix=prefix, given_inputs=inputs,
                layers={prefix + name: layer for name, layer in (embeddings or {}).items()},
                **settings | {'hidden_act': activation(knobs, settings)})
    finally:
        keras.mixed_precision.set_global_policy('float32')      # for what the script builds on top
    layers = {name.removeprefix(prefix): layer for name, layer in transformer.layers.items()}

    sequence = transformer.hidden_states[-1]
    vector = MeanPooling(name=f'{prefix}Mean')(sequence) if pooling == 'mean' else sequence[:, 0]
    if pooling == 'pooler':
        layers['Pooler-Dense'] = keras.layers.Dense(
            settings['hidden_size'], 'tanh', kernel_initializer=transformer.initializer, name=f'{prefix}Pooler-Dense')
        vector = layers['Pooler-Dense'](vector)
    inputs = transformer.inputs
    if len(inputs) == 1:
        inputs = [*inputs, keras.Input((None,), name=f'{prefix}Input-Segment')]

    variables, root = {}, f'{FAMILIES[family][0]}/'
    for name, names in transformer.variable_mapping().items():
        if name in layers:
            if prefix:
                names = [own.replace(root, prefix) for own in names]
            variables.update(name_variables(layers[name], names))
    tied = {name: layers[name] for name in EMBEDDINGS if name in layers}
    encoder = Encoder(inputs, transformer.hidden_states, WithoutMask(name=f'{prefix}Sequence')(sequence), vector,
                      layers['Embedding-Token'], tied, family, settings)
    return encoder, variables


EMBEDDINGS = ('Embedding-Token', 'Embedding-Segment', 'Embedding-Position', 'Embedding-Norm')


def precision_policy(knobs):
    """The name of Keras's policy for --precision."""
    return 'float32' if knobs.precision in ('auto', 'float32') else f'mixed_{knobs.precision}'


def activation(knobs, settings):
    """The activation function of a model of these settings, for Keras."""
    name = settings['hidden_act']
    if name not in ('gelu_tanh', 'gelu_erf'):
        return name
    # On a GPU the rule for XLA decides about the whole step; gelu alone would be compiled for every new shape.
    return getattr(fast, name)(jit=bool(knobs.jit) if GPUS else knobs.jit is not False)


def encoder_seed(knobs, prefix):
    """Other values and another dropout for the second encoder of a model than for the first."""
    return (knobs.seed + zlib.crc32(prefix.encode())) % 2**31 if prefix else knobs.seed


# ---- Names ----------------------------------------------------------------------------------------------------------

NAMES = weakref.WeakKeyDictionary()     # {layer: Google's names of its variables}, filled by name_variables()


def name_variables(layer, names):
    """Give a layer's variables Google's names; of a layer that two encoders have, those that the later one gives it.
    Returns {name: variable}."""
    NAMES[layer] = names
    return dict(zip(names, layer.trainable_weights, strict=True))


def flat_layers(model):
    """The layers of a model; in place of one that computes an encoder window by window, the encoder's."""
    for layer in model.layers:
        if isinstance(layer, EncodeWindows):
            yield from layer.encode.layers
        else:
            yield layer


def named_weights(model):
    """{name: variable} of the whole model: Google's names for the encoder, layer/variable for what is on top."""
    weights = {}
    for layer in flat_layers(model):
        own = [f'{layer.name}/{variable.name.removesuffix(":0").removeprefix(layer.name + "/")}'
               for variable in layer.weights]
        weights.update(zip(NAMES.get(layer, own), layer.weights, strict=True))
    if len(weights) < len(model.weights):
        raise UserError('two variables of the model have the same name: give every layer in build_model() its own '
                        'name=.')
    return weights


def load_initial_weights(knobs, model):
    """Fill `model` from the run folder --init: the encoder always, the new layers where they are the same task's and
    the same. A BERT and an ELECTRA of the same sizes are the same encoder, whose names differ in their root."""
    run = Checkpoint(knobs.init)
    weights = named_weights(model)
    # The labels' names alone do not do: '0' and '1' mean something else in every task.
    is_same = run.task == knobs.task and run.knobs.get('labels') == list(knobs.labels)
    roots = 'bert/', 'electra/'
    is_same &= all(run.shapes.get(name) == tuple(variable.shape) for name, variable in weights.items()
                   if not name.startswith(roots))
    if (run.folder / 'vocab.txt').read_bytes() != (model_spec(knobs).folder / 'vocab.txt').read_bytes():
        raise UserError(f'--init {knobs.init}: its vocabulary is not that of --model {knobs.model}.')
    if not is_same:
        root = FAMILIES[run.family][0]
        weights = {f'{root}/{name.split("/", 1)[1]}': v for name, v in weights.items()
                   if name.startswith(roots)}
    load_variables(run, weights)
    what_is_taken = '' if is_same else ', of its encoder alone: its task, labels or other layers are not these'
    print(f'start from {knobs.init}{what_is_taken}')
