"""A run from the command line: what is asked for, whether it is there already, what is said before and after it."""

import contextlib
import dataclasses
import inspect
import io
import re
import sys
import tempfile

import config
from engine.arguments import parse_args
from engine.backend import keras, tf
from engine.catalog.models import MODELS
from engine.devices import describe, distribution, resolve_precision
from engine.files import UserError, exit_status
from engine.model.checkpoints import open_model
from engine.runs.folder import mark_finished, release_locks
from engine.runs.layout import STATE, run_folder
from engine.runs.status import Status, print_finished, run_status
from engine.training import signals


def launch(main, knobs, description):
    """Run a script's main(knobs) from the command line. Exit status: 0 done, 2 bad input, 3 diverged, 129, 130, 143
    stopped by SIGHUP, Ctrl-C, SIGTERM, 141 with nobody to read the output."""
    try:
        with signals.handle_signals():
            status = exit_status(start, main, knobs, description)
    except signals.Stopped as stopped:
        with contextlib.suppress(OSError):      # the terminal may be closed
            print('interrupted: nothing was trained yet', file=sys.stderr)
        status = 128 + stopped.number
    if status:
        raise SystemExit(status)


def start(main, knobs, description):
    """The run that the command line asks for, unless it is there already. Returns the exit status."""
    sys.stdout.reconfigure(line_buffering=True)
    script = inspect.getsourcefile(main)
    given = parse_args(knobs, f'{config.Knobs(script=script).task}.py', description)
    knobs = resolve_knobs(knobs, script, given)
    folder = run_folder(knobs)
    if run_status(knobs) == Status.FINISHED:        # on each of several machines, before one waits for another
        print_finished(knobs)
        return 0
    try:
        with contextlib.ExitStack() as stack:
            strategy, first = distribution(knobs)
            if not first:       # its files are the first one's, and go nowhere
                scratch = stack.enter_context(tempfile.TemporaryDirectory())
                knobs = dataclasses.replace(knobs, runs_dir=scratch, results_dir=scratch)
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(strategy.scope())
            stack.callback(release_locks)
            run_script(main, knobs)
    except signals.Stopped as stopped:
        with contextlib.suppress(OSError):      # the terminal may be closed
            print(f'interrupted: {resume_hint(knobs, folder)}', file=sys.stderr)
        return 128 + stopped.number
    return 0


def resolve_knobs(knobs, script, given, recipe=None):
    """A script's knobs with every value settled: `given` (the command line), the script's, the recipe's (by default
    that of the model), and the device's. `script`: the path of its file. Raises UserError."""
    model = given.get('model', knobs.model)
    if recipe is None and model in knobs.new_models:
        recipe = knobs.new_models[model]
    elif recipe is None and model in MODELS:
        recipe = MODELS[model].recipe
    elif recipe is None:
        recipe = open_model(model, given.get('model_dir', knobs.model_dir)).recipe
    knobs = knobs.resolve(script, recipe, given)
    if not re.fullmatch(r'[\w.-]*', knobs.name):
        raise UserError(f'--name {knobs.name}: only letters, digits, ".", "-" and "_" can be part of a name.')
    return dataclasses.replace(knobs, precision=resolve_precision(knobs.precision))


def resume_hint(knobs, folder):
    if not (folder / STATE).is_file():
        return 'nothing was trained yet'
    return 'the same command with --no-fresh behind it goes on' if knobs.fresh else 'the same command goes on'


def run_script(main, knobs):
    """main(knobs), with what is said before and after it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said) if knobs.quiet else contextlib.nullcontext():
        length = f'{knobs.updates} updates' if knobs.updates else f'{knobs.epochs} epochs'
        print(f'{knobs.task}: {knobs.model} with the {knobs.recipe} recipe, seed {knobs.seed}, learning rate '
              f'{knobs.learning_rate:g}, batch size {knobs.batch_size * knobs.grad_accumulation}, maxlen '
              f'{knobs.maxlen}, {length}')
        print(describe(knobs))
        if knobs.demo:
            print('Demo: made-up data. Its scores mean nothing on the leaderboard.')
        keras.utils.set_random_seed(knobs.seed)
        if knobs.deterministic:
            tf.config.experimental.enable_op_determinism()
        try:
            main(knobs)
        except tf.errors.ResourceExhaustedError as error:       # other than in a step or a prediction
            raise UserError(f'out of memory with {knobs.model} itself. Take a smaller --model.') from error
    mark_finished(run_folder(knobs))
    if knobs.quiet:
        kept = [line for line in said.getvalue().splitlines() if line.startswith(('dev, ', 'test, ', 'Note:'))]
        print(*kept, sep='\n')
    print(f'Everything else about this run: {run_folder(knobs)}/')
