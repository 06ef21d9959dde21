"""The state of a run under way, in one file, from which it goes on: every variable that training changes, and where it
is. Written about once a minute."""

import contextlib
import json
import time

import numpy as np
import safetensors
import safetensors.numpy

from engine.backend import tf
from engine.devices import several_machines
from engine.files import UserError, atomic_write, fsync, write_file
from engine.runs.layout import PREVIOUS_WEIGHTS, STATE, WEIGHTS, run_folder
from engine.runs.metrics import best_epoch

CALLBACK_PREFIX = 'callback-'      # begins the names of callbacks' variables in the state


class Progress:
    """Where a run is.

    step: the training steps done. rows: what metrics.json has of the legs that were scored. Of the leg under way, or
    trained and not scored: loss, the mean so far, train_seconds and save_seconds.
    """

    def __init__(self, step=0, rows=(), loss=0.0, train_seconds=0.0):
        self.step, self.rows, self.loss, self.train_seconds = step, list(rows), loss, train_seconds
        self.save_seconds = 0.0

    def start_interval(self):
        self.loss = self.train_seconds = self.save_seconds = 0.0


class StateFile:
    """The state of one run on the disk: when it is saved, and what it says. Of several machines none has one: all would
    have to go on from the same step."""

    def __init__(self, knobs, model, callbacks, data):
        """data: a hash of what is trained on. The model's optimizer is built, no step is done."""
        self.folder, self.model, self.callbacks, self.data = run_folder(knobs), model, callbacks, data
        self.variables = training_variables(model, callbacks)
        self.every = self.pause = knobs.save_every
        self.last, self.best = time.monotonic(), None       # when it was saved, and the best update then
        self.enabled = not several_machines()

    def due(self):
        """Whether it is time to save: after --save-every seconds, or 50 times as long as saving takes."""
        return time.monotonic() - self.last >= self.pause

    def needs(self, update):
        """Whether the state on the disk goes on with the weights of this update as the best."""
        return self.best == update

    def save(self, progress, done=False):
        """Write the state. `done`: nothing is left to train, so the variables are not needed any more."""
        if not self.enabled:
            return
        began = time.monotonic()
        about = {'step': progress.step, 'rows': progress.rows, 'loss': progress.loss, 'done': done,
                 'train_seconds': progress.train_seconds, 'stopped': bool(self.model.stop_training), 'data': self.data,
                 'callbacks': callback_values(self.callbacks)}
        for name in ('config.json', WEIGHTS):       # which it refers to
            fsync(self.folder / name)
        if save_state(self.folder / STATE, about, {} if done else self.variables):
            self.best = best_epoch(progress.rows)['update'] if progress.rows else None
            (self.folder / PREVIOUS_WEIGHTS).unlink(missing_ok=True)
        self.last = time.monotonic()
        progress.save_seconds += self.last - began
        if self.every:
            self.pause = max(self.every, 50 * (self.last - began))

    def load(self, plan):
        """The Progress of the run that the file is of; gives the variables their values. Raises UserError."""
        path = self.folder / STATE
        about = read_state(path, plan)
        if about['data'] != self.data:
            raise UserError(f'{self.folder} holds an unfinished run on other data. Start over with --fresh.')
        if about['rows']:
            self.best = best_epoch(about['rows'])['update']
            restore_best_weights(self.folder, self.best)
        (self.folder / PREVIOUS_WEIGHTS).unlink(missing_ok=True)
        if not about['done']:
            restore(path, self.variables)
            try:
                set_callback_values(self.callbacks, about['callbacks'])
            except (TypeError, ValueError, AttributeError) as error:
                raise damaged_state(path, f'its callbacks are others: {error}') from error
        self.model.stop_training = about['stopped']
        return Progress(about['step'], about['rows'], about['loss'], about['train_seconds'])


# ---- What belongs to it ---------------------------------------------------------------------------------------------


def training_variables(model, callbacks):
    """Every variable that training changes, {number: variable}: weights, the optimizer's, the states of dropout, the
    metrics', and behind the mark CALLBACK those of the callbacks.

    To be called between building the optimizer and the first step: their order is then decided by the code alone.
    """
    model.compiled_loss.build(model.output)     # which makes its metric, the mean loss of the epoch
    own = [node for owner in (model, *model.metrics) for node in tf.train.TrackableView(owner).descendants()]
    others = [value for callback in callbacks for value in tf.nest.flatten(list(vars(callback).values()))]
    strategy, variables, known = tf.distribute.get_strategy(), {}, set()
    for mark, objects in (('', own), (CALLBACK_PREFIX, others)):
        for variable in (value for value in objects if isinstance(value, tf.Variable)):
            for part in strategy.experimental_local_results(variable):
                if id(part.handle) not in known:
                    known.add(id(part.handle))
                    variables[f'{mark}{len(known):05}'] = part
    return variables


def callback_values(callbacks):
    """What each callback holds in plain values: [{attribute: numbers, texts, lists and dictionaries of them}]."""
    return [{name: value for name, value in vars(callback).items() if name != 'params' and is_plain(value)}
            for callback in callbacks]


def is_plain(value):
    """Whether json keeps this value as it is."""
    if type(value) is list:
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(isinstance(key, str) and is_plain(part) for key, part in value.items())
    return type(value) in (bool, int, float, str, type(None))


def set_callback_values(callbacks, values):
    for callback, own in zip(callbacks, values, strict=True):
        vars(callback).update(own)


# ---- The file -------------------------------------------------------------------------------------------------------


def save_state(path, about, variables):
    """Write the state: `about`, for json, and the variables' values. An earlier one stays until this one is whole, and
    where the model's would not be finite, as the next loss will not be, either. Returns whether it was written."""
    tensors = {name: np.asarray(variable.numpy()) for name, variable in variables.items()}
    if not all(np.isfinite(value).all() for name, value in tensors.items() if not name.startswith(CALLBACK_PREFIX)):
        return False
    with atomic_write(path) as beside:
        try:
            safetensors.numpy.save_file(tensors, beside, {'about': json.dumps(about)})
        except safetensors.SafetensorError as error:        # its way to tell that the disk is full
            raise OSError(str(error)) from error
        fsync(beside)
    return True


def read_state(path, plan):
    """What save_state() was told about the run in this file. Raises UserError for what is no state of this plan."""
    try:
        about = json.loads(read_metadata(path)['about'])
        sound = is_sound(about, plan)
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise damaged_state(path, error) from error
    if not sound:
        raise damaged_state(path, 'it is not of this run')
    return about


def is_sound(about, plan):
    """Whether this can be what a run with this plan has saved. Raises exceptions of many types."""
    step, rows = about['step'], about['rows']
    kinds = {'step': int, 'loss': float, 'train_seconds': float, 'done': bool, 'stopped': bool, 'data': str}
    if not all(isinstance(about[name], kind) for name, kind in kinds.items()) or len(rows) > len(plan.interval_ends):
        return False
    if len(rows) < len(plan.interval_ends) and not plan.interval_start(len(rows)) <= step <= plan.interval_ends[len(rows)]:
        return False
    updates = [row['update'] for row in rows]
    if updates != sorted(set(updates)):
        return False
    for row in rows:
        if row.keys() != rows[0].keys() or not row.keys() >= {'epoch', 'update', 'loss', 'score', 'same_answer'}:
            return False
        for name, value in row.items():
            if not isinstance(value, str if name == 'same_answer' else int | float):
                return False
    return True


def read_metadata(path):
    """The {name: text} that a safetensors file says about itself. Raises UserError."""
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise damaged_state(path, error) from error


def restore(path, variables):
    """Give the variables, {name: variable}, the values in this file. Raises UserError."""
    try:
        values = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise damaged_state(path, error) from error
    in_file = {name: (value.shape, value.dtype) for name, value in values.items()}
    wanted = {name: (variable.shape, variable.dtype.as_numpy_dtype) for name, variable in variables.items()}
    if in_file != wanted:
        raise damaged_state(path, 'its variables are not those of this model')
    for name, variable in variables.items():
        variable.assign(values[name])


def damaged_state(path, error):
    return UserError(f'{path}: of an unfinished run, but not to be used ({error}). Start over with --fresh.')


# ---- The weights of the best epoch ----------------------------------------------------------------------------------


def keep_weights(folder, weights, update, state_needs_earlier):
    """Write the weights, {name: array}, of what is the best epoch now. Where the state on the disk was saved when
    another one was, that one's stay beside it."""
    path = folder / WEIGHTS
    if state_needs_earlier:
        path.replace(folder / PREVIOUS_WEIGHTS)
    write_file(path, safetensors.numpy.save(weights, {'update': str(update)}))


def restore_best_weights(folder, best_update):
    """Make model.safetensors the weights of this update again, those the state knows as the best: a run that was killed
    after a better epoch, before it saved its state, has them in the other file. Raises UserError."""
    for name in (WEIGHTS, PREVIOUS_WEIGHTS):
        with contextlib.suppress(UserError):
            if read_metadata(folder / name).get('update') == str(best_update):
                (folder / name).replace(folder / WEIGHTS)
                return
    raise damaged_state(folder / WEIGHTS, 'not the weights of the best epoch')
