"""Small random checkpoints in both layouts, with the authentic variable names, and a float64 forward pass in numpy."""

import json
from pathlib import Path

import numpy as np
import pytest

import config  # noqa: F401  (sets the Keras environment before anything imports TensorFlow)

SHARED = Path(__file__).resolve().parents[2] / 'shared'
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason='needs the real data beside the checkout')

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnopqrstuvwxyz', *'0123456789.,?!\'"-',
         *(f'##{c}' for c in 'abcdefghijklmnopqrstuvwxyz0123456789')]
SIZES = {'vocab_size': len(WORDS), 'hidden_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 2,
         'intermediate_size': 48, 'max_position_embeddings': 512, 'type_vocab_size': 2, 'hidden_act': 'gelu',
         'hidden_dropout_prob': 0.1, 'attention_probs_dropout_prob': 0.1}


def google_shapes(family, sizes):
    """{name: shape} of a Google checkpoint of this family, as its authors' code names the variables."""
    hidden, inner = sizes['hidden_size'], sizes['intermediate_size']
    embedding = sizes.get('embedding_size', hidden)
    shapes = {f'{family}/embeddings/word_embeddings': (sizes['vocab_size'], embedding),
              f'{family}/embeddings/token_type_embeddings': (sizes['type_vocab_size'], embedding),
              f'{family}/embeddings/position_embeddings': (sizes['max_position_embeddings'], embedding),
              f'{family}/embeddings/LayerNorm/gamma': (embedding,), f'{family}/embeddings/LayerNorm/beta': (embedding,)}
    if embedding != hidden:
        shapes |= {f'{family}/embeddings_project/kernel': (embedding, hidden),
                   f'{family}/embeddings_project/bias': (hidden,)}
    for i in range(sizes['num_hidden_layers']):
        layer = f'{family}/encoder/layer_{i}'
        for name, shape in {'attention/self/query': (hidden, hidden), 'attention/self/key': (hidden, hidden),
                            'attention/self/value': (hidden, hidden), 'attention/output/dense': (hidden, hidden),
                            'intermediate/dense': (hidden, inner), 'output/dense': (inner, hidden)}.items():
            shapes |= {f'{layer}/{name}/kernel': shape, f'{layer}/{name}/bias': shape[1:]}
        for name in ('attention/output', 'output'):
            shapes |= {f'{layer}/{name}/LayerNorm/gamma': (hidden,), f'{layer}/{name}/LayerNorm/beta': (hidden,)}
    if family == 'bert':
        shapes |= {'bert/pooler/dense/kernel': (hidden, hidden), 'bert/pooler/dense/bias': (hidden,),
                   'cls/predictions/output_bias': (sizes['vocab_size'],), 'cls/seq_relationship/output_bias': (2,)}
    else:
        shapes |= {'discriminator_predictions/dense/kernel': (hidden, hidden),
                   'generator/encoder/layer_0/output/dense/bias': (hidden,), 'global_step': (),
                   'electra/embeddings/LayerNorm/gamma/adam_m': (embedding,)}
    return shapes


def random_variables(family, sizes, seed=0):
    random = np.random.default_rng(seed)
    return {name: (random.normal(size=shape) * 0.2 + ('gamma' in name)).astype(np.float32)
            for name, shape in google_shapes(family, sizes).items()}


def write_google(folder, variables, settings, words=WORDS):
    """A model folder in Google's layout; `settings` None leaves the json out, as ELECTRA's downloads do."""
    import tensorflow as tf
    folder.mkdir(parents=True, exist_ok=True)
    names = list(variables)
    tf.raw_ops.SaveV2(prefix=str(folder / 'bert_model.ckpt'), tensor_names=names, shape_and_slices=[''] * len(names),
                      tensors=[tf.constant(variables[name]) for name in names])
    shard = folder / 'bert_model.ckpt.data-00000-of-00001'
    assert shard.is_file()
    (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
    if settings:
        (folder / 'bert_config.json').write_text(json.dumps(settings))
    return folder


def write_hugging_face(folder, variables, settings, family, words=WORDS, prefix=True):
    """The same in Hugging Face's layout: dots, weight and bias, dense matrices transposed."""
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


def forward(variables, family, sizes, ids, segments, gelu):
    """The encoder's last layer in float64: (batch, length, hidden). Devlin et al. 2019; Clark et al. 2020."""
    from scipy.special import erf
    v = {name: value.astype(np.float64) for name, value in variables.items()}
    heads = sizes['num_attention_heads']

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-12) * v[f'{name}/gamma'] + v[f'{name}/beta']

    def dense(x, name):
        return x @ v[f'{name}/kernel'] + v[f'{name}/bias']

    def activation(x):
        if gelu == 'erf':
            return x * 0.5 * (1 + erf(x / np.sqrt(2)))
        return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))

    root = f'{family}/embeddings'
    x = v[f'{root}/word_embeddings'][ids] + v[f'{root}/token_type_embeddings'][segments] \
        + v[f'{root}/position_embeddings'][:ids.shape[1]]
    x = norm(x, f'{root}/LayerNorm')
    if f'{family}/embeddings_project/kernel' in v:
        x = dense(x, f'{family}/embeddings_project')
    for i in range(sizes['num_hidden_layers']):
        layer = f'{family}/encoder/layer_{i}'
        q, k, w = (dense(x, f'{layer}/attention/self/{name}').reshape(*ids.shape, heads, -1).swapaxes(1, 2)
                   for name in ('query', 'key', 'value'))
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) - 1e9 * (ids == 0)[:, None, None]
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True) @ w).swapaxes(1, 2).reshape(x.shape)
        x = norm(x + dense(mixed, f'{layer}/attention/output/dense'), f'{layer}/attention/output/LayerNorm')
        inner = activation(dense(x, f'{layer}/intermediate/dense'))
        x = norm(x + dense(inner, f'{layer}/output/dense'), f'{layer}/output/LayerNorm')
    return x


@pytest.fixture(scope='session')
def tiny_bert(tmp_path_factory):
    """A folder with a random two-layer BERT."""
    return write_google(tmp_path_factory.mktemp('models') / 'tiny-bert', random_variables('bert', SIZES), SIZES)


def make_knobs(*options, task='CoLA', **own):
    """Settled knobs of a script-like set of own knobs and command-line options."""
    from checkpoints import open_model
    knobs = config.Knobs(task, **{'labels': ('0', '1'), 'maxlen': 32} | own)
    given = config.parse_args(knobs, '', list(map(str, options)))
    model = given.get('model', 'minilm')
    recipe = config.MODELS[model].recipe if model in config.MODELS else open_model(model, '').recipe
    return knobs.for_recipe(recipe, given | {'model': model})
