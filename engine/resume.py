"""A run that is stopped or killed goes on: its state in a file, the signals that stop it, the lock on its folder."""

import contextlib
import hashlib
import json
import math
import signal
import threading

from engine.checkpoints import quiet
from engine.files import UserError, flush, whole

with quiet():
    import tensorflow as tf

import filelock
import numpy as np
import safetensors
import safetensors.numpy

STATE, WEIGHTS = 'state.safetensors', 'model.safetensors'     # of the run under way, of its best epoch
EARLIER = 'earlier.safetensors'     # the weights of the epoch that was the best when the state was saved

# ---- The state ------------------------------------------------------------------------------------------------------


def variables(model):
    """Every variable that training changes, {number: variable}: weights, the optimizer's, the states of dropout, the
    metrics'.

    To be called between building the optimizer and the first step: their order is then decided by the code alone.
    """
    model.compiled_loss.build(model.output)     # which makes its metric, the mean loss of the epoch
    strategy, found = tf.distribute.get_strategy(), {}
    for owner in (model, *model.metrics):
        for one in tf.train.TrackableView(owner).descendants():
            for part in strategy.experimental_local_results(one) if isinstance(one, tf.Variable) else ():
                found[id(part.handle)] = part
    return {f'{i:05}': variable for i, variable in enumerate(found.values())}


def fingerprint(*data):
    """A hash of what the model will see: token ids, their order, labels."""
    found = hashlib.sha256()
    for tokens in data:
        for values in (tokens.ids, tokens.starts, tokens.counts, tokens.labels):
            found.update(values.tobytes())
    return found.hexdigest()


def save(folder, about, variables):
    """Write the state: `about`, for json, and the values. An earlier one stays until this one is whole, and where this
    one would not be finite, as the next loss will not be, either. Returns whether it was written."""
    tensors = {name: np.asarray(variable.numpy()) for name, variable in variables.items()}
    if not all(np.isfinite(value).all() for value in tensors.values()):
        return False
    path = folder / STATE
    with whole(path) as beside:
        try:
            safetensors.numpy.save_file(tensors, beside, {'about': json.dumps(about)})
        except safetensors.SafetensorError as error:        # its way to tell that the disk is full
            raise OSError(str(error)) from error
        for one in (beside, folder / 'config.json', folder / WEIGHTS):
            flush(one)
    return True


def read(folder, epochs, steps):
    """What save() was told about the state in this folder, of a run of so many epochs and steps in each. Puts the
    weights that were the best then in their place."""
    path = folder / STATE
    try:
        about = json.loads(metadata(path)['about'])
        rows, step = about['epochs'], about['step']
        sound = [row['epoch'] for row in rows] == list(range(1, about['epoch'] + 1)) and about['epoch'] <= epochs and \
            isinstance(step, int) and (0 <= step < steps or step == steps and isinstance(about['loss'], float))
        for row in rows:
            sound &= row.keys() == rows[0].keys() >= {'epoch', 'loss', 'score', 'same_answer'} and all(
                isinstance(value, str if name == 'same_answer' else (int, float)) for name, value in row.items())
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not sound:
        raise damaged(path, 'it is not of this run')
    if rows:
        for name in (WEIGHTS, EARLIER):
            with contextlib.suppress(UserError):
                if metadata(folder / name).get('epoch') == str(best_row(rows)['epoch']):
                    (folder / name).replace(folder / WEIGHTS)
                    break
        else:
            raise damaged(folder / WEIGHTS, 'not the weights of the best epoch')
    (folder / EARLIER).unlink(missing_ok=True)
    return about


def metadata(path):
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise damaged(path, error) from error


def best_row(rows):
    """Of the epochs' rows that with the highest score, the first of several; nan is lower than any other."""
    return max(rows, key=lambda row: -math.inf if math.isnan(row['score']) else row['score'])


def restore(path, variables):
    """Give the variables, {name: variable}, the values in this file."""
    try:
        values = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise damaged(path, error) from error
    if {name: (value.shape, value.dtype) for name, value in values.items()} != {
            name: (variable.shape, variable.dtype.as_numpy_dtype) for name, variable in variables.items()}:
        raise damaged(path, 'its variables are not those of this model')
    for name, variable in variables.items():
        variable.assign(values[name])


def damaged(path, error):
    return UserError(f'{path}: of an unfinished run, but not to be used ({error}). Start over with --fresh.')


# ---- Signals, and one run in a folder --------------------------------------------------------------------------------


# Ctrl-C, a machine that is taken away, a terminal that is closed (which Windows has not).
SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, 'SIGHUP') else [])]


class Stopped(BaseException):
    """One of SIGNALS has come."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


class Stop:
    """Whether the run has been told to stop. In a training step (`gently`) it waits for the step's end."""
    number, gently, again = None, False, ''      # `again`: how to go on
    locks = contextlib.ExitStack()      # what lock() holds, until the run ends


@contextlib.contextmanager
def guarded():
    """A run: these signals become Stopped, at once or after the training step (a second one at once)."""
    def handle(number, frame):
        if Stop.gently and Stop.number is None:
            Stop.number = number
        else:
            raise Stopped(number)

    Stop.number, Stop.gently, Stop.again = None, False, 'nothing was trained yet'
    main, before = threading.current_thread() is threading.main_thread(), {}
    try:
        with contextlib.ExitStack() as Stop.locks:
            if main:
                before = {number: signal.signal(number, handle) for number in SIGNALS
                          if number in SIGNALS[:2] or signal.getsignal(number) != signal.SIG_IGN}       # by nohup
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lock(folder):
    """Keep other runs out of this folder, until this one ends in whatever way."""
    try:
        Stop.locks.enter_context(filelock.FileLock(folder.with_name(f'.{folder.name}.lock'), timeout=0))
    except filelock.Timeout:
        raise UserError(f'{folder}: another run is at work in this folder. Wait for it, or choose another --seed or '
                        '--runs-dir.') from None
