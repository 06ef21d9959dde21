"""This project's side of checks.bench: one measurement in a process of its own, or what all of them need beforehand.

    python -m lab.bench.tasks REQUEST ANSWER       # two json files, of checks.bench and for it
"""

import contextlib
import dataclasses
import functools
import json
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

import config
from engine import cli
from engine.backend import GPUS, keras, tf
from engine.data import batches
from engine.data.tokens import build_rows
from engine.data.vocabulary import load_vocabulary
from engine.devices import distribution, peak_memory, process_peak
from engine.files import UserError, exit_status, read_json, write_json
from engine.model.checkpoints import open_model
from engine.runs.identity import configuration
from engine.training import loop
from lab.scripts import load_script
from snippets import Example, tokenize

PEER_EXAMPLES = 20000       # that the peer gets of a larger training file: it draws its batches at random
PEER_ROWS = 32              # in its evaluation batches on a CPU: it does not sort, more would be more padding
SENTENCE = 'Sailors rode the breeze, unhurried.'        # that both tokenizers must cut in the same way


# ---- What is measured -----------------------------------------------------------------------------------------------


def settle(request):
    """The script and the knobs of a measurement, as from the command line."""
    script, given = load_script(request['script']), request['knobs'] | {'epochs': 1, 'cache': False}
    if request['length']:
        given = {'maxlen': request['length']} | given
    return script, cli.resolve_knobs(script.knobs, script.__file__, given)


def examples_of(request, script, knobs, split):
    """The rows of 'train' or 'dev'; where a length is asked for, made-up texts that have it."""
    if not request['length']:
        return script.load_data(knobs, split)
    checkpoint = open_model(knobs.model, knobs.model_dir)
    vocabulary = load_vocabulary(checkpoint.folder, checkpoint.config['vocab_size']).tokenizer.get_vocab()
    words = sorted(token for token in vocabulary if re.fullmatch('[a-z]+', token))       # one token each
    if split == 'train':
        count = ((request['steps'] or 20) + 4) * knobs.batch_size       # the peer skips 3 steps
    elif request['length'] <= 512:
        count = request['evaluation_examples'] or 400
    else:
        count = max(2, 10**5 // request['length'])
    random = np.random.default_rng([knobs.seed, split == 'train'])
    return [Example('', i, i, ' '.join(random.choice(words, request['length'] - 2)), None,
                    i % (len(knobs.labels) or 1)) for i in range(count)]


def train_flop(settings, length):
    """Floating point operations of the matrix products that training takes for one sequence of this length, padding
    included: 3 * s * (2 N + 4 L s h). N: weights of the dense layers that every token goes through (without the
    embeddings, and biases); L layers of size h; forward 1, backward 2."""
    hidden, inner, layers = settings['hidden_size'], settings['intermediate_size'], settings['num_hidden_layers']
    embedding = settings.get('embedding_size', hidden)
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner) + embedding * hidden * (embedding != hidden)
    return 3 * length * (2 * weights + 4 * layers * length * hidden)


def row_flop(settings, maxlen, width):
    """train_flop() of a row of a batch: of one sequence, or of several windows of maxlen tokens."""
    return train_flop(settings, width) if width <= maxlen else width // maxlen * train_flop(settings, maxlen)


def stratified(batches, lengths, steps, seed=0):
    """`steps` of the batches (arrays of rows), evenly spaced in the order of their mean length, shuffled; 0: all."""
    order = np.argsort([lengths[rows].mean() for rows in batches], kind='stable')
    if 0 < steps < len(batches):
        order = order[((np.arange(steps) + 0.5) * len(batches) / steps).astype(int)]
    return [batches[i] for i in np.random.default_rng(seed).permutation(order)]


def widest_first(batches, widths):
    """One batch of every width, the widest first."""
    return [batches[i] for i in np.unique(widths, return_index=True)[1][::-1]]


class Products:
    """FLOP/s of large matrix products in this type on this device, between the steps of what is measured: the machine
    may be twice as fast one moment as the next."""

    def __init__(self, kind):
        self.size, self.times = (8192, 4) if GPUS else (2048, 1)
        self.matrix, self.flop, self.seconds = tf.cast(tf.random.stateless_normal((self.size,) * 2, (0, 1)), kind), 0, 0
        for _ in range(4):
            self.run()
        self.flop = self.seconds = 0

    def run(self):
        began = time.perf_counter()
        for _ in range(self.times):
            product = tf.matmul(self.matrix, self.matrix)
        product[0, 0].numpy()       # waits for the device
        self.ended = time.perf_counter()
        self.seconds += self.ended - began
        self.flop += 2 * self.times * self.size ** 3

    def rate(self):
        return self.flop / self.seconds


def peaks():
    """The largest memory so far of this process, and of the GPU, in GiB."""
    return {'peak_gib': process_peak()} | ({'gpu_peak_gib': peak_memory()} if GPUS else {})


class Clock(keras.callbacks.Callback):
    """Takes the time while train() trains; the first `warm` steps are left out of the rate."""

    def __init__(self, warm, products):
        super().__init__()
        self.warm, self.products, self.first_step, self.warmed_up = warm, products, None, None

    def now(self):
        int(tf.convert_to_tensor(self.model.optimizer.iterations))      # waits for the device
        return time.time() - self.products.seconds

    def on_train_begin(self, logs=None):
        self.began = time.time()

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        if self.first_step is None:
            self.first_step = self.now()
        if self.warmed_up is None and done >= self.warm:
            self.warmed_up, self.done_before = self.now(), done
            self.products.run()
        elif self.warmed_up and time.perf_counter() > self.products.ended + 1:
            self.now()
            self.products.run()

    def on_test_begin(self, logs=None):
        self.ended = self.now()


# ---- A measurement --------------------------------------------------------------------------------------------------


def measure(request):
    """{figure: value} of tokenization, training and evaluation, by the functions that the scripts call."""
    script, knobs = settle(request)
    with scratch(knobs) as knobs:
        return measure_run(request, script, knobs)


@contextlib.contextmanager
def scratch(knobs):
    """On the devices chosen: the knobs of a run that leaves nothing behind."""
    with distribution(knobs)[0].scope(), tempfile.TemporaryDirectory() as folder:
        keras.utils.set_random_seed(knobs.seed)
        yield dataclasses.replace(knobs, runs_dir=folder, results_dir=folder, save_every=1e9)


def measure_run(request, script, knobs):
    """measure() on the devices chosen."""
    examples = {split: examples_of(request, script, knobs, split) for split in ('train', 'dev')}
    checkpoint = open_model(knobs.model, knobs.model_dir)
    vocabulary = load_vocabulary(checkpoint.folder, checkpoint.config['vocab_size'])
    began = time.perf_counter()
    if hasattr(script, 'prepare'):
        train_data = script.prepare(knobs, examples['train'])
    else:
        train_data = build_rows(vocabulary, knobs.maxlen, examples['train'], knobs.labels, **knobs.cut)
    seconds, tokens = time.perf_counter() - began, int(train_data.lengths.sum())
    figures = {'tokenization_examples_per_second': len(train_data) / seconds,
               'tokenization_tokens_per_second': tokens / seconds}
    dev_data = rows_of(script, knobs, examples['dev'])
    model = script.build_model(knobs, len(train_data))
    predictor, more = train(request, knobs, model, train_data, dev_data,
                            functools.partial(row_flop, checkpoint.config, knobs.maxlen))
    figures |= more | evaluate(predictor, script, dev_data, request['evaluation_examples'])
    return figures | about(knobs)


def rows_of(script, knobs, examples):
    """Tokens of these examples, as the script makes them."""
    return getattr(script, 'prepare', tokenize)(knobs, examples)


def about(knobs):
    """On what this was measured."""
    device = tf.config.experimental.get_device_details(GPUS[0]).get('device_name', GPUS[0].name) if GPUS else None
    run = configuration(knobs)
    return {'device': device or cpu(), 'cores': run['cores'], 'versions': run['versions']}


def train(request, knobs, model, data, dev_data, flop):
    """(Predictor, the figures of train(), which is given only some of the epoch's batches). flop: a function from a
    sequence's length to what training takes for it."""
    whole_epoch = [rows for rows, _ in batches.training_steps(knobs, data, 0)]
    most = config.XLA_LENGTHS if model.jit_compile else None
    widths = batches.choose_widths(data.lengths, whole_epoch, most)     # from all of them, as ever
    chosen = stratified(whole_epoch, data.lengths, request['steps'], knobs.seed)
    warm = widest_first(chosen, [data.batch(rows, widths)[0].shape[1] for rows in chosen])
    while len(warm) % knobs.steps_per_execution:
        warm.append(warm[-1])
    steps = warm + chosen
    knobs = dataclasses.replace(knobs, updates=len(steps), score_every=len(steps))
    began = time.time()
    products = Products(knobs.precision)
    not_ours = time.time() - began
    clock = Clock(len(warm), products)
    if GPUS:
        tf.config.experimental.reset_memory_stats('GPU:0')
    with mock.patch.object(batches, 'epoch_batches', lambda *_: steps), \
            mock.patch.object(loop, 'choose_widths', lambda *_: widths):
        predictor = loop.train(knobs, model, data, dev_data, lambda *_: {'none': 0.0}, callbacks=[clock],
                                   predict=lambda _, data: np.zeros((len(data), 1)))
        to_make = list(batches.training_steps(knobs, data, 0))[clock.done_before:]
    figures = peaks()

    timed = steps[clock.done_before:]
    seconds = clock.ended - clock.warmed_up
    all_flop = sum(len(rows) * flop(data.batch(rows, widths)[0].shape[1]) for rows in timed)
    sizes = np.array([data.batch(rows, widths)[0].shape for rows in whole_epoch])
    began = time.perf_counter()
    for step in to_make:
        batches.training_batch(knobs, data, step, widths, 0)
    making_batches = time.perf_counter() - began
    traced = model.train_tf_function        # None where it is not compiled
    devices = tf.distribute.get_strategy().num_replicas_in_sync if GPUS else 1
    return predictor, figures | {
        'examples_per_second': sum(map(len, timed)) / seconds, 'steps_per_second': len(timed) / seconds,
        'tokens_per_second': int(sum(data.lengths[rows].sum() for rows in timed)) / seconds,
        'steps': len(timed), 'seconds': seconds, 'padding': 1 - data.lengths.sum() / sizes.prod(1).sum(),
        'lengths': np.unique(sizes[:, 1]).tolist(), 'making_batches': making_batches / seconds,
        'traces': traced and traced.experimental_get_tracing_count(),
        'first_step': clock.first_step - request['started'] - not_ours,
        'first_step_of_fit': clock.first_step - clock.began, 'warm_up': clock.warmed_up - clock.began,
        'product_rate': products.rate(), 'utilisation': all_flop / seconds / products.rate() / devices}


def evaluate(predictor, script, data, examples):
    """The figures of predict() on (a part of) dev, beside those of the forward pass on the same batches."""
    def batches_of(data):
        rows = batches.prediction_batches(data.lengths, predictor.knobs.eval_batch_size, predictor.widths)
        return rows, [inputs for inputs, in batches.prediction_stream(data, rows, predictor.widths)]

    rows, inputs = batches_of(data)
    figures = {'dev_padding': 1 - data.lengths.sum() / sum(tf.size(ids).numpy() for ids, *_ in inputs)}
    if 0 < examples < len(data):        # evenly spaced from the longest to the shortest
        order = np.concatenate(rows)[:len(data)]
        chosen = dict.fromkeys(data.example[order[::-(-len(data) // examples)]])        # each once
        data = rows_of(script, predictor.knobs, [data.examples[i] for i in chosen])
        _, inputs = batches_of(data)
    predictor.predict(data)         # traces it, and compiles where it does
    seconds = []
    for _ in range(4):      # in alternation
        began = time.perf_counter()
        predictor.predict(data)
        middle = time.perf_counter()
        for output in [predictor.forward(batch) for batch in inputs]:
            output.numpy()
        seconds.append((middle - began, time.perf_counter() - middle))
    seconds = np.array(seconds)
    return figures | {'evaluation_examples_per_second': len(data) / np.median(seconds[:, 0]),
                      'evaluation_tokens_per_second': int(data.lengths.sum()) / np.median(seconds[:, 0]),
                      'evaluation_of_forward': seconds[:, 1].sum() / seconds[:, 0].sum()}


def cpu():
    path = Path('/proc/cpuinfo')
    found = re.search(r'^model name\s*: (.*)', path.read_text() if path.is_file() else '', re.M)
    return found[1] if found else platform.processor() or platform.machine()


# ---- Beforehand -----------------------------------------------------------------------------------------------------


def prepare(request):
    """Open the model and read every file, so that bad input is found before anything is measured; make random weights
    (random) and what the peer needs (peer) in request['folder']: {'model': ..., 'peer': {name: file}}."""
    from lab.reference.random_model import random_model  # not above: a measurement imports what a script does
    folder, knobs = Path(request['folder']), request['knobs']
    if request['random']:
        knobs['model'] = str(random_model(request['random'], folder / 'random'))
        vocabulary = (open_model('minilm', '').folder / 'vocab.txt').read_bytes()       # BERT's own, uncased
        size = len(vocabulary.splitlines())
        if read_json(request['random'])['vocab_size'] == size:
            (folder / 'random' / 'vocab.txt').write_bytes(vocabulary)
        elif not all(one['length'] for one in request['work']):
            raise UserError(f"{request['random']}: only a model with BERT's uncased vocabulary of {size} tokens can "
                            "read a task's texts. Choose --length.")
    common = peer_model(request, folder) if request['peer'] else None
    files = {}
    for one in request['work']:
        script, settled = settle(request | one)
        if one['length'] and hasattr(script, 'prepare'):
            raise UserError(f'--length: a made-up text has one label, and {one["script"]} wants one for each word, or '
                            'questions. Measure it on data of its own: --data-dir or --demo.')
        if request['peer'] and getattr(settled, 'head', '') == 'joint':
            raise UserError("--peer: transformers has nothing like ELECTRA's joint head. Choose --head plain.")
        examples = {split: examples_of(request | one, script, settled, split) for split in ('train', 'dev')}
        if common:
            train, most = examples['train'], max(PEER_EXAMPLES, (request['steps'] + 9) * settled.batch_size)
            if request['steps'] and len(train) > most:
                train = [train[i] for i in np.random.default_rng(settled.seed).permutation(len(train))[:most]]
            files[one['name']] = str(folder / f'peer-{len(files)}.json')
            write_json(Path(files[one['name']]), common | {
                name: getattr(settled, name) for name in ('batch_size', 'maxlen', 'learning_rate', 'weight_decay',
                                                          'epsilon', 'clip_norm', 'dropout', 'warmup')
            } | {'eval_batch_size': settled.eval_batch_size if GPUS else PEER_ROWS,
                 'labels': len(settled.labels) or 1, 'examples': len(examples['train']),
                 'kind': kind_of(examples['train'][0])} | {
                split: [(x.text_a, x.text_b, x.label) for x in rows]
                for split, rows in (('train', train), ('dev', examples['dev']))})
    return {'model': knobs['model'], 'peer': files}


def kind_of(example):
    """What the peer is to make of examples: 'texts' with one label, 'words' with one each, 'questions'."""
    if not isinstance(example.label, tuple):
        return 'texts'
    return 'words' if example.text_b is None else 'questions'


def peer_model(request, folder):
    """The weights in Hugging Face's layout, and a tokenizer made of the vocabulary alone."""
    from lab.peers.folders import peer_folders
    name, model_dir = request['knobs']['model'], request['knobs'].get('model_dir', config.Knobs.model_dir)
    checkpoint = open_model(name, model_dir)
    tokenizer = load_vocabulary(checkpoint.folder, checkpoint.config['vocab_size']).tokenizer
    source, tokenizer_folder = peer_folders(name, model_dir, folder)
    return {'model': str(source), 'tokenizer': str(tokenizer_folder), 'sentence': SENTENCE,
            'sentence_ids': tokenizer.encode(SENTENCE, add_special_tokens=False).ids,
            'tf32': tf.config.experimental.tensor_float_32_execution_enabled()}


def main(request, answer):
    request = json.loads(Path(request).read_text())
    write_json(Path(answer), (prepare if 'work' in request else measure)(request))


if __name__ == '__main__':
    sys.exit(exit_status(main, *sys.argv[1:]))
