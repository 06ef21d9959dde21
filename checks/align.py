"""Compare a model as this project computes it with an independent implementation, number by number.

    uv run -m checks.align minilm                                    # against lab/reference/numpy_model.py, float64 numpy
    uv run -m checks.align electra-small --reference PYTHON          # against transformers, where PYTHON has it
    uv run -m checks.align --random electra_base/config.json         # random weights of these sizes, authentic names
    uv run -m checks.align minilm --markdown table.md

Token ids, hidden states, text vector, logits, loss, metrics, the learning rate of every step, the gradient of every
variable, the weights after 1 and 20 steps of both recipes, and what mixed precision does to the logits. The models are
those of MRPC.py and STSB.py, the steps MRPC.py's, on 32 pairs of the dev sets in demo/ (--data-dir: of real ones), with
dropout off.

Differences are the largest one over the largest absolute value of the reference, for gradients and weights in the
variable where this is worst, for changes in the Euclidean norm and beyond float32's rounding. A weight near 0 counts as
large as these steps can make it. Exit status 0 where all pass, 1 where something fails, 2 for bad input.
"""

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

import config
import MRPC
import STSB
from engine.backend import keras, tf
from engine.catalog.datasets import TASKS
from engine.console import markdown_table
from engine.data.tokens import build_rows
from engine.data.vocabulary import load_vocabulary
from engine.files import UserError, exit_status, write_file
from engine.model.checkpoints import open_model
from engine.model.encoders import build_encoder, named_weights
from engine.model.families import hugging_face_name
from engine.training.prediction import Predictor
from lab.peers.folders import peer_folders
from lab.reference import numpy_model
from lab.reference.random_model import random_model
from lab.reference.tokenization import GoogleTokenizer
from lab.scripts import disable_tf32
from snippets import Example

EXACT, RATE, FORWARD, BACKWARD, CHANGE = 0.0, 1e-7, 1e-5, 1e-4, 1e-3
SCRIPTS = {'MRPC': (MRPC, 1.0), 'STSB': (STSB, 5.0)}        # and what they multiply the last layer's output by
BATCH, BATCHES, STEPS = 8, 4, 20
METRICS = {     # of labels and logits (examples, units)
    'mcc': lambda y, z: matthews_corrcoef(y, z.argmax(-1)), 'f1': lambda y, z: f1_score(y, z.argmax(-1)),
    'accuracy': lambda y, z: accuracy_score(y, z.argmax(-1)),
    'accuracy_m': lambda y, z: accuracy_score(y[:500], z[:500].argmax(-1)),
    'accuracy_mm': lambda y, z: accuracy_score(y[500:], z[500:].argmax(-1)),
    'pearson': lambda y, z: pearsonr(y, z[:, 0]).statistic, 'spearman': lambda y, z: spearmanr(y, z[:, 0]).statistic}


class Row(NamedTuple):
    what: str
    ours: str
    reference: str
    difference: float
    threshold: float | None     # None: reported, nothing is asked

    @property
    def passed(self):
        return self.threshold is None or self.difference <= self.threshold


# ---- Ours -----------------------------------------------------------------------------------------------------------


class Setup:
    """A model in both scripts, without dropout, and the batches that both sides are given."""

    def __init__(self, model, model_dir, data_dir):
        self.model, self.model_dir, self.data_dir = str(model), model_dir, data_dir
        self.checkpoint = open_model(self.model, model_dir)
        disable_tf32()
        self.vocabulary = load_vocabulary(self.checkpoint.folder, self.checkpoint.config['vocab_size'])
        self.examples, self.tokens, self.data, self.models = [], {}, {}, {}
        for task, (script, _) in SCRIPTS.items():
            knobs = self.knobs(task)
            examples = script.load_data(knobs, 'dev')[:BATCH * BATCHES]
            self.examples += examples
            self.tokens[task] = tokens = build_rows(self.vocabulary, knobs.maxlen, examples)
            rows = np.arange(len(tokens))
            ids, segments = (np.split(array, BATCHES) for array in tokens.batch(rows))      # one width, so one trace
            self.data[task] = list(zip(ids, segments, np.split(tokens.gold[rows], BATCHES), strict=True))
            self.models[task] = self.build(script.build_model, knobs, STEPS * BATCH)
        self.heads = {task: {name: value for name, value in named_arrays(one).items() if 'classifier/' in name}
                      for task, one in self.models.items()}
        self.names = [name for name in named_weights(self.models['MRPC']) if 'classifier/' not in name]
        # One step without warm-up, as the first step of a warm-up has the learning rate 0; then a whole schedule.
        recipes = [dict(config.RECIPES[name], total=STEPS) for name in ('bert', 'electra')]
        self.runs = [{'task': 'MRPC', 'recipe': one | extra, 'steps': [steps]} for one in recipes
                     for extra, steps in (({'warmup': 0.0}, 1), ({}, STEPS))]

    def knobs(self, task, recipe='bert', **given):
        """The knobs of a script for this model and a schedule of STEPS steps."""
        script = SCRIPTS[task][0]
        return script.knobs.resolve(script.__file__, recipe, {
            'model': self.model, 'model_dir': self.model_dir, 'data_dir': str(self.data_dir), 'batch_size': BATCH,
            'eval_batch_size': BATCH, 'epochs': 1, 'maxlen': 64, 'dropout': 0.0, 'precision': 'float32', **given})

    def build(self, builder, *args):
        """builder(*args) with an encoder that has no dropout, which no knob can say."""
        config = self.checkpoint.config         # of the very object that the builder gets
        before = dict(config)
        config |= {'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0}
        try:
            return builder(*args)
        finally:
            config |= before

    def reach(self, run):
        """{name: how far the steps of a run move a value whose gradient never changes}."""
        model = numpy_model.ReferenceModel(self.checkpoint.family, self.checkpoint.config, self.checkpoint.pooling, {})
        names = [*self.names, *self.heads[run['task']]]
        return {name: model.reach(name, run['recipe'], run['steps'][0]) for name in names}

    def train(self, run):
        """({name: value}, [learning rate]) after the steps of a run, by the script's own model and training step."""
        recipe = {key: value for key, value in run['recipe'].items() if key not in ('total', 'dropout')}
        model = self.build(SCRIPTS[run['task']][0].build_model, self.knobs(run['task'], **recipe), STEPS * BATCH)
        rates = []
        for t in range(run['steps'][0]):
            ids, segments, labels = self.data[run['task']][t % BATCHES]
            model.train_on_batch((ids, segments), labels)
            rates.append(float(model.optimizer.learning_rate))      # the one that this step had
        return named_arrays(model), rates


def named_arrays(model):
    return {name: variable.numpy() for name, variable in named_weights(model).items()}


def gradients_of(model, ids, segments, labels):
    """The loss and {name: gradient} of the compiled model."""
    weights = {name: v for name, v in named_weights(model).items() if v.trainable}
    with tf.GradientTape() as tape:
        loss = model.compiled_loss(tf.constant(labels), model([ids, segments], training=False))
    gradients = tape.gradient(loss, list(weights.values()))
    return float(loss), {name: tf.convert_to_tensor(g).numpy() for name, g in zip(weights, gradients, strict=True)
                         if g is not None}


# ---- The references -------------------------------------------------------------------------------------------------


class Numpy:
    """lab/reference/numpy_model.py as a reference."""
    name = 'numpy, float64'

    def __init__(self, setup):
        self.setup, self.encoder = setup, dict(setup.checkpoint.read(setup.names))

    def model(self, task):
        checkpoint = self.setup.checkpoint
        return numpy_model.ReferenceModel(checkpoint.family, checkpoint.config, checkpoint.pooling,
                               self.encoder | self.setup.heads[task], SCRIPTS[task][1])

    def inputs(self):
        """A function from two texts and the largest length to token ids and segment ids."""
        tokenizer = self.setup.vocabulary.tokenizer
        return GoogleTokenizer(tokenizer.get_vocab(), tokenizer.normalizer.lowercase).inputs

    def forward(self, task):
        """The hidden states, the text vector, logits, loss and gradients of the task's first batch."""
        model, (ids, segments, labels) = self.model(task), self.setup.data[task][0]
        states, vector, logits, _ = model.forward(ids, segments)
        loss = model.loss(ids, segments, labels)
        return states, vector, logits, loss, model.gradients

    def train(self, run):
        """({name: value}, [learning rate]) after the steps of a run."""
        weights, = self.model(run['task']).train(self.setup.data[run['task']], run['recipe'], run['steps'])
        return weights, [numpy_model.learning_rate(run['recipe'], t) for t in range(run['steps'][0])]


class Peer:
    """transformers, in another interpreter, as a reference: lab/peers/align.py does all of it in one go."""

    def __init__(self, python, setup, folder):
        self.setup, self.folder = setup, folder
        checkpoint = setup.checkpoint
        source, _ = peer_folders(setup.model, setup.model_dir, folder)
        texts = sorted({text for example in setup.examples for text in (example.text_a, example.text_b)})
        (folder / 'request.json').write_text(json.dumps({
            'texts': texts, 'folder': str(source), 'pooling': checkpoint.pooling, 'batches': BATCHES,
            'runs': setup.runs,
            'names': {name: hugging_face_name(name, checkpoint.family).split('.', 1)[1] for name in setup.names},
            'tasks': {task: scale for task, (_, scale) in SCRIPTS.items()}}))
        arrays = {f'{task}/{name.split("/")[1]}': value for task, head in setup.heads.items()
                  for name, value in head.items()}
        for task, batches in setup.data.items():
            for i, batch in enumerate(batches):
                arrays |= {f'{task}/{i}/{what}': value for what, value in zip(
                    ('ids', 'segments', 'labels'), batch, strict=True)}
        np.savez(folder / 'request.npz', **arrays)
        answer = ask(python, 'align.py', folder)
        self.name, self.variables, self.ids = answer['name'], answer['variables'], dict(
            zip(texts, answer['ids'], strict=True))

    def inputs(self):
        tokenizer = GoogleTokenizer({'[CLS]': self.setup.vocabulary.cls, '[SEP]': self.setup.vocabulary.sep})
        tokenizer.ids = lambda text: list(self.ids[text])       # only the rows are made by Google's rule
        return tokenizer.inputs

    def forward(self, task):
        answer = np.load(self.folder / f'answer.{task}.npz')
        states = [answer[f'states/{i}'] for i in range(sum(name.startswith('states/') for name in answer))]
        return states, answer['vector'], answer['logits'], float(answer['loss']), part(answer, 'gradients/')

    def train(self, run):
        answer = np.load(self.folder / f'answer.run{self.setup.runs.index(run)}.npz')
        return part(answer, f'{run["steps"][0]}/'), list(answer['rates'])


def ask(python, program, folder):
    """What a program of checks/ answers to the request in this folder: its answer.json. Raises UserError."""
    done = subprocess.run([python, config.ROOT / 'lab' / 'peers' / program, folder], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f'--reference {python}: {program} failed; it needs torch and transformers.\n'
                        f'{done.stderr.strip()[-2000:]}')
    return json.loads((folder / 'answer.json').read_text())


def part(arrays, prefix):
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


# ---- The comparison -------------------------------------------------------------------------------------------------


def relative(ours, theirs, size=None):
    """The largest difference over the largest absolute value of the reference (or of `size`)."""
    if np.shape(ours) != np.shape(theirs):
        return np.inf
    largest = np.abs(theirs if size is None else size).max()
    difference = np.abs(np.asarray(ours, np.float64) - theirs).max()
    return float(difference / largest if largest else difference)


def compare(what, ours, theirs, threshold):
    return Row(what, f'{np.abs(ours).max():.7g}', f'{np.abs(theirs).max():.7g}', relative(ours, theirs), threshold)


def compare_variables(what, ours, theirs, threshold, reach=None):
    """A row about the variable where the difference is largest.

    The gradient of a key's bias is zero, as softmax takes no notice of a constant: what rounding leaves of it is
    compared with the same layer's query bias. `reach`, of weights: {name: the least that counts as the largest value}.
    """
    if set(ours) != set(theirs):
        raise UserError(f'{what}: only one of the two has {", ".join(sorted(set(ours) ^ set(theirs)))}.')
    rows = []
    for name in theirs:
        size = np.abs(theirs[query_bias(name)]).max()
        if reach:   # A gradient may be off by BACKWARD of itself, so a step by that of its length, also near 0.
            size = max(size, reach[name])
        rows.append(Row(f'{what} of {len(theirs)} variables; worst {name}', f'{np.abs(ours[name]).max():.7g}',
                        f'{np.abs(theirs[name]).max():.7g}', relative(ours[name], theirs[name], size), threshold))
    return worst_of(rows)


def query_bias(name):
    """The variable that has the size of this one's gradients: of a key's bias the query's."""
    return name.replace('/key/', '/query/') if name.endswith('/key/bias') else name


def worst_of(rows):
    return max(rows, key=lambda row: np.nan_to_num(row.difference, nan=np.inf))


def compare_changes(what, ours, theirs, start, steps, threshold):
    """A row about what training has changed, by the Euclidean norm, in the variable where the difference is largest.

    Half of a weight's last digit in float32 is not counted for each step: equal steps are all rounded the same way, and
    a LayerNorm's gamma, near 1, has no finer ones.
    """
    rows = []
    for name in theirs:
        apart = np.linalg.norm(ours[name].astype(np.float64) - theirs[name])
        rounding = 2 ** -24 * steps * np.linalg.norm(theirs[name])
        same_size = query_bias(name)
        size = np.linalg.norm(theirs[same_size] - start[same_size].astype(np.float64))
        own, moved = (np.linalg.norm(after[name] - start[name].astype(np.float64)) for after in (ours, theirs))
        difference = np.maximum(apart - rounding, 0.0) / (size or 1.0)
        rows.append(Row(f'{what} of {len(theirs)} variables; worst {name}', f'{own:.7g}', f'{moved:.7g}',
                        float(difference), threshold))
    return worst_of(rows)


def align(setup, python):
    """Yield the rows, and the reference's name first."""
    with tempfile.TemporaryDirectory() as folder:
        other = Numpy(setup) if python is None else Peer(python, setup, Path(folder))
        yield other.name
        yield from compare_tokens(setup, other.inputs())
        for task, one in setup.models.items():
            ids, segments, labels = setup.data[task][0]
            states, vector, logits, loss, gradients = other.forward(task)
            if task == 'MRPC':
                encoder = build_encoder(setup.knobs(task))
                *own, own_vector = keras.Model(encoder.inputs, [*encoder.hidden_states, encoder.vector])(
                    [ids, segments], training=False)
                real = ids != 0
                worst = max(range(len(states)), key=lambda i: np.nan_to_num(
                    relative(own[i].numpy()[real], states[i][real]), nan=np.inf))
                yield compare(f'hidden states of {len(states) - 1} layers and the embeddings; worst {worst}',
                              own[worst].numpy()[real], states[worst][real], FORWARD)
                yield compare(f'text vector ({setup.checkpoint.pooling})', own_vector.numpy(), vector, FORWARD)
            kind = 'classification' if task == 'MRPC' else 'regression'
            own_loss, own_gradients = gradients_of(one, ids, segments, labels)
            yield compare(f'logits, {kind}', one([ids, segments], training=False).numpy(), logits, FORWARD)
            yield compare(f'loss, {kind}', own_loss, loss, FORWARD)
            yield compare_variables(f'gradients, {kind},', own_gradients, gradients, BACKWARD)
        start = named_arrays(setup.models['MRPC'])
        for run in setup.runs:
            steps, name = run['steps'][0], 'BERT' if run['recipe']['schedule'] == 'linear' else 'ELECTRA'
            (weights, rates), (theirs, their_rates) = setup.train(run), other.train(run)
            if steps == STEPS:
                yield compare(f"learning rate of {STEPS} steps, {name}'s recipe", rates, their_rates, RATE)
            which = f"{steps} {'step' if steps == 1 else 'steps'}, {name}'s recipe"
            yield compare_variables(f'weights after {which},', weights, theirs, BACKWARD, setup.reach(run))
            yield compare_changes(f'changes after {which},', weights, theirs, start, steps, CHANGE)
    yield from compare_precision(setup)
    yield compare_metrics()


def compare_tokens(setup, inputs):
    """Token ids and segment ids; the difference is the number of rows that are not the same."""
    for maxlen in (16, 64, 128):
        data, differing, count = build_rows(setup.vocabulary, maxlen, setup.examples), 0, 0
        for i, example in enumerate(setup.examples):
            ids, segments = inputs(example.text_a, example.text_b, maxlen)
            differing += [array[0].tolist() for array in data.batch(np.array([i]))] != [ids, segments]
            count += len(ids)
        yield Row(f'token ids and segment ids of {len(setup.examples)} pairs, maxlen {maxlen}; rows that differ',
                  f'{data.lengths.sum()} tokens', f'{count} tokens', differing, EXACT)


def compare_precision(setup):
    """What mixed precision does to the logits, beside float32 on the same rows; and that LayerNorm does not suffer."""
    tokens = setup.tokens['MRPC']
    logits = {'float32': Predictor(setup.knobs('MRPC'), setup.models['MRPC']).predict(tokens)}
    for precision in ('bfloat16', 'float16'):
        knobs = setup.knobs('MRPC', precision=precision)
        built = MRPC.build_model(knobs, STEPS * BATCH)
        logits[precision] = Predictor(knobs, built).predict(tokens)     # the head is the same, as the seed is
        yield compare(f'logits in {precision}, against our float32', logits[precision], logits['float32'], None)
        norm = [layer for layer in built.layers if layer.name.endswith('FeedForward-Norm')][-1]
        x, y = keras.Model(built.inputs, [norm.get_input_at(-1), norm.get_output_at(-1)])(
            tokens.batch(np.arange(BATCH)), training=False)
        x = x.numpy().astype(np.float64)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.epsilon)
        yield compare(f'LayerNorm of the last layer in {precision}, on its own input', y.numpy(),
                      x * norm.gamma.numpy() + norm.beta.numpy(), FORWARD)


def compare_metrics():
    """The scripts' scores of random answers against scikit-learn and SciPy on the same."""
    random = np.random.default_rng(0)
    ours, theirs = [], []
    for name, task in TASKS.items():
        script = importlib.import_module(name)
        units = len(script.knobs.labels) or 1
        logits = random.standard_normal((1000, units)).astype(np.float32)
        labels = random.integers(0, units, 1000) if units > 1 else logits[:, 0] + random.standard_normal(1000)
        files = np.repeat(['dev_matched.tsv', 'dev_mismatched.tsv'], 500)
        examples = [Example(file, i, i, '', None, label) for i, (file, label) in enumerate(
            zip(files, labels, strict=True))]
        ours += script.score(logits, SimpleNamespace(examples=examples, gold=labels)).values()
        theirs += [METRICS[metric](labels, logits) for metric in task.metrics]
    what = f'{len(ours)} metrics of {len(TASKS)} tasks, against scikit-learn and SciPy'
    return compare(what, ours, theirs, EXACT)


# ---- The command line -----------------------------------------------------------------------------------------------


def table(rows):
    cells = []
    for row in rows:
        threshold, verdict = '', 'reported'
        if row.threshold is not None:
            threshold, verdict = f'{row.threshold:g}', 'pass' if row.passed else '**FAIL**'
        cells.append([row.what, row.ours, row.reference, f'{row.difference:.1e}', threshold, verdict])
    return markdown_table(['what', 'ours', 'reference', 'largest difference', 'threshold', ''], cells)


def main(argv=None):
    """The command line. Returns 0 where all rows pass, 1 where one fails, 2 for bad input."""
    parser = argparse.ArgumentParser(prog='python -m checks.align', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument('model', nargs='?', help='a name or a folder, as --model takes it (minilm)')
    which.add_argument('--random', metavar='JSON', help='random weights for the sizes in this configuration')
    add_options(parser)
    parser.add_argument('--model-dir', default=config.Knobs.model_dir, help='downloaded models (%(default)s)')
    args = parser.parse_args(argv)
    return exit_status(run, args)


def add_options(parser):
    """The options of a comparison."""
    parser.add_argument('--reference', metavar='PYTHON', help='an interpreter with torch and transformers')
    parser.add_argument('--data-dir', default=str(config.ROOT / 'demo'), help='GLUE (%(default)s)')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='write the table there as well')


def check_options(args):
    """Raises UserError where add_options() got what is not there."""
    if args.reference and not shutil.which(args.reference):
        raise UserError(f'--reference {args.reference}: no such program. Name a Python that has torch and '
                        'transformers.')
    if args.markdown and not args.markdown.absolute().parent.is_dir():
        raise UserError(f'--markdown {args.markdown}: its folder does not exist.')


def run(args):
    """Do what the command line says. Returns 0, or 1 where a row fails. Raises UserError."""
    check_options(args)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or 'minilm'
        if args.random:
            model = random_model(args.random, Path(folder) / 'random')
        name, *rows = align(Setup(model, args.model_dir, args.data_dir), args.reference)
    return report(name, rows, args.markdown)


def report(name, rows, markdown=None):
    """Print the table, and write it where `markdown` is a file. name: the reference's. Returns 0, or 1 where a row
    fails."""
    text = f'Against {name}:\n\n{table(rows)}'
    print(f'\n{text}', end='')
    if markdown:
        write_file(markdown, text)
    failed = len([row for row in rows if not row.passed])
    print(f'{failed} of {len(rows)} rows fail' if failed else f'all {len(rows)} rows pass')
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
