"""This project's side of checks.bench_pretraining: one measurement in a process of its own, or what is needed
beforehand.

    python -m lab.bench.pretraining REQUEST ANSWER      # two json files, of checks.bench_pretraining and for it
"""

import functools
import json
import sys
import tempfile
import time
import types
from pathlib import Path
from unittest import mock

import numpy as np

from engine import cli
from engine.arguments import parse_args
from engine.backend import tf
from engine.data.corpus import continuation_tokens, load_corpus, text_files
from engine.data.packing import PackedRows, pack
from engine.data.vocabulary import load_vocabulary
from engine.files import UserError, exit_status, write_json
from engine.model.checkpoints import model_spec
from engine.training.plan import total_updates
from lab.bench import tasks
from lab.scripts import load_script

PEER_FAMILIES = ('bert', 'electra')

# ---- What is measured -----------------------------------------------------------------------------------------------


def settle(request):
    """The script and the knobs of a measurement, as from the command line. Raises UserError."""
    script = load_script(f'pretraining/{request["script"]}')
    given = {'model': 'small'} | parse_args(script.knobs, 'checks.bench_pretraining', '', request['arguments'])
    if given.get('grad_accumulation', 1) > 1:
        raise UserError('--grad-accumulation: steps are measured, whatever they make an update of. Leave it out.')
    given |= {'maxlen': request['length'], 'precision': request['precision']}
    return script, cli.resolve_knobs(script.knobs, script.__file__, given)


def made_up_data(script, knobs, steps):
    """What the script's load_data() makes of rows of random words, for so many steps; no row has padding."""
    vocabulary, count, length = vocabulary_of(knobs), steps * knobs.batch_size, knobs.maxlen - 2
    words = sorted(i for token, i in vocabulary.tokenizer.get_vocab().items() if not token.startswith('['))
    ids = np.random.default_rng(knobs.seed).choice(words, count * length)
    corpus = types.SimpleNamespace(ids=ids, joined=continuation_tokens(vocabulary.tokenizer)[ids], about={'sha256': ''})
    rows = np.zeros((count, 5), np.int64)       # as pack() has them: one segment each
    rows[:, 0], rows[:, 1] = np.arange(count) * length, length
    data = {'train': PackedRows(corpus, vocabulary, rows, np.arange(count)),
            'dev': PackedRows(corpus, vocabulary, rows, np.arange(1))}
    with mock.patch.object(script.corpus_knobs, 'load_data', lambda *_: data):
        return script.load_data(knobs)


def vocabulary_of(knobs):
    model = model_spec(knobs)
    return load_vocabulary(model.folder, model.config['vocab_size'])


# ---- Floating point operations of the matrix products: forward 1, backward 2 ----------------------------------------


def words_flop(settings, slots):
    """Of the head for hidden words: a dense layer, and all words' logits, at `slots` places."""
    hidden = settings['hidden_size']
    embedding = settings.get('embedding_size', hidden)
    return 3 * slots * 2 * (hidden * embedding + embedding * settings['vocab_size'])


def replaced_flop(settings, length):
    """Of the head for replaced tokens: a dense layer and a logit for every token."""
    hidden = settings['hidden_size']
    return 3 * length * 2 * (hidden * hidden + hidden)


def train_flop(script, knobs, length):
    """Of all that training takes for one row of this length."""
    sizes = model_spec(knobs).config
    flop = tasks.train_flop(sizes, length)
    if not hasattr(script, 'generator_sizes'):
        return flop + words_flop(sizes, knobs.slots)
    generator = sizes | script.generator_sizes(knobs)
    return flop + replaced_flop(sizes, length) + tasks.train_flop(generator, length) + words_flop(
        generator, knobs.slots)


# ---- A measurement --------------------------------------------------------------------------------------------------


def measure(request):
    """{figure: value} of training steps."""
    script, knobs = settle(request)
    with tasks.scratch(knobs) as knobs:
        data = made_up_data(script, knobs, request['steps'])
        model = script.build_model(knobs, len(data['train']))
        _, figures = tasks.train(request, knobs, model, data['train'], data['dev'],
                                      functools.partial(train_flop, script, knobs))
        return figures | tasks.about(knobs)


def tokenize(request):
    """{figure: value} of cutting a text into tokens, and of packing these into rows of every length."""
    _, knobs = settle(request)
    vocabulary, files = vocabulary_of(knobs), text_files(request['text'])
    columns = knobs.columns.split(',') if knobs.columns else ()
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        corpus = load_corpus(cache, vocabulary, files, knobs.documents, columns, knobs.segmenter)
        tokens, seconds = len(corpus.ids), time.perf_counter() - began
        figures = {'tokens': tokens, 'cutting_tokens_per_second': tokens / seconds}
        for length in request['lengths']:
            began = time.perf_counter()
            pack(corpus, vocabulary, length, knobs.seed)
            figures[f'packing_{length}_tokens_per_second'] = tokens / (time.perf_counter() - began)
    return figures | tasks.about(knobs)


# ---- Beforehand -----------------------------------------------------------------------------------------------------


def prepare(request):
    """Settle the knobs, so that bad input is found before anything is measured. Returns what the peer needs to know
    beside the length (peer)."""
    from tools.convert import hugging_face_config  # not above: a measurement imports what a script does
    script, knobs = settle(request)
    data = made_up_data(script, knobs, 1)['train']
    if not request['peer']:
        return {}
    model, targets = model_spec(knobs), data.targets
    if model.family not in PEER_FAMILIES:
        raise UserError(f'--peer: transformers has no such pair of models of the family {model.family}.')
    generator = None
    if hasattr(script, 'generator_sizes'):
        generator = hugging_face_config(model._replace(config=model.config | script.generator_sizes(knobs)))
    return {name: getattr(knobs, name) for name in ('batch_size', 'mask_share', 'learning_rate', 'weight_decay',
                                                    'epsilon', 'clip_norm', 'warmup')} | {
        'model': hugging_face_config(model), 'generator': generator, 'updates': total_updates(knobs, len(data)),
        'discriminator_weight': getattr(knobs, 'discriminator_weight', None), 'masked': targets.masked,
        'random': targets.random, 'cls': data.vocabulary.cls, 'sep': data.vocabulary.sep, 'mask': data.vocabulary.mask,
        'tf32': tf.config.experimental.tensor_float_32_execution_enabled()}


def main(request, answer):
    request = json.loads(Path(request).read_text())
    work = {'prepare': prepare, 'measure': measure, 'tokenize': tokenize}[request['what']]
    write_json(Path(answer), work(request))


if __name__ == '__main__':
    sys.exit(exit_status(main, *sys.argv[1:]))
