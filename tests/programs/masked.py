"""Masked language modelling by updates: an encoder of fresh values, a head tied to its word embeddings.

    python masked.py --model FOLDER       # for its vocabulary
"""

import dataclasses

import numpy as np

import config
import snippets
from snippets import keras, tf

SIZES = {'hidden_size': 16, 'embedding_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
         'intermediate_size': 32, 'max_position_embeddings': 32, 'type_vocab_size': 2, 'hidden_dropout_prob': 0.1,
         'attention_probs_dropout_prob': 0.1, 'layer_norm_eps': 1e-12, 'hidden_act': 'gelu_erf'}


@dataclasses.dataclass
class Knobs(config.Knobs):
    """The scripts' knobs, and this one's own."""
    slots: int = config.knob(4, 'most tokens to predict in a row', 1, 100)


knobs = Knobs(maxlen=16, updates=10, score_every=4, batch_size=8, grad_accumulation=2, learning_rate=1e-3)


def load_data(knobs, split):
    """Counting: a few letters of the alphabet in their order."""
    random = np.random.default_rng(len(split))
    examples = []
    for i in range(30):
        letters = [chr(97 + letter % 26) for letter in range(random.integers(26), 40)][:random.integers(3, 12)]
        examples.append(snippets.Example('made up', i + 1, i, ' '.join(letters), None, None))
    return examples


def prepare(knobs, split):
    data = snippets.tokenize(knobs, load_data(knobs, split))
    return data.with_targets(snippets.MaskedTokens(data, slots=knobs.slots))


def build_model(knobs, data):
    encoder = snippets.build_fresh_encoder(knobs, 'bert', SIZES | {'vocab_size': data.targets.words})
    places = keras.Input((knobs.slots,), dtype='int32', name='places')
    x = tf.gather(encoder.sequence, places, batch_dims=1)                               # (batch, slots, hidden)
    x = keras.layers.Dense(SIZES['embedding_size'], 'gelu', name='transform')(x)
    logits = encoder.words(keras.layers.LayerNormalization(name='norm')(x), mode='dense')     # tied
    model = keras.Model([*encoder.inputs, places], logits)
    model.compile(optimizer=snippets.build_optimizer(knobs, model, len(data)),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def score(outputs, data):
    targets, used = data.targets.prediction_targets(data)
    return {'accuracy': np.average(outputs.argmax(-1) == targets, weights=used)}


def main(knobs):
    data = {split: prepare(knobs, split) for split in snippets.splits(knobs)}
    best = snippets.train(knobs, build_model(knobs, data['train']), data['train'], data['dev'], score)
    outputs = best.predict(data['test'])
    words = [' '.join(map(str, row)) for row in outputs.argmax(-1)]
    snippets.write_answers(knobs, 'masked.tsv', data['test'].examples, outputs, words)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
