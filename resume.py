"""A run that is stopped or killed goes on: its state in a file, the signals that stop it, the lock on its folder."""

import contextlib
import hashlib
import json
import signal
import threading

from checkpoints import quiet
from files import UserError, flush, whole

with quiet():
    import tensorflow as tf

import filelock
import numpy as np
import safetensors
import safetensors.numpy

STATE, WEIGHTS = 'state.safetensors', 'model.safetensors'     # of the run under way, of its best epoch

# ---- The state ------------------------------------------------------------------------------------------------------


def variables(model):
    """Every variable that training changes: weights, the optimizer's, the states of dropout, the metrics'.

    To be called between building the optimizer and the first step: their order is then decided by the code alone.
    """
    model.compiled_loss.build(model.output)     # which makes its metric, the mean loss of the epoch
    strategy, found = tf.distribute.get_strategy(), {}
    for owner in (model, *model.metrics):
        for one in tf.train.TrackableView(owner).descendants():
            for part in strategy.experimental_local_results(one) if isinstance(one, tf.Variable) else ():
                found[id(part.handle)] = part
    return list(found.values())


def fingerprint(*data):
    """A hash of what the model will see: token ids, their order, labels."""
    found = hashlib.sha256()
    for tokens in data:
        for values in (tokens.ids, tokens.starts, tokens.counts, tokens.labels):
            found.update(values.tobytes())
    return found.hexdigest()


def save(folder, about, variables):
    """Write the state: `about`, for json, and the values. An earlier one stays until this one is whole, and where this
    one would not be finite: the next loss will not be, either."""
    tensors = {f'{i:05}': np.asarray(variable.numpy()) for i, variable in enumerate(variables)}
    if not all(np.isfinite(value).all() for value in tensors.values()):
        return
    path = folder / STATE
    with whole(path) as beside:
        try:
            safetensors.numpy.save_file(tensors, beside, {'about': json.dumps(about)})
        except safetensors.SafetensorError as error:        # its way to tell that the disk is full
            raise OSError(str(error)) from error
        flush(beside)
        flush(folder / WEIGHTS)


def read(folder, epochs, steps):
    """What save() was told about the state in this folder of a run of so many epochs and steps in each; with 'best',
    the row of the best epoch, from the file of its weights. None where there is no state."""
    path = folder / STATE
    if not path.is_file():
        return None
    about = metadata(path, 'about')
    try:
        rows, step = about['epochs'], about['step']
        sound = [row['epoch'] for row in rows] == list(range(1, about['epoch'] + 1)) and about['epoch'] <= epochs and \
            isinstance(step, int) and (0 <= step < steps or step == steps and isinstance(about['loss'], float))
        about['best'] = best = metadata(folder / WEIGHTS, 'best') if rows else None
        for row in [*rows, best] if rows else ():
            sound &= row.keys() == best.keys() >= {'epoch', 'loss', 'score', 'same_answer'} and all(
                isinstance(value, str if name == 'same_answer' else (int, float)) for name, value in row.items())
    except (TypeError, KeyError, AttributeError) as error:
        raise damaged(path, error) from error
    if not sound:
        raise damaged(path, 'it is not of this run')
    return about


def metadata(path, name):
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            return json.loads(file.metadata()[name])
    except (OSError, safetensors.SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def restore(folder, variables):
    """Give the variables the values that save() was given."""
    path = folder / STATE
    try:
        tensors = safetensors.numpy.load_file(path)
        values = [tensors[f'{i:05}'] for i in range(len(tensors))]
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise damaged(path, error) from error
    if [(value.shape, value.dtype) for value in values] != [
            (variable.shape, variable.dtype.as_numpy_dtype) for variable in variables]:
        raise damaged(path, 'its variables are not those of this model')
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def damaged(path, error):
    return UserError(f'{path}: of an unfinished run, but not to be used ({error}). Start over with --fresh.')


# ---- Signals, and one run in a folder --------------------------------------------------------------------------------


class Stopped(BaseException):
    """SIGTERM or Ctrl-C."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


class Stop:
    """Whether the run has been told to stop. In a training step (`gently`) it waits for the step's end."""
    number, gently = None, False
    locks = contextlib.ExitStack()      # what lock() holds, until the run ends


@contextlib.contextmanager
def guarded():
    """A run: SIGTERM and Ctrl-C become Stopped, at once or after the training step (a second one at once)."""
    def handle(number, frame):
        if Stop.gently and Stop.number is None:
            Stop.number = number
        else:
            raise Stopped(number)

    Stop.number, Stop.gently = None, False
    main, before = threading.current_thread() is threading.main_thread(), {}
    try:
        with contextlib.ExitStack() as Stop.locks:
            if main:
                before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
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
