"""Does any damaged file get past the readers, as a traceback, a hang or a gigabyte of memory?

    uv run -m checks.fuzz                        # every kind of file, 1000 damaged ones of each
    uv run -m checks.fuzz tsv zip --count 5000 --seed 1

Takes an intact file of each kind, damages it at random (bytes, slices, numbers, values of json) and reads it as the
scripts do. It must be read, or refused by a UserError. Every kind has a process of its own, so that a crash is seen.
Exit status: 0 all fine, 1 not, 2 bad input.
"""

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

from engine.catalog.datasets import TASKS
from engine.console import markdown_row, markdown_table
from engine.files import UserError, write_json
from engine.runs.identity import configuration
from engine.runs.layout import METRICS, WEIGHTS, run_folder
from engine.runs.metrics import format_metrics
from engine.runs.status import Status, print_finished, run_status

SECONDS = 10            # for one file
GIB = 2**30
ODD = (None, True, -1, 0, 0.5, 10**12, 1e308, float('nan'), '', 'x', '../x', [], [1], {}, {'x': 1})
MARKS, NUMBERS = (b'\t', b'\n', b'\r\n', b'"', b'\xff\xfe', b'{'), (b'-1', b'99999999999999999999', b'0.5')

# ---- Damage ---------------------------------------------------------------------------------------------------------


# Of a generator and the bytes before, in and after a place.
DAMAGES = (
    lambda chance, before, part, after: before + bytes(byte ^ 1 << chance.randrange(8) for byte in part) + after,
    lambda chance, before, part, after: before + chance.randbytes(len(part)) + after,
    lambda chance, before, part, after: before + after,
    lambda chance, before, part, after: before + part + part + after,
    lambda chance, before, part, after: before + bytes(len(part)) + after,
    lambda chance, before, part, after: before + chance.choice(MARKS) + part + after,
    lambda chance, before, part, after: before,
    lambda chance, before, part, after: before + re.sub(rb'\d+', chance.choice(NUMBERS), part + after, count=1),
)


def damage(data, chance):
    """`data` (bytes) with one to three things wrong."""
    for _ in range(chance.randint(1, 3)):
        # Half of it near the beginning, where formats have their headers.
        last = min(len(data), 400) if chance.random() < 0.5 else len(data)
        start = chance.randrange(last) if data else 0
        end = start + chance.choice((1, 1, 2, 8, 100))
        data = chance.choice(DAMAGES)(chance, data[:start], data[start:end], data[end:])
    return data


def damage_json(data, chance):
    """A value of it replaced or gone; or as damage()."""
    if chance.random() < 0.3:
        return damage(data, chance)
    if chance.random() < 0.02:
        return b'[' * 100000
    content = json.loads(data)
    for _ in range(chance.randint(1, 2)):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.8:
                place = place[key]
                continue
            if chance.random() < 0.3:
                del place[key]
            else:
                place[key] = chance.choice(ODD)
            break
    return json.dumps(content).encode()


# ---- Kinds of files -------------------------------------------------------------------------------------------------
# Each gets an empty folder and gives (the file to damage, how it is read).


def tsv(folder, task):
    import config
    import snippets
    script = __import__(task)
    name = TASKS[task].folder
    shutil.copytree(config.ROOT / 'demo' / name, folder / 'data' / name)
    knobs = config.Knobs(labels=script.knobs.labels, data_dir=str(folder / 'data'))
    path = snippets.data_file(knobs, f'{name}/train.tsv')
    path.write_bytes(b'\n'.join(path.read_bytes().split(b'\n')[:50]) + b'\n')
    return path, lambda: script.load_data(knobs, 'train')


def model(folder, layout, file):
    import config
    from engine.backend import tf
    from engine.data.vocabulary import load_vocabulary
    from engine.model.checkpoints import Checkpoint, check_shapes, load_variables
    from lab.reference.random_model import SIZES, random_model
    from tools.convert import convert
    (folder / 'sizes.json').write_text(json.dumps(SIZES | {'max_position_embeddings': 64, 'layer_norm_eps': 1e-12}))
    source = random_model(folder / 'sizes.json', folder / 'google')
    if layout == 'Hugging Face':
        convert(str(source), folder / 'hugging', config.Knobs.model_dir)
        source = folder / 'hugging'
    intact = Checkpoint(source)
    shapes = {name: shape for name, shape in intact.shapes.items() if name.startswith('bert/') and 'pooler' not in name}
    variables = {name: tf.Variable(tf.zeros(shape)) for name, shape in shapes.items()}

    def read():
        checkpoint = Checkpoint(source)
        check_shapes(checkpoint)
        load_variables(checkpoint, variables)
        load_vocabulary.cache_clear()
        load_vocabulary(source, checkpoint.config['vocab_size']).tokenizer.encode('an apple, 12 pears')
    return next(source.glob(file)), read


def cache(folder):
    import numpy as np

    from engine.data.tokens import build_rows
    from engine.data.vocabulary import load_vocabulary
    from snippets import Example
    (folder / 'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', *'abcdefgh']) + '\n')
    vocabulary = load_vocabulary(folder, 12)
    examples = [Example('', i, i, 'a b c d'[:i % 8], None, 0) for i in range(200)]
    truth = build_rows(vocabulary, 16, examples).ids

    def read():
        assert np.array_equal(build_rows(vocabulary, 16, examples, cache=folder / 'cache').ids, truth)
    read()
    return next((folder / 'cache').iterdir()), read


def state(folder, file):
    import numpy as np
    import safetensors.numpy

    from engine.backend import tf
    from engine.runs.layout import STATE, WEIGHTS
    from engine.training.plan import Plan
    from engine.training.state import read_state, restore, restore_best_weights, save_state
    variables = {'00000': tf.Variable(tf.random.normal((20, 10))), '00001': tf.Variable(3, dtype=tf.int64)}
    row = {'epoch': 1, 'update': 10, 'loss': 0.5, 'mcc': 0.3, 'score': 0.3, 'same_answer': ''}
    save_state(folder / STATE, {'step': 12, 'rows': [row], 'loss': 0.5, 'train_seconds': 1.0, 'done': False,
                                'stopped': False, 'data': 'x', 'callbacks': []}, variables)
    safetensors.numpy.save_file({'x': np.ones(3, np.float32)}, folder / WEIGHTS, {'update': '10'})

    def read():
        rows = read_state(folder / STATE, Plan(10, (10, 20, 30)))['rows']
        assert all(format_metrics(row) for row in rows)
        restore(folder / STATE, variables)
        restore_best_weights(folder, rows[0]['update'])
        restore(folder / WEIGHTS, {'x': tf.Variable(tf.zeros(3))})
    return folder / file, read


def run(folder, file):
    import config
    from engine.cli import resolve_knobs
    given = {'labels': ('0', '1'), 'model': 'minilm', 'runs_dir': str(folder)}
    knobs = resolve_knobs(config.Knobs(), config.ROOT / 'CoLA.py', given)
    place = run_folder(knobs)
    place.mkdir(parents=True)
    row = {'epoch': 1, 'loss': 0.1, 'mcc': 0.2, 'score': 0.2, 'train_seconds': 1.0, 'same_answer': ''}
    write_json(place / 'config.json', configuration(knobs))
    write_json(place / METRICS, {'finished': True, 'best': row, 'last': row, 'epochs': [row]})
    (place / WEIGHTS).touch()

    def read():
        if run_status(knobs) == Status.FINISHED:
            print_finished(knobs)
    return place / file, read


def archive(folder):
    from tools import download
    path = folder / 'x.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for name in ('CoLA/train.tsv', 'CoLA/dev.tsv', 'CoLA/original/train.tsv'):
            file.writestr(name, 'a\tb\tc\n' * 200)

    def read():
        with tempfile.TemporaryDirectory() as target, refusals(download.Wrong):
            download.unpack(path, Path(target), 'train.tsv|dev.tsv')
    return path, read


def submission(folder):
    from tools import submission
    path, file = folder / 'RTE.tsv', submission.FILES['RTE.tsv']
    path.write_text(submission.constant(file))
    return path, lambda: submission.find_problems(path.read_bytes(), file)


@contextlib.contextmanager
def refusals(kind):
    try:
        yield
    except kind as error:
        raise UserError(str(error)) from error


KINDS = {
    'tsv': (functools.partial(tsv, task='CoLA'), damage), 'tsv-header': (functools.partial(tsv, task='RTE'), damage),
    'tsv-scores': (functools.partial(tsv, task='STSB'), damage),
    'vocabulary': (functools.partial(model, layout='Google', file='vocab.txt'), damage),
    'config': (functools.partial(model, layout='Google', file='*config.json'), damage_json),
    'hub-config': (functools.partial(model, layout='Hugging Face', file='config.json'), damage_json),
    'safetensors': (functools.partial(model, layout='Hugging Face', file='model.safetensors'), damage),
    'index': (functools.partial(model, layout='Google', file='*.index'), damage),
    'checkpoint': (functools.partial(model, layout='Google', file='*.data-*'), damage),
    'cache': (cache, damage), 'state': (functools.partial(state, file='state.safetensors'), damage),
    'best': (functools.partial(state, file='model.safetensors'), damage),
    'run-config': (functools.partial(run, file='config.json'), damage_json),
    'run-metrics': (functools.partial(run, file='metrics.json'), damage_json),
    'zip': (archive, damage), 'submission': (submission, damage),
}

# ---- The loop -------------------------------------------------------------------------------------------------------


def memory():
    """The largest so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def try_kind(kind, count, seed, sender):
    """Send (number, what happened, details) of every damaged file, and what it cost."""
    prepare, spoil = KINDS[kind]

    class Hang(BaseException):
        pass

    def hang(*_):
        raise Hang

    signal.signal(signal.SIGALRM, hang)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path, read = prepare(Path(folder))
        intact = path.read_bytes()
        read()
        for number in range(count):
            path.write_bytes(spoil(intact, random.Random(f'{seed} {kind} {number}')))
            sender.send((number, 'begun', ''))
            before, details = memory(), ''
            signal.alarm(SECONDS)
            try:
                read()
                happened = 'read'
            except UserError as error:
                happened = 'refused' if str(error) else 'no message'
            except Hang:
                happened = 'hang'
            except BaseException:
                happened, details = 'traceback', traceback.format_exc(limit=-4)
            signal.alarm(0)
            if memory() - before > GIB:
                happened = 'a gigabyte'
            sender.send((number, happened, details))
    sender.send((count, 'end', ''))


def watch(kind, count, seed):
    """{what happened: how often} of a kind, in a process of its own; and the first of what must not happen."""
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=try_kind, args=(kind, count, seed, sender))
    process.start()
    sender.close()
    counts, first, number, happened = {}, '', -1, 'begun'
    while happened != 'end':
        try:
            if not receiver.poll(120):
                process.kill()
                raise EOFError
            number, happened, details = receiver.recv()
        except EOFError:        # it has died
            happened, details = 'crash', f'exit status {process.exitcode}'
        if happened not in ('begun', 'end'):
            counts[happened] = counts.get(happened, 0) + 1
            if happened not in ('read', 'refused') and not first:
                first = f'{kind}, seed {seed}, number {number}: {happened}\n{details}'
        if happened == 'crash':
            break
    process.join()
    return counts, first


def main(argv=None):
    parser = argparse.ArgumentParser(prog='python -m checks.fuzz', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kinds', nargs='*', metavar='KIND', help=', '.join(KINDS))
    parser.add_argument('--count', type=int, default=1000, help='damaged files of every kind (%(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    given = parser.parse_args(argv)
    if unknown := set(given.kinds) - set(KINDS):
        parser.error(f'no such kind: {", ".join(sorted(unknown))}; choose from {", ".join(KINDS)}')
    print(markdown_table(['file', 'damaged', 'read', 'refused', 'tracebacks, crashes', 'hangs', 'a gigabyte',
                          'seconds']), end='')
    wrong = []
    for kind in given.kinds or KINDS:
        began = time.monotonic()
        counts, first = watch(kind, given.count, given.seed)
        bad = sum(counts.get(name, 0) for name in ('traceback', 'crash', 'no message'))
        print(markdown_row([kind, sum(counts.values()), counts.get('read', 0), counts.get('refused', 0), bad,
                            counts.get('hang', 0), counts.get('a gigabyte', 0), f'{time.monotonic() - began:.0f}']),
              flush=True)
        if first:
            wrong.append(first)
    for first in wrong:
        print(first, file=sys.stderr)
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
