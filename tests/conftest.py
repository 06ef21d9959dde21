"""Small random checkpoints in both layouts, with the authentic variable names."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import config

SHARED = Path(__file__).resolve().parents[2] / 'shared'
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason='needs the real data beside the checkout')

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnopqrstuvwxyz', *'0123456789.,?!\'"-',
         *(f'##{c}' for c in 'abcdefghijklmnopqrstuvwxyz0123456789')]
SIZES = {'vocab_size': len(WORDS), 'hidden_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 2,
         'intermediate_size': 48, 'max_position_embeddings': 512, 'type_vocab_size': 2, 'hidden_act': 'gelu',
         'hidden_dropout_prob': 0.1, 'attention_probs_dropout_prob': 0.1}


EXTRAS = {      # what checkpoints hold beside the encoder
    'bert': {'cls/predictions/output_bias': (len(WORDS),), 'cls/seq_relationship/output_bias': (2,)},
    'electra': {'discriminator_predictions/dense/kernel': (64, 64), 'generator/embeddings/LayerNorm/gamma': (64,),
                'global_step': (), 'electra/embeddings/LayerNorm/gamma/adam_m': (32,)},
    'albert': {'cls/predictions/transform/dense/kernel': (64, 32), 'global_step': ()},
    'albert_zh': {'cls/predictions/transform/dense/kernel': (64, 64)}, 'distilbert': {},
}
NARROW = {'electra': {'embedding_size': 32, 'num_attention_heads': 1}, 'albert': {'embedding_size': 32},
          'albert_zh': {'embedding_size': 32}, 'distilbert': {'type_vocab_size': 0}}


def sizes_of(family):
    return SIZES | NARROW.get(family, {})


def random_variables(family, sizes, seed=0):
    """{Google's name: array} of a checkpoint of this family."""
    from engine.checkpoints import encoder_shapes
    random = np.random.default_rng(seed)
    shapes = encoder_shapes(family, sizes) | EXTRAS[family]
    return {name: (random.normal(size=shape) * 0.2 + ('gamma' in name)).astype(np.float32)
            for name, shape in shapes.items()}


def write_google(folder, variables, settings, words=WORDS):
    """A model folder in Google's layout; `settings` None leaves the json out, as ELECTRA's downloads do."""
    from tools.convert import save_checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / 'bert_model.ckpt', variables)
    assert (folder / 'bert_model.ckpt.data-00000-of-00001').is_file()
    (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
    if settings:
        (folder / 'bert_config.json').write_text(json.dumps(settings))
    return folder


def write_hugging_face(folder, variables, settings, family, words=WORDS, prefix=True):
    """BERT or ELECTRA in Hugging Face's layout: dots, weight and bias, dense matrices transposed."""
    import safetensors.numpy
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in variables.items():
        if name.startswith(('generator/', 'global_step', 'cls/')) or name.endswith('adam_m'):
            continue
        key = name.replace('/', '.').replace('.layer_', '.layer.')
        key = key.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')
        if key.endswith('_embeddings'):
            key += '.weight'
        if key.endswith('.kernel'):
            key, value = key.removesuffix('kernel') + 'weight', value.T
        tensors[key if prefix else key.removeprefix(f'{family}.')] = np.ascontiguousarray(value)
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    (folder / 'config.json').write_text(json.dumps(settings | {'model_type': family}))
    (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
    return folder


@pytest.fixture(scope='session')
def tiny_bert(tmp_path_factory):
    """A folder with a random two-layer BERT."""
    return write_google(tmp_path_factory.mktemp('models') / 'tiny-bert', random_variables('bert', SIZES), SIZES)


@pytest.fixture(scope='session')
def untrained():
    """A function from (task, model folder, folder) to the folder of a run without training, whose head is random so
    that its answers differ from text to text."""
    from test_scripts import options, start

    import snippets

    def fit(model, data, callbacks, **options):
        kernel = snippets.named_weights(model)['classifier/kernel']
        kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
        for monitor in callbacks:
            monitor.set_model(model)
            monitor.on_epoch_begin(0)
            monitor.on_epoch_end(0, {'loss': 0.0})

    def make(task, model, folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [])
            patch.setattr(snippets.keras.Model, 'fit', fit)
            start(importlib.import_module(task), *options(folder, model))
        return folder / 'runs' / task / f'{model.name}-seed42'
    return make


@pytest.fixture(scope='session')
def runs(tmp_path_factory, tiny_bert, untrained):
    """{task: folder} of a run with one text, one with pairs and a regression."""
    folder = tmp_path_factory.mktemp('runs')
    return {task: untrained(task, tiny_bert, folder) for task in ('CoLA', 'RTE', 'STSB')}


def make_knobs(*options, task='CoLA', **own):
    """Settled knobs of a script-like set of own knobs and command-line options."""
    from engine.checkpoints import open_model
    from engine.launch import for_device
    knobs = config.Knobs(task, **{'labels': ('0', '1'), 'maxlen': 32} | own)
    given = config.parse_args(knobs, '', list(map(str, options)))
    model = given.get('model', 'minilm')
    recipe = config.MODELS[model].recipe if model in config.MODELS else open_model(model, '').recipe
    return for_device(knobs.for_recipe(recipe, {'cache': False} | given | {'model': model}))
