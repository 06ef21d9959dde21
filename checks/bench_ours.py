"""This project's side of checks.bench: one measurement in a process of its own, or what all of them need beforehand.

    python -m checks.bench_ours REQUEST ANSWER       # two json files, of checks.bench and for it
"""

import importlib
import json
import platform
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import config
import snippets
from engine import launch
from engine.checkpoints import load_tokenizer, open_model
from engine.files import UserError, read_json, status_of, write_json
from engine.launch import GPUS
from snippets import Example, keras, tf

PEER_EXAMPLES = 20000       # that the peer gets of a larger training file: it draws its batches at random
PEER_ROWS = 32              # in its evaluation batches on a CPU: it does not sort, more would be more padding
SENTENCE = 'Sailors rode the breeze, unhurried.'        # that both tokenizers must cut in the same way


# ---- What is measured -----------------------------------------------------------------------------------------------


def settle(request):
    """The script and the knobs of a measurement, as launch.start settles them."""
    script, given = importlib.import_module(request['script']), request['knobs']
    model = given['model']
    recipe = config.MODELS[model].recipe if model in config.MODELS else \
        open_model(model, given.get('model_dir', config.Knobs.model_dir)).recipe
    length = {'maxlen': request['length']} if request['length'] else {}
    knobs = script.knobs.for_recipe(recipe, given | length | {'epochs': 1, 'cache': False})
    return script, launch.for_device(knobs)


def examples_of(request, script, knobs, split):
    """The rows of 'train' or 'dev'; where a length is asked for, made-up texts that have it."""
    if not request['length']:
        return script.load_data(knobs, split)
    checkpoint = open_model(knobs.model, knobs.model_dir)
    vocabulary = load_tokenizer(checkpoint.folder, checkpoint.config['vocab_size'])[0].get_vocab()
    words = sorted(token for token in vocabulary if re.fullmatch('[a-z]+', token))       # one token each
    count = ((request['steps'] or 20) + 4) * knobs.batch_size if split == 'train' else \
        request['evaluation_examples'] or 400       # the peer skips 3 steps
    random = np.random.default_rng([knobs.seed, split == 'train'])
    return [Example('', i, i, ' '.join(random.choice(words, request['length'] - 2)), None,
                    i % len(knobs.labels)) for i in range(count)]


def train_flop(settings, length):
    """Floating point operations of the matrix products that training takes for one sequence of this length, padding
    included: 3 * s * (2 N + 4 L s h). N: weights of the dense layers that every token goes through (without the
    embeddings, and biases); L layers of size h; forward 1, backward 2."""
    hidden, inner, layers = settings['hidden_size'], settings['intermediate_size'], settings['num_hidden_layers']
    embedding = settings.get('embedding_size', hidden)
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner) + embedding * hidden * (embedding != hidden)
    return 3 * length * (2 * weights + 4 * layers * length * hidden)


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
    unit = 1 if sys.platform == 'darwin' else 1024
    found = {'peak_gib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    return found | ({'gpu_peak_gib': tf.config.experimental.get_memory_info('GPU:0')['peak'] / 2**30} if GPUS else {})


class Clock(snippets.Monitor):
    """Takes the time where a Monitor scores dev and writes files; `warm` steps are left out of the rate."""

    def __init__(self, warm, steps, products, *args):
        super().__init__(*args)
        self.warm, self.steps, self.products, self.first_step, self.begun = warm, steps, products, None, None

    def now(self, done):
        int(tf.convert_to_tensor(self.model.optimizer.iterations))      # waits for the device
        return {'time': time.time() - self.products.seconds, 'waited': self.train_data.waited, 'done': done}

    def on_train_begin(self, logs=None):
        self.fit_began = time.time()

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self.first_step is None:
            self.first_step = self.now(batch + 1)['time']
        if self.begun is None and batch + 1 >= self.warm:
            self.begun = self.now(batch + 1)
            self.products.run()
        elif self.begun and time.perf_counter() > self.products.ended + 1:
            self.now(batch + 1)
            self.products.run()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        self.ended = self.now(self.steps)

    def end(self):
        pass


# ---- A measurement --------------------------------------------------------------------------------------------------


def measure(request):
    """{figure: value} of tokenization, training and evaluation, by the functions that the scripts call."""
    script, knobs = settle(request)
    with launch.distribution(knobs)[0].scope():
        return measure_run(request, script, knobs)


def measure_run(request, script, knobs):
    """measure() on the devices chosen."""
    keras.utils.set_random_seed(knobs.seed)
    examples = {split: examples_of(request, script, knobs, split) for split in ('train', 'dev')}
    checkpoint = open_model(knobs.model, knobs.model_dir)
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.config['vocab_size'])
    began = time.perf_counter()
    train_data = snippets.token_ids(tokenizer, knobs.maxlen, examples['train'])
    seconds, tokens = time.perf_counter() - began, int(train_data.lengths.sum())
    found = {'tokenization_examples_per_second': len(train_data) / seconds,
             'tokenization_tokens_per_second': tokens / seconds}
    dev_data = snippets.tokenize(knobs, examples['dev'])
    model = script.build_model(knobs, len(train_data))
    with tempfile.TemporaryDirectory() as folder:
        knobs.runs_dir = knobs.results_dir = folder
        found |= train(request, knobs, model, train_data, dev_data)
    found |= evaluate(knobs, model, dev_data, request['evaluation_examples'])
    device = tf.config.experimental.get_device_details(GPUS[0]).get('device_name', GPUS[0].name) if GPUS else None
    about = launch.run_config(knobs)
    return found | {'device': device or cpu(), 'cores': about['cores'], 'versions': about['versions']}


def train(request, knobs, model, data, dev_data):
    """The figures of snippets.train, which is given only some of the epoch's batches."""
    batches = data.shuffled(knobs.seed, 0, knobs.batch_size)
    lengths = data.fewest_lengths(batches)      # from all of them, as ever
    chosen = stratified(batches, data.lengths, request['steps'], knobs.seed)
    warm = widest_first(chosen, [data.batch(rows, lengths)[0].shape[1] for rows in chosen])
    while len(warm) % knobs.steps_per_execution:
        warm.append(warm[-1])
    data.fewest_lengths, data.shuffled = lambda batches: lengths, lambda *_: warm + chosen
    began = time.time()
    products = Products(knobs.precision)
    not_ours = time.time() - began
    clocks = []
    snippets.Monitor = lambda *args: clocks.append(Clock(len(warm), len(warm + chosen), products, *args)) or clocks[0]
    if GPUS:
        tf.config.experimental.reset_memory_stats('GPU:0')
    snippets.train(knobs, model, data, dev_data, script_score)
    found, clock = peaks(), clocks[0]

    timed = (warm + chosen)[clock.begun['done']:]
    seconds = clock.ended['time'] - clock.begun['time']
    settings = open_model(knobs.model, knobs.model_dir).config
    flop = sum(len(rows) * train_flop(settings, data.batch(rows, lengths)[0].shape[1]) for rows in timed)
    sizes = np.array([data.batch(rows, lengths)[0].shape for rows in batches])      # of the whole epoch
    step = model.train_tf_function      # None where it is not compiled
    devices = tf.distribute.get_strategy().num_replicas_in_sync if GPUS else 1
    return found | {
        'examples_per_second': sum(map(len, timed)) / seconds, 'steps_per_second': len(timed) / seconds,
        'tokens_per_second': int(sum(data.lengths[rows].sum() for rows in timed)) / seconds,
        'steps': len(timed), 'seconds': seconds, 'padding': 1 - data.lengths.sum() / sizes.prod(1).sum(),
        'lengths': np.unique(sizes[:, 1]).tolist(),
        'waiting': (clock.ended['waited'] - clock.begun['waited']) / seconds,
        'traces': step and step.experimental_get_tracing_count(),
        'first_step': clock.first_step - request['started'] - not_ours,
        'first_step_of_fit': clock.first_step - clock.fit_began, 'warm_up': clock.begun['time'] - clock.fit_began,
        'product_rate': products.rate(), 'utilisation': flop / seconds / products.rate() / devices}


def script_score(logits, examples):
    raise AssertionError('a Clock does not score')


def evaluate(knobs, model, data, examples):
    """The figures of snippets.predict on (a part of) dev, beside those of the forward pass on the same batches."""
    def batches_of(data):
        stream, order = data.batches(knobs.eval_batch_size, knobs.jit and knobs.lengths)
        return [pair for pair, in stream], order

    inputs, order = batches_of(data)
    found = {'dev_padding': 1 - data.lengths.sum() / sum(tf.size(ids).numpy() for ids, _ in inputs)}
    if 0 < examples < len(data):        # evenly spaced from the longest to the shortest
        data = snippets.tokenize(knobs, [data.examples[i] for i in order[::-(-len(data) // examples)]])
        inputs, _ = batches_of(data)
    snippets.predict(knobs, model, data)        # traces it, and compiles where it does
    seconds = []
    for _ in range(4):      # in alternation
        began = time.perf_counter()
        snippets.predict(knobs, model, data)
        middle = time.perf_counter()
        for output in [model.forward(pair) for pair in inputs]:
            output.numpy()
        seconds.append((middle - began, time.perf_counter() - middle))
    seconds = np.array(seconds)
    return found | {'evaluation_examples_per_second': len(data) / np.median(seconds[:, 0]),
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
    from checks.random_model import random_model  # not above: a measurement imports what a script does
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
                 'labels': len(settled.labels) or 1, 'examples': len(examples['train'])} | {
                split: [(x.text_a, x.text_b, x.label) for x in rows]
                for split, rows in (('train', train), ('dev', examples['dev']))})
    return {'model': knobs['model'], 'peer': files}


def peer_model(request, folder):
    """The weights in Hugging Face's layout, and a tokenizer made of the vocabulary alone."""
    from checks.peer import peer_folders
    name, model_dir = request['knobs']['model'], request['knobs'].get('model_dir', config.Knobs.model_dir)
    checkpoint = open_model(name, model_dir)
    tokenizer, *_ = load_tokenizer(checkpoint.folder, checkpoint.config['vocab_size'])
    source, tokenizer_folder = peer_folders(name, model_dir, folder)
    return {'model': str(source), 'tokenizer': str(tokenizer_folder), 'sentence': SENTENCE,
            'sentence_ids': tokenizer.encode(SENTENCE, add_special_tokens=False).ids,
            'tf32': tf.config.experimental.tensor_float_32_execution_enabled()}


def main(request, answer):
    request = json.loads(Path(request).read_text())
    write_json(Path(answer), (prepare if 'work' in request else measure)(request))


if __name__ == '__main__':
    sys.exit(status_of(main, *sys.argv[1:]))
