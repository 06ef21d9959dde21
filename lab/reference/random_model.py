"""Model folders with random values under the authors' own names, for checks and tests. TensorFlow is imported late."""

import json
from pathlib import Path

import numpy as np

from engine.files import UserError, read_json, write_file

LETTERS = 'abcdefghijklmnopqrstuvwxyz0123456789'
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *LETTERS, *'.,?!\'"-', *(f'##{letter}' for letter in LETTERS)]

# A small BERT, and what the other families have different.
SIZES = {'vocab_size': len(WORDS), 'hidden_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 2,
         'intermediate_size': 48, 'max_position_embeddings': 512, 'type_vocab_size': 2, 'hidden_act': 'gelu',
         'hidden_dropout_prob': 0.1, 'attention_probs_dropout_prob': 0.1}
OTHER_SIZES = {'electra': {'embedding_size': 32, 'num_attention_heads': 1}, 'albert': {'embedding_size': 32},
               'albert_zh': {'embedding_size': 32}, 'distilbert': {'type_vocab_size': 0}}
EXTRAS = {      # what checkpoints hold beside the encoder
    'bert': {'cls/predictions/output_bias': (len(WORDS),), 'cls/seq_relationship/output_bias': (2,)},
    'electra': {'discriminator_predictions/dense/kernel': (64, 64), 'generator/embeddings/LayerNorm/gamma': (64,),
                'global_step': (), 'electra/embeddings/LayerNorm/gamma/adam_m': (32,)},
    'albert': {'cls/predictions/transform/dense/kernel': (64, 32), 'global_step': ()},
    'albert_zh': {'cls/predictions/transform/dense/kernel': (64, 64)}, 'distilbert': {},
}


def sizes_of(family):
    return SIZES | OTHER_SIZES.get(family, {})


def random_values(shapes, deviation, seed=0):
    """{name: float32 array} for {name: shape}; `deviation` is a function of the name. LayerNorm's gamma is about 1."""
    random = np.random.default_rng(seed)
    return {name: (random.standard_normal(shape) * deviation(name) + ('gamma' in name)).astype(np.float32)
            for name, shape in shapes.items()}


def random_variables(family, sizes, seed=0):
    """{Google's name: array} of a checkpoint of this family, far from what training would begin with, so that every
    variable counts."""
    from engine.model.families import encoder_shapes
    return random_values(encoder_shapes(family, sizes) | EXTRAS[family], lambda name: 0.2, seed)


def write_google(folder, variables, settings, words=WORDS):
    """A model folder in Google's layout; `settings` None leaves the json out, as ELECTRA's downloads do."""
    from tools.convert import save_checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / 'bert_model.ckpt', variables)
    write_file(folder / 'vocab.txt', '\n'.join(words) + '\n')
    if settings:
        write_file(folder / 'bert_config.json', json.dumps(settings))
    return folder


def random_model(path, folder, seed=0):
    """A Google checkpoint in `folder` with random values for the sizes in a json configuration: kernels and embeddings
    as the authors begin with (initializer_range), biases and LayerNorm with a deviation of 0.1, so that they count.

    Its variables are those of variables.txt beside the configuration (lines: name type shape), else the family's own;
    the vocabulary is made of letters. Raises UserError.
    """
    from engine.model.checkpoints import check_config
    from engine.model.families import FAMILIES, encoder_shapes
    path = Path(path)
    settings = read_json(path)
    if not isinstance(settings.get('vocab_size'), int) or settings['vocab_size'] < len(WORDS):
        raise UserError(f'{path}: vocab_size is {settings.get("vocab_size")!r}, not a number from {len(WORDS)} on.')
    listed, counters = path.with_name('variables.txt'), {}
    if listed.is_file():
        lines = [line.split(' ', 2) for line in listed.read_text().splitlines() if line]
        shapes = {name: tuple(json.loads(shape)) for name, kind, shape in lines if kind == 'float32'}
        counters = {name: np.zeros(json.loads(shape), kind) for name, kind, shape in lines if kind != 'float32'}
    else:
        family = settings.get('model_type') or ('electra' if 'generator_size' in settings else 'bert')
        if family not in FAMILIES:
            raise UserError(f'{path}: model_type {family!r} is none of {", ".join(FAMILIES)}.')
        shapes = encoder_shapes(family, check_config(path, settings, family, 'Google'))

    def deviation(name):
        return 0.1 if name.endswith(('gamma', 'beta', 'bias')) else settings.get('initializer_range', 0.02)

    words = WORDS + [f'[unused{i}]' for i in range(settings['vocab_size'] - len(WORDS))]
    return write_google(folder, random_values(shapes, deviation, seed) | counters, settings, words)
