"""What the nine scripts share, in the order in which a run uses it:

TSV rows, the head, training and prediction, what a run leaves behind. The command line is in launch.py, token ids and
batches are in tokens.py, the encoder in encoders.py and its layers in layers.py, the optimizer in optimizers.py, model
folders in checkpoints.py.
"""

import csv
import io
import itertools
import os
import time
from pathlib import Path
from typing import NamedTuple

import config
from engine import resume
from engine.checkpoints import Checkpoint, download, load_variables, open_model, quiet
from engine.encoders import Mean as Mean  # these for the scripts, too
from engine.encoders import build_encoder as build_encoder
from engine.encoders import named_weights
from engine.files import (
    Diverged,
    UserError,
    drop_abandoned,
    each_line,
    flush,
    run_folder,
    show,
    show_value,
    write_file,
    write_json,
)
from engine.files import read_lines as read_lines  # for MRPC
from engine.launch import finished, resumable, run_config, unfinished, write_result
from engine.launch import launch as launch
from engine.layers import Dropout as Dropout
from engine.optimizers import AdamW, inner_optimizer, steps_per_epoch
from engine.optimizers import build_optimizer as build_optimizer
from engine.progress import progress
from engine.tokens import PAIR
from engine.tokens import token_ids as token_ids  # for the tools
from engine.tokens import tokenize as tokenize

with quiet():
    import numpy as np
    import tensorflow as tf
    from bert4keras.backend import keras

import safetensors
import safetensors.numpy

# ---- TSV rows -------------------------------------------------------------------------------------------------------


class Example(NamedTuple):
    file: str
    line: int                   # from 1, in `file`
    index: int                  # the row's own index, or its number from 0
    text_a: str
    text_b: str | None
    label: int | float | None   # the label's number, or the score; None in test files


def data_file(knobs, *names):
    """The path of the first of `names` ('MRPC/train.tsv', ...) that exists in the data folder.

    The default data folder is filled by the downloader at first use; a folder somebody named is left as it is.
    """
    root, folder = Path(knobs.data_dir), Path(names[0]).parent.name
    found = [root / name for name in names if (root / name).is_file()]
    if not found and not (root / folder).is_dir() and knobs.data_dir == config.Knobs.data_dir:
        download(folder, f'--data-dir={root.resolve()}')
        found = [root / name for name in names if (root / name).is_file()]
    if found:
        return found[0]
    raise UserError(f'{root / names[0]}: no such file. Put GLUE into {root} (uv run -m tools.download {folder} '
                    f'--data-dir {root}), name its folder with --data-dir, or try --demo, which needs no data.')


def load_tsv(knobs, split, path, text_a, text_b=None, label=None, index=None, labels=(), columns=0, keep=None):
    """The rows of a GLUE file as Examples.

    Columns are named by the file's header, or by their number from 0 where the file has none (then `columns` says how
    many there are). `labels`: the label strings in the order of the logits, or (lowest, highest) for a score.
    `keep` takes a row as {column: text} and says whether it belongs here.
    Fields are split at tabs only, quotes are text. Malformed rows raise UserError, unless `split` is 'train' and the
    knob skip_bad_rows is set; the knob `limit` cuts the training rows.
    """
    lines = enumerate(each_line(path), 1)
    names = list(range(columns)) if columns else [name.strip() for name in next(lines)[1].split('\t')]
    number = first = 0 if columns else 1
    wanted = [name for name in (index, text_a, text_b, label) if name is not None]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(f'{path}, line 1: no column {missing[0]!r} in the header: {", ".join(names)}. '
                        f'Is this the {split} file of the task, in GLUE\'s format?')
    at = {name: names.index(name) for name in wanted}

    examples, bad = [], []
    for number, line in lines:
        row = line.split('\t')
        try:
            if len(row) != len(names):
                hint = ' (a test file?)' if columns and len(row) == 2 else ''
                raise ValueError(f'{len(row)} columns instead of {len(names)}{hint}')
            if keep and not keep(dict(zip(names, row, strict=True))):
                continue
            example = Example(str(path), number,
                              to_index(row[at[index]]) if index else len(examples),
                              row[at[text_a]],
                              row[at[text_b]] if text_b is not None else None,
                              to_label(row[at[label]], labels) if label is not None else None)
        except ValueError as error:
            bad.append((number, error))
            continue
        except KeyError as error:
            raise UserError(f'{path}, line 1: no column {error} in the header: {", ".join(names)}.') from error
        examples.append(example)

    if number == first:
        raise UserError(f'{path}: the file has a header and no rows.')
    if bad and not (split == 'train' and knobs.skip_bad_rows and examples):
        shown = ''.join(f'\n  line {number}: {error}' for number, error in bad[:5])
        more = '\n  ...' if len(bad) > 5 else ''
        advice = 'Mend the file, or drop these rows with --skip-bad-rows.' if split == 'train' else \
            'Mend the file: rows of dev and test files are never dropped.'
        raise UserError(f'{path}: {len(bad)} malformed of {number - first} rows:{shown}{more}\n{advice}')
    if not examples:
        raise UserError(f'{path}: none of its {number - first} rows belongs to the {split} set.')
    if bad:
        print(f'{path}: dropped {len(bad)} malformed rows, the first in line {bad[0][0]}: {bad[0][1]}')
    return examples[:knobs.limit or None] if split == 'train' else examples


def to_index(text):
    if not text.isdecimal():
        raise ValueError(f'index {text!r} is not a number')
    return int(text)


def to_label(text, labels):
    """The number of a label in `labels`, or a score within (lowest, highest)."""
    if isinstance(labels[0], str):
        if text not in labels:
            raise ValueError(f'label {text!r} is none of {", ".join(labels)}')
        return labels.index(text)
    low, high = labels
    try:
        score = float(text)
    except ValueError:
        raise ValueError(f'score {text!r} is not a number') from None
    if not low <= score <= high:
        raise ValueError(f'score {text} is not within {low:g} and {high:g}')
    return score


def swap_pairs(examples):
    """The same pairs with their two sentences swapped."""
    return [example._replace(text_a=example.text_b, text_b=example.text_a) for example in examples]


# ---- The head -------------------------------------------------------------------------------------------------------


def classifier(knobs, units):
    """The new output layer: Dense with the initial values of the family's own code, seeded."""
    if open_model(knobs.model, knobs.model_dir).family == 'electra':    # tf.layers.dense: glorot uniform
        initial = keras.initializers.GlorotUniform(knobs.seed)
    else:                                                               # run_classifier.py: truncated normal
        initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=knobs.seed)
    return keras.layers.Dense(units, kernel_initializer=initial, name='classifier')


# ---- Training and prediction ----------------------------------------------------------------------------------------


def predict(knobs, model, data):
    """The model's outputs for `data`, (len(data), units) float32, in the order of the file."""
    if not hasattr(model, 'forward'):       # kept, so that it is traced once for all calls
        model.forward = tf.function(lambda pair: model(pair, training=False), input_signature=(PAIR,),
                                    jit_compile=model.jit_compile)
    batches, order = data.batches(knobs.eval_batch_size, knobs.jit and knobs.lengths)
    # All are under way before the first is fetched, so that a GPU is never idle. Of several devices the first does it.
    outputs = []
    try:
        for ids, segments in (pair for pair, in batches):
            outputs.append(model.forward((ids, segments)))
        outputs = np.concatenate([output.numpy() for output in outputs])
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(f'out of memory when predicting {ids.shape[0]} examples of {ids.shape[1]} tokens. Lower '
                        '--eval-batch-size.') from error
    logits = np.empty((len(data), outputs.shape[1]), np.float32)
    logits[order] = outputs
    return logits


def train(knobs, model, train_data, dev_data, score):
    """Train, score on dev after every epoch, end with the weights of the best one. What is left behind: run_folder().

    `score` takes (logits, examples) and returns {metric: value}; the best epoch has the highest mean of these. A metric
    that is not defined (nan) counts as lower than any other, so that there always is a best epoch.
    """
    folder, vocabulary = run_folder(knobs), (open_model(knobs.model, knobs.model_dir).folder / 'vocab.txt').read_bytes()
    steps = steps_per_epoch(knobs, len(train_data)) * knobs.grad_accumulation     # of an epoch
    if (knobs.grad_accumulation - 1) * knobs.batch_size >= len(train_data):
        raise UserError(f'--grad-accumulation {knobs.grad_accumulation}: fewer steps of {knobs.batch_size} examples '
                        f'hold all {len(train_data)}.')
    goes_on = unfinished(knobs, folder)
    if knobs.init and Path(knobs.init).resolve() == folder.resolve():
        raise UserError(f'--init {knobs.init}: this run would write there itself. Choose another --seed or --runs-dir.')
    if knobs.init and not goes_on:
        load_run(knobs, model)
    for path in (folder, Path(knobs.results_dir)):      # a folder that cannot be written is found before the training
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f'{path}: there is a file where a folder should be. Move it, or name another folder with '
                            '--runs-dir or --results-dir.') from error
        if not os.access(path, os.W_OK):
            raise UserError(f'{path}: no files can be written into this folder.')
    resume.lock(folder)
    if finished(knobs, folder) or unfinished(knobs, folder) != goes_on:
        raise UserError(f'{folder}: another run was at work in this folder until now. Start again.')
    for pattern in ('.*.[0-9]*', '.tmp*'):      # ours, and the safetensors library's
        drop_abandoned(folder, pattern, 0)
    state = resume.read(folder, knobs.epochs, steps) if goes_on else None
    if not state:
        # Of an earlier run, first what would make it look finished, or what would go on.
        for pattern in ('metrics.*', resume.STATE, resume.WEIGHTS, resume.EARLIER, 'curve.png', '*.tsv'):
            for path in folder.glob(pattern):
                path.unlink()
        write_json(folder / 'config.json', run_config(knobs))
    write_file(folder / 'vocab.txt', vocabulary)
    optimizer = inner_optimizer(model)
    if isinstance(optimizer, AdamW):
        for name, variable in named_weights(model).items():
            if name.endswith('/embeddings/word_embeddings'):
                optimizer.train_rows(variable, train_data.vocabulary())
    model.optimizer.build(model.trainable_variables)    # by itself it would do so in the first step, traced twice then
    monitor = Monitor(knobs, model, train_data, dev_data, score, steps)
    if state:
        monitor.go_on(state)
    if 0 < monitor.step < monitor.steps:        # the rest of an epoch
        monitor.fit(monitor.epoch + 1)
    elif monitor.step:                          # stopped while dev was predicted
        monitor.set_model(model)
        monitor.on_epoch_begin(monitor.epoch)
        monitor.on_epoch_end(monitor.epoch, {'loss': state['loss']})
    if monitor.epoch < knobs.epochs:
        monitor.fit(knobs.epochs)
    monitor.end()
    step = model.train_tf_function      # None where the step is not compiled, or there was none
    if step and (traces := step.experimental_get_tracing_count()) > 1:
        print(f'Note: the training step was traced {traces} times instead of once: something in it depends on the '
              'shape or the Python value of its inputs.')


class Monitor(keras.callbacks.Callback):
    """Scores every epoch on dev, keeps the best, shows progress and writes what a run leaves behind, with the state
    from which a killed one goes on."""

    def __init__(self, knobs, model, train_data, dev_data, score, steps):
        super().__init__()
        self.set_model(model)
        self.knobs, self.train_data, self.dev_data, self.score = knobs, train_data, dev_data, score
        self.folder, self.steps, self.epochs, self.best = run_folder(knobs), steps, [], None
        self.epoch = self.step = 0      # what was done: epochs, and steps of the next one
        self.saved_epoch = 0            # those of the state
        self.variables, self.data = resume.variables(model), resume.fingerprint(train_data, dev_data)
        self.saved, self.saving, self.pause = time.monotonic(), 0.0, knobs.save_every

    def go_on(self, state):
        """Where a run left off that was stopped or killed."""
        if state['data'] != self.data:
            raise UserError(f'{self.folder} holds an unfinished run on other data. Start over with --fresh.')
        self.epoch, self.step, self.epochs = (state[name] for name in ('epoch', 'step', 'epochs'))
        self.saved_epoch, self.best = self.epoch, resume.best_row(self.epochs) if self.epochs else None
        if self.epoch < self.knobs.epochs:
            resume.restore(self.folder / resume.STATE, self.variables)
            self.means = [variable.numpy() for metric in self.model.metrics for variable in metric.variables]
        self.knobs.lengths = self.train_data.fewest_lengths([rows for rows, _ in self.train_data.steps(self.knobs, 0)])
        print(f'The run in {self.folder}/ goes on after {self.epoch} epochs and {self.step} steps.')

    def save(self, **about):
        if resumable():
            began = time.monotonic()
            about |= {'epoch': self.epoch, 'step': self.step, 'data': self.data,
                      'epochs': [row for row in self.epochs if row['epoch'] <= self.epoch]}
            if resume.save(self.folder, about, self.variables if self.epoch < self.knobs.epochs else {}):
                resume.Stop.again = f'the same command{" with --no-fresh behind it" * self.knobs.fresh} goes on'
                self.saved_epoch = self.epoch
                if self.best and self.best['epoch'] <= self.epoch:
                    (self.folder / resume.EARLIER).unlink(missing_ok=True)
            self.saved = time.monotonic()
            self.saving += self.saved - began
            self.pause = self.knobs.save_every and max(self.knobs.save_every, 50 * (self.saved - began))

    def fit(self, epochs):
        batches = self.train_data.training_batches(self.knobs, self.epoch, self.step)
        try:
            self.model.fit(batches, steps_per_epoch=self.steps - self.step, initial_epoch=self.epoch, epochs=epochs,
                           verbose=0, callbacks=[self])
        except tf.errors.ResourceExhaustedError as error:
            length = max(self.train_data.lengths[rows].max() for rows in self.rows(self.step, self.step + 1)
                         ) if self.step < self.steps else self.train_data.maxlen
            raise UserError(f'{self.where()}: out of memory with {self.knobs.batch_size} examples of {length} tokens. '
                            'Lower --batch-size (with --grad-accumulation for the same updates) or --maxlen.'
                            ) from error

    def where(self):
        return f'epoch {self.epoch + 1}, step {self.step} of {self.steps}'

    def rows(self, first, last):
        """The rows of these steps of the epoch under way."""
        return [rows for rows, _ in itertools.islice(self.train_data.steps(self.knobs, self.epoch), first, last)]

    def on_epoch_begin(self, epoch, logs=None):
        self.resumed_at, self.started, self.waited = self.step, time.time(), self.train_data.waited
        self.saving = 0.0
        if self.resumed_at:          # the mean loss of the epoch so far
            for variable, mean in zip([one for metric in self.model.metrics for one in metric.variables], self.means,
                                      strict=True):
                variable.assign(mean)
        self.bar = progress(self.steps, f'epoch {epoch + 1}/{self.knobs.epochs}', 'steps', self.step)
        resume.Stop.gently = True

    def on_train_batch_end(self, batch, logs=None):
        before, self.step = self.step, self.resumed_at + batch + 1
        self.bar.update(self.step - before)
        if not np.isfinite(logs['loss']):
            rows = [self.train_data.examples[i] for i in np.unique(self.rows(before, self.step))]
            lines = ', '.join(str(example.line) for example in sorted(rows, key=lambda example: example.line))
            kept = f' The state of an earlier step is kept in {self.folder}/.' if \
                (self.folder / resume.STATE).is_file() else ''
            rate = float(self.model.optimizer.learning_rate)
            raise Diverged(f'{self.where()}, learning rate {rate:g}: the loss is {logs["loss"]}. Its rows: '
                           f'{rows[0].file}, lines {lines}. Lower --learning-rate, or mend the data, and start '
                           f'over with --fresh.{kept}')
        stop = resume.Stop.number
        if stop or time.monotonic() - self.saved >= self.pause:
            self.save(loss=logs['loss'])
        if stop:
            raise resume.Stopped(stop)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        if isinstance(inner_optimizer(self.model), AdamW):
            inner_optimizer(self.model).decay_other_rows(self.model.trainable_variables)
        self.step, trained = self.steps, time.time()
        try:
            resume.Stop.gently = False
            if resume.Stop.number:
                raise resume.Stopped(resume.Stop.number)
            logits = predict(self.knobs, self.model, self.dev_data)
        except resume.Stopped:
            self.save(loss=logs['loss'])
            raise
        resume.Stop.gently = True       # all the files of an epoch, or what the saved state needs
        self.end_epoch(epoch, logs, logits, trained)
        self.epoch, self.step, stop = epoch + 1, 0, resume.Stop.number
        if stop or time.monotonic() - self.saved >= self.pause:
            self.save()
        if stop:
            raise resume.Stopped(stop)

    def end_epoch(self, epoch, logs, logits, trained):
        if not np.isfinite(logits).all():
            raise Diverged(f'epoch {epoch + 1}: the outputs on dev are not finite, the training has diverged. Lower '
                           f'--learning-rate (now {self.knobs.learning_rate:g}).')
        metrics = {name: float(value) for name, value in self.score(logits, self.dev_data.examples).items()}
        mean = sum(metrics.values()) / len(metrics)
        row = {'epoch': epoch + 1, 'loss': logs['loss'], **metrics, 'score': mean,
               'train_seconds': trained - self.started, 'dev_seconds': time.time() - trained,
               'wait_seconds': self.train_data.waited - self.waited,        # for batches, while training
               'save_seconds': self.saving, 'examples_per_second':
                   len(self.train_data) * (1 - self.resumed_at / self.steps) / (trained - self.started),
               'same_answer': same_answer(self.knobs, logits, self.dev_data.labels)}
        self.epochs.append(row)
        before, self.best = self.best, resume.best_row(self.epochs)
        if self.best is row:
            path = self.folder / resume.WEIGHTS
            if before and before['epoch'] <= self.saved_epoch:      # the state, until there is a new one, needs them
                path.replace(self.folder / resume.EARLIER)
            weights = {name: v.numpy() for name, v in named_weights(self.model).items()}
            write_file(path, safetensors.numpy.save(weights, {'epoch': str(epoch + 1)}))
            write_mistakes(self.folder / 'dev_predictions.tsv', self.knobs, logits, self.dev_data)
        write_json(self.folder / 'metrics.json', {'finished': False, 'best': self.best, 'last': row,
                                                  'epochs': self.epochs})
        table = io.StringIO()
        writer = csv.DictWriter(table, row, lineterminator='\n')
        writer.writeheader()
        writer.writerows(self.epochs)
        write_file(self.folder / 'metrics.csv', table.getvalue())
        plot(self.folder / 'curve.png', self.knobs, self.epochs, list(metrics))
        left = int((self.knobs.epochs - epoch - 1) * (time.time() - self.started))     # seconds
        print(f'epoch {epoch + 1}/{self.knobs.epochs}  loss {row["loss"]:.4f}  {show(row)}  '
              f'best {show_value(self.best["score"])} (epoch {self.best["epoch"]})  '
              f'{row["examples_per_second"]:.0f} examples/s  {left // 60}:{left % 60:02} left', flush=True)

    def end(self):
        """The weights of the best epoch, and the two scores."""
        resume.Stop.gently = False
        self.save()
        if resume.Stop.number:
            raise resume.Stopped(resume.Stop.number)
        resume.restore(self.folder / resume.WEIGHTS, named_weights(self.model))
        self.report()

    def report(self):
        last = self.epochs[-1]
        print(f'dev, best epoch {self.best["epoch"]}: {show(self.best)}\n'
              f'dev, last epoch {last["epoch"]}: {show(last)}')
        for which, row in (('best', self.best), ('last', last)):
            if row['same_answer']:
                print(f'Note: the {which} epoch gives every dev example the same answer, {row["same_answer"]}: nothing '
                      'was learned. Try another --seed, a lower --learning-rate or more --epochs.')


def same_answer(knobs, logits, labels):
    """The answer that all examples get, in words, or '' where there is more than one."""
    if logits.shape[1] == 1:
        return f'{logits[0, 0]:.3f}' if np.ptp(logits) < 1e-3 else ''
    answers = logits.argmax(-1)
    if np.ptp(answers):
        return ''
    counts = np.bincount(labels, minlength=logits.shape[1])
    which = 'the majority class' if counts[answers[0]] == counts.max() else 'not even the majority class'
    return f'{knobs.labels[answers[0]]} ({which}, {100 * counts[answers[0]] / len(labels):.1f} % of dev)'


def write_mistakes(path, knobs, logits, data):
    """Dev predictions as TSV, the worst mistakes first: by cross-entropy, or by distance for scores."""
    if logits.shape[1] == 1:
        answers, gold = [f'{x:.3f}' for x in logits[:, 0]], [f'{y:g}' for y in data.labels]
        loss = np.abs(logits[:, 0] - data.labels)
    else:
        answers, gold = [knobs.labels[i] for i in logits.argmax(-1)], [knobs.labels[i] for i in data.labels]
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        loss = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(logits)), data.labels]
    rows = [{'loss': f'{loss[i]:.4f}', 'label': gold[i], 'prediction': answers[i], 'file': Path(example.file).name,
             'line': example.line, 'text_a': example.text_a, 'text_b': example.text_b or ''}
            for i in np.argsort(-loss, kind='stable') for example in [data.examples[i]]]
    lines = ['\t'.join(rows[0])] + ['\t'.join(map(str, row.values())) for row in rows]
    write_file(path, '\n'.join(lines) + '\n')


def write_answers(knobs, name, examples, answers):
    """A file for the leaderboard in results/, and beside the run's other files: index<TAB>prediction, one row a test
    row in the file's order. `answers`: label strings, or numbers already formatted."""
    rows = [f'{example.index}\t{answer}' for example, answer in zip(examples, answers, strict=True)]
    text = '\n'.join(['index\tprediction', *rows]) + '\n'
    write_file(run_folder(knobs) / name, text)
    flush(run_folder(knobs) / name)
    write_result(knobs, name, text)


# ---- What a run leaves behind ---------------------------------------------------------------------------------------


def load_run(knobs, model):
    """Fill `model` from the run folder --init: the encoder always, the new layers where it is the same task."""
    run = Checkpoint(knobs.init)
    weights = named_weights(model)
    # The labels' names alone do not do: '0' and '1' mean something else in every task.
    same = run.task == knobs.task and run.knobs.get('labels') == list(knobs.labels)
    vocabularies = [(checkpoint.folder / 'vocab.txt').read_bytes()
                    for checkpoint in (run, open_model(knobs.model, knobs.model_dir))]
    if vocabularies[0] != vocabularies[1]:
        raise UserError(f'--init {knobs.init}: its vocabulary is not that of --model {knobs.model}.')
    encoder = {name: v for name, v in weights.items() if name.startswith(('bert/', 'electra/'))}
    load_variables(run, weights if same else encoder)
    print(f'start from {knobs.init}' + ('' if same else ', with a new output layer: its task or labels are others'))


def plot(path, knobs, epochs, names):
    """The learning curve: training loss and dev metrics by epoch."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, left = pyplot.subplots(figsize=(6, 4))
    x = [row['epoch'] for row in epochs]
    left.plot(x, [row['loss'] for row in epochs], 'k--', marker='.', label='training loss')
    left.set(xlabel='epoch', ylabel='loss', title=f'{knobs.task}, {Path(knobs.model).name}, seed {knobs.seed}')
    left.xaxis.get_major_locator().set_params(integer=True)
    right = left.twinx()
    for name in names:
        right.plot(x, [100 * row[name] for row in epochs], marker='o', label=f'dev {name}')
    right.set_ylabel('dev score')
    figure.legend(loc='lower center', ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format='png')
    pyplot.close(figure)
    write_file(path, png.getvalue())
