"""A run from the command line: what is asked for, whether it is there already, where it is computed."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import config
from engine import resume
from engine.checkpoints import open_model, quiet
from engine.files import UserError, flush, read_json, run_folder, show, status_of, write_file, write_json

with quiet():
    import tensorflow as tf
    from bert4keras.backend import keras
    GPUS = tf.config.list_physical_devices('GPU')
    for gpu in GPUS:
        tf.config.experimental.set_memory_growth(gpu, True)     # two runs fit on one

# What the scripts are made of, in the order in which they import each other.
MODULES = ('config', 'engine/__init__', 'engine/files', 'engine/checkpoints', 'engine/progress', 'engine/resume',
           'engine/layers', 'engine/encoders', 'engine/optimizers', 'engine/tokens', 'engine/launch', 'snippets')


def launch(main, knobs, description):
    """Run a script's main(knobs) from the command line. Exit status: 0 done, 2 bad input, 3 diverged, 129, 130, 143
    stopped by SIGHUP, Ctrl-C, SIGTERM, 141 with nobody to read the output."""
    try:
        with resume.guarded():
            status = status_of(start, main, knobs, description)
    except resume.Stopped as stopped:
        with contextlib.suppress(OSError):      # the terminal may be closed
            print(f'interrupted: {resume.Stop.again}', file=sys.stderr)
        status = 128 + stopped.number
    if status:
        raise SystemExit(status)


def start(main, knobs, description):
    """The run that the command line asks for, unless it is there already."""
    sys.stdout.reconfigure(line_buffering=True)
    given = config.parse_args(knobs, description)
    model = given.get('model', knobs.model)
    recipe = config.MODELS[model].recipe if model in config.MODELS else open_model(model, knobs.model_dir).recipe
    knobs = for_device(knobs.for_recipe(recipe, given))
    if finished(knobs, run_folder(knobs)):
        return
    if unfinished(knobs, run_folder(knobs)):
        resume.Stop.again = 'the same command goes on'
    with contextlib.ExitStack() as stack:
        strategy, first = distribution(knobs)
        if not first:       # its files are the first one's, and go nowhere
            knobs.runs_dir = knobs.results_dir = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(strategy.scope())
        run(main, knobs, run_folder(knobs))


def run(main, knobs, folder):
    """main(knobs), with what is said before and after it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said) if knobs.quiet else contextlib.nullcontext():
        print(f'{knobs.task}: {knobs.model} with the {knobs.recipe} recipe, seed {knobs.seed}, learning rate '
              f'{knobs.learning_rate:g}, batch size {knobs.batch_size * knobs.grad_accumulation}, maxlen '
              f'{knobs.maxlen}, {knobs.epochs} epochs')
        print(device(knobs))
        if knobs.demo:
            print('Demo: made-up data. Its scores mean nothing on the leaderboard.')
        keras.utils.set_random_seed(knobs.seed)
        if knobs.deterministic:
            tf.config.experimental.enable_op_determinism()
        try:
            main(knobs)
        except tf.errors.ResourceExhaustedError as error:       # other than in a step or a prediction
            raise UserError(f'out of memory with {knobs.model} itself. Take a smaller --model.') from error
    write_json(folder / 'metrics.json', read_json(folder / 'metrics.json') | {'finished': True})
    for name in ('metrics.json', resume.WEIGHTS):
        flush(folder / name)
    (folder / resume.STATE).unlink(missing_ok=True)
    if knobs.quiet:
        print(*(line for line in said.getvalue().splitlines() if line.startswith(('dev, ', 'Note:'))), sep='\n')
    print(f'Everything else about this run: {folder}/')


# ---- Whether it is there already ------------------------------------------------------------------------------------


def finished(knobs, folder):
    """Whether this very run is there already, which is said. Raises UserError where another one would be overwritten,
    finished or not."""
    if knobs.fresh:
        return False
    now = json.loads(json.dumps(run_config(knobs)))
    try:
        metrics = read_json(folder / 'metrics.json') if (folder / 'metrics.json').is_file() else {'finished': False}
        done = metrics['finished']
        if not done and not (folder / resume.STATE).is_file():
            return False
        before = read_json(folder / 'config.json')
    except (UserError, LookupError) as error:
        raise UserError(f'{folder}: metrics.json or config.json is not what a run leaves behind ({error}). Start over '
                        'with --fresh.') from error
    try:
        # They change no number.
        free = ('fresh', 'runs_dir', 'results_dir', 'model_dir', 'cache_dir', 'cache', 'eval_batch_size', 'save_every',
                'quiet', 'steps_per_execution')
        changed = [f'{name}: {before["knobs"].get(name)} -> {value}' for name, value in now['knobs'].items()
                   if name not in free and before['knobs'].get(name) != value]
        changed += [f'{name} was edited' for name, value in now['source_sha256'].items()
                    if before['source_sha256'].get(name) != value]
        if not done:
            changed += [f'{name}: {before["versions"].get(name)} -> {version}' for name, version in
                        now['versions'].items() if before['versions'].get(name) != version]
        if changed:
            raise UserError(f'{folder} holds {"a finished" if done else "an unfinished"} run with other settings '
                            f'({"; ".join(changed)}). Overwrite it with --fresh, or keep it and choose another --seed '
                            'or --runs-dir.')
        if not done:
            return False
        best = metrics['best']
        print(f'This run is finished: dev {show(best)} (epoch {best["epoch"]}), {folder}/. --fresh runs it again.')
        for path in sorted(folder.glob('*.tsv')):
            if path.name != 'dev_predictions.tsv' and not (Path(knobs.results_dir) / path.name).exists():
                write_result(knobs, path.name, path.read_text())
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f'{folder}: metrics.json or config.json is not what a run leaves behind ({error}). Start over '
                        'with --fresh.') from error
    (folder / resume.STATE).unlink(missing_ok=True)
    return True


def run_config(knobs):
    """What decides the outcome: the knobs, the model, the code, the versions; not the content of the data."""
    checkpoint = open_model(knobs.model, knobs.model_dir)
    return {
        'task': knobs.task, 'recipe': knobs.recipe, 'knobs': dataclasses.asdict(knobs),
        'source_sha256': source_hashes(knobs.task),
        'versions': {'python': sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in (
            'tensorflow', 'tf-keras', 'bert4keras', 'numpy', 'scikit-learn', 'tokenizers')},
        'device': GPUS[0].name if GPUS else 'CPU', 'cores': os.cpu_count(),
        **checkpoint.config, 'model_type': checkpoint.family,
        'pooling': checkpoint.pooling if knobs.pooling == 'auto' else knobs.pooling,
    }


def source_hashes(task):
    """{file: sha256} of the code that makes a run of this script."""
    paths = [config.ROOT / f'{name}.py' for name in (task, *MODULES)]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def unfinished(knobs, folder):
    """Whether this run goes on from a state."""
    return resumable() and not knobs.fresh and (folder / resume.STATE).is_file()


def resumable():
    """Whether a run that is stopped can go on. Of several machines all would have to, from the same step."""
    return not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def write_result(knobs, name, text):
    path = Path(knobs.results_dir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)
    flush(path)
    print(f'{text.count(chr(10)) - 1} test predictions: {path}')


# ---- Where it is computed -------------------------------------------------------------------------------------------


def for_device(knobs):
    """These knobs with those settled that depend on the device: --precision and --jit."""
    if knobs.precision == 'auto':
        capability = min((tf.config.experimental.get_device_details(gpu).get('compute_capability', (0, 0))
                          for gpu in GPUS), default=(0, 0))
        knobs.precision = 'bfloat16' if capability >= (8, 0) else 'float16' if capability >= (7, 0) else 'float32'
    if knobs.jit is None and GPUS:
        knobs.jit = True
    return knobs


def distribution(knobs):
    """The tf.distribute strategy for --devices, and whether this process is the one that writes the run.

    Where it is `all`, TF_CONFIG may name several machines (tf.distribute's own format); the first of them writes.
    """
    if knobs.devices == 'one':
        return tf.distribute.get_strategy(), True
    try:
        setting = json.loads(os.environ.get('TF_CONFIG', '{}'))
        machines, task = setting.get('cluster', {}), setting.get('task', {})
    except (ValueError, AttributeError):
        raise UserError('TF_CONFIG: not what tf.distribute expects: {"cluster": {"worker": ["host:port", ...]}, '
                        '"task": {"type": "worker", "index": 0}}.') from None
    if knobs.grad_accumulation > 1:
        raise UserError('--grad-accumulation does not go with --devices all.')
    first = not machines or task.get('type') == 'chief' or 'chief' not in machines and task.get('index') == 0
    if machines:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        devices = tf.config.list_logical_devices('GPU') or tf.config.list_logical_devices('CPU')
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    if knobs.batch_size % strategy.num_replicas_in_sync:
        raise UserError(f'--batch-size {knobs.batch_size}: not divisible by {strategy.num_replicas_in_sync} devices.')
    return strategy, first


def device(knobs):
    """One line about where this runs."""
    if (count := tf.distribute.get_strategy().num_replicas_in_sync) > 1:
        return f'Data-parallel on {count} devices, {knobs.batch_size // count} examples of a batch on each.'
    if GPUS:
        names = [tf.config.experimental.get_device_details(gpu).get('device_name', gpu.name) for gpu in GPUS]
        more = f', the first of {len(names)}; --devices all trains on all of them' if names[1:] else ''
        return f'GPU: {names[0]}{more}, {knobs.precision}'
    hint = ' This machine has an NVIDIA GPU: give TensorFlow its CUDA libraries with `uv run --extra gpu`, or ' \
        "pip install 'tensorflow[and-cuda]==2.21.*'." if Path('/proc/driver/nvidia/version').exists() else ''
    return f'TensorFlow sees no GPU: running on the CPU, {os.cpu_count()} cores.{hint}'
