"""Measure speed and memory of tokenization, training and evaluation, alone or beside transformers on the same machine.

    uv run -m checks.bench                                           # minilm on all tasks in datasets/
    uv run -m checks.bench CoLA RTE --model bert-base-uncased --precision bfloat16
    uv run -m checks.bench CoLA --peer PYTHON                        # an interpreter with torch and transformers
    uv run -m checks.bench documents/IMDB --truncation tail          # any script with the nine's sections
    uv run -m checks.bench documents/IMDB --truncation windows --maxlen 128 --length 512,5000 --batch-size 1
    uv run -m checks.bench --length 32,64,128 --random bert_config.json      # random weights of these sizes
    uv run -m checks.bench MNLI --steps 0 --json bench.json --markdown bench.md

Tasks come first; all options of their scripts work here too (--batch-size, --data-dir, --limit, ...). Each measurement
is a process of its own, so that its memory and its first step are those of a run. Training and evaluation are
train() and predict() as the scripts call them; only the epoch is shorter: --steps batches, evenly spaced
in the order of length, so that they cost what the epoch's batches cost on average. One step of every length goes ahead
and is not timed. --length: made-up texts of exactly these lengths instead of the task's own.

examples/s and tokens/s count no padding. first step, s: from the start of the process. peak GiB: of the process; on a
GPU of its memory. of the forward rate: predict() over the compiled forward pass on the same batches in memory.
utilisation: 3 s (2 N + 4 L s h) FLOP for a sequence of s tokens, padding included (N weights of the dense layers, L
layers of size h), over the rate of large matrix products on the same device in the same precision, just before and
after the training.

--peer: run_glue.py's training loop with the same weights, texts, batch size, dropout, clipping and schedule, random
batches padded to the longest example of each ('longest') or all to 128 ('max', its default). As machines are faster
now and slower then, ours and the peer's alternate --repeats times; a figure is the median of them, a ratio (ours over
the peer's) the median of the ratios within each alternation.

Exit status 0, 1 where a measurement failed, 2 for bad input.
"""

import dataclasses
import difflib
import itertools
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import config  # and nothing that imports TensorFlow: this process only waits
from config import knob
from engine.arguments import parse_args
from engine.catalog.datasets import TASKS
from engine.console import markdown_table, split_arguments
from engine.files import UserError, exit_status, write_file, write_json
from lab.scheduler import common_knobs_class, with_knobs

PRECISIONS = ('float32', 'bfloat16', 'float16')
PADS = ('longest', 'max')


@dataclasses.dataclass
class Options:
    """Two of the scripts' knobs with another default, and what only this tool has."""
    model: str = knob('minilm', 'a folder or a name, as in the scripts')
    precision: str = knob('float32,bfloat16', f'some of {", ".join(PRECISIONS)}')
    random: str = knob('', 'random weights for the sizes in this json configuration, in place of a model')
    length: str = knob('', 'made-up texts of these numbers of tokens, separated by commas, in place of tasks')
    steps: int = knob(60, 'steps of training that are timed; 0: the whole epoch', 0)
    repeats: int = knob(3, 'how often everything is measured', 1)
    peer: str = knob('', 'a Python that has torch and transformers, to be measured in alternation')
    peer_pad: str = knob('longest,max', 'how the peer pads')
    json: str = knob('', 'write everything into this file')
    markdown: str = knob('', 'write the tables into this file')


# ---- Processes ------------------------------------------------------------------------------------------------------


def run_child(command, request, folder, environment=()):
    """The answer of a process that is given two file names, or {'failed': its last lines}. Raises UserError."""
    paths = [str(folder / name) for name in ('request.json', 'answer.json')]
    Path(paths[0]).write_text(json.dumps(request | {'started': time.time()}))
    Path(paths[1]).unlink(missing_ok=True)
    began, used = time.time(), cpu_seconds()
    done = subprocess.run([*command, *paths], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, errors='replace', env=os.environ | dict(environment))
    if done.returncode == 2 and 'error: ' in done.stdout:
        raise UserError(done.stdout[done.stdout.rindex('error: ') + 7:].strip())
    if done.returncode or not Path(paths[1]).is_file():
        lines = '\n'.join(done.stdout.strip().splitlines()[-12:])
        return {'failed': f'exit status {done.returncode}: {lines}'}
    others = max(0.0, cpu_seconds() - used) / (time.time() - began) / os.cpu_count()
    return json.loads(Path(paths[1]).read_text()) | {'others': others}


def cpu_seconds():
    """CPU time that was used so far (or taken by a hypervisor), but for that of our own processes; 0 outside Linux."""
    path, own = Path('/proc/stat'), os.times()
    if not path.is_file():
        return 0.0
    times = [int(x) for x in path.read_text().split('\n', 1)[0].split()[1:9]]
    return (sum(times) - sum(times[3:5])) / os.sysconf('SC_CLK_TCK') - own.children_user - own.children_system


def ours(request, folder, module='lab.bench.tasks'):
    path = os.pathsep.join(filter(None, [str(config.ROOT), os.environ.get('PYTHONPATH')]))
    return run_child([sys.executable, '-m', module], request, folder, {'PYTHONPATH': path})


def peer(python, request, folder, program='bench.py'):
    return run_child([python, str(config.ROOT / 'lab' / 'peers' / program)], request, folder)


# ---- The measurements -----------------------------------------------------------------------------------------------


def measure(options, knobs, work, results):
    """Prepare, and add the measurements to `results`."""
    common = {'steps': options.steps, 'evaluation_examples': 50 * options.steps}       # 0: all
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ready = ours(common | {'work': work, 'knobs': knobs, 'random': options.random, 'folder': str(folder),
                               'peer': bool(options.peer)}, folder)
        if has_failed(ready, results):
            return

        def measure_one(item, precision, repeat, who):
            if who == 'ours':
                settings = knobs | {'model': ready['model'], 'precision': precision}
                return ours(common | item | {'knobs': settings}, folder)
            size = common
            if who == 'max':        # padded to 128, all steps cost the same, and so fewer do
                size = {name: -(-count // 4) for name, count in common.items()}
            return peer(options.peer, size | {'file': ready['peer'][item['name']], 'pad': who,
                                              'precision': precision, 'repeat': repeat}, folder)

        alternate(options, work, options.peer_pad, measure_one, results)


def has_failed(ready, results):
    """Whether the preparation failed; it is said and added to `results` then."""
    if 'failed' in ready:
        results.append({'name': 'preparation', 'precision': '', 'repeat': 0, 'who': 'ours'} | ready)
        print(f'preparation failed: {ready["failed"]}')
    return 'failed' in ready


def alternate(options, work, peers, measure_one, results):
    """Add to `results` one {'name', 'precision', 'repeat', 'who', figures...} after the other: ours and each of the
    peers in turn, --repeats times. measure_one: takes (one of the work, precision, repeat, who), returns figures."""
    for item, precision, repeat in itertools.product(work, options.precision, range(options.repeats)):
        for who in ('ours', *peers):
            answer = measure_one(item, precision, repeat, who)
            results.append({'name': item['name'], 'precision': precision, 'repeat': repeat, 'who': who} | answer)
            print(line(results[-1], options.repeats), flush=True)


def line(row, repeats):
    who = 'ours' if row['who'] == 'ours' else f'peer {row["who"]}'
    start = f'{row["name"]} {row["precision"]} {row["repeat"] + 1}/{repeats} {who}'
    if 'failed' in row:
        return f'{start}: failed, {row["failed"]}'
    used = f'utilisation {100 * row["utilisation"]:.0f} %, ' if 'utilisation' in row else ''
    evaluated = ''
    if 'evaluation_examples_per_second' in row:
        evaluated = f', evaluation {number(row["evaluation_examples_per_second"])} examples/s'
    return f'{start}: {number(row["examples_per_second"])} examples/s, {number(row["tokens_per_second"])} tokens/s, ' \
           f'{used}first step {row["first_step"]:.1f} s, peak {peak(row):.2f} GiB{evaluated}{warning(row)}'


def warning(row):
    """What makes a measurement doubtful: other programs that ran meanwhile."""
    return f'; other programs used {share(row["others"])} of the CPU' if row.get('others', 0) > 0.05 else ''


def peak(row):
    return row.get('gpu_peak_gib', row['peak_gib'])


# ---- Tables ---------------------------------------------------------------------------------------------------------


def median(results, figure, **where):
    """The median of a figure (a name or a function of a row) over the repeats; None where there is none."""
    rows = [row for row in results
            if 'failed' not in row and all(row[name] == value for name, value in where.items())]
    values = [figure(row) if callable(figure) else row[figure] for row in rows]
    return statistics.median(values) if values and None not in values else None


def ratio(results, figure, pad, **where):
    """Ours over the peer's: the median of the ratios within each alternation."""
    ratios = []
    for repeat in sorted({row['repeat'] for row in results}):
        own, other = (median(results, figure, who=who, repeat=repeat, **where) for who in ('ours', pad))
        if None not in (own, other):
            ratios.append(own / other)
    return statistics.median(ratios) if ratios else None


def number(value):
    """Three digits, or all that stand before the point."""
    if value is None:
        return ''
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def share(value):
    return '' if value is None else f'{100 * value:.1f} %'


TRAINING = [        # heading, figure, how it is written
    ('examples/s', 'examples_per_second', number), ('tokens/s', 'tokens_per_second', number),
    ('steps/s', 'steps_per_second', number), ('utilisation', 'utilisation', share), ('padding', 'padding', share),
    ('lengths', lambda row: len(row['lengths']), number), ('making batches', 'making_batches', share),
    ('traces', 'traces', number), ('first step, s', 'first_step', number), ('of fit', 'first_step_of_fit', number),
    ('peak GiB', peak, number)]
OTHER = [
    ('evaluation examples/s', 'evaluation_examples_per_second', number),
    ('tokens/s', 'evaluation_tokens_per_second', number),
    ('of the forward rate', 'evaluation_of_forward', share), ('dev padding', 'dev_padding', share),
    ('tokenization examples/s', 'tokenization_examples_per_second', number),
    ('tokens/s', 'tokenization_tokens_per_second', number)]
BOTH = [('training examples/s', 'examples_per_second'), ('training tokens/s', 'tokens_per_second'),
        ('evaluation examples/s', 'evaluation_examples_per_second'),
        ('tokenization examples/s', 'tokenization_examples_per_second'), ('peak GiB', peak)]


def tables(results, parts=(TRAINING, OTHER), both=BOTH, peers=PADS):
    """Our figures, in several tables (parts), and ours beside the peer's (both), as Markdown. peers: the names it goes
    by."""
    groups = list(dict.fromkeys((row['name'], row['precision']) for row in results if row['precision']))
    pads = [pad for pad in peers if any(row['who'] == pad for row in results)]
    texts = []
    for columns in parts:
        rows = []
        for name, precision in groups:
            where = {'name': name, 'precision': precision, 'who': 'ours'}
            rows.append([name, precision, *(show(median(results, figure, **where)) for _, figure, show in columns)])
        texts.append(markdown_table(['task', 'precision', *(heading for heading, _, _ in columns)], rows))
    if pads:
        head, rows = ['task', 'precision', '', 'ours'], []
        for pad in pads:
            head += [f'peer, {pad}', 'ratio']
        for (name, precision), (heading, figure) in itertools.product(groups, both):
            where = {'name': name, 'precision': precision}
            rows.append([name, precision, heading, number(median(results, figure, who='ours', **where))])
            for pad in pads:
                rows[-1] += [number(median(results, figure, who=pad, **where)),
                             number(ratio(results, figure, pad, **where))]
        texts.append(markdown_table(head, rows))
    return '\n'.join([*texts, *doubts(results)])


def doubts(results):
    """What to say below the tables where other programs ran: one line, or none."""
    doubtful = [row for row in results if warning(row)]
    if not doubtful:
        return []
    most = max(row['others'] for row in doubtful)
    return [f'Doubtful: other programs ran during {len(doubtful)} of {len(results)} measurements and used up to '
            f'{share(most)} of the CPU.\n']


def describe(results, command):
    """Where and with what this was measured."""
    about = {'command': command, 'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()), 'versions': {}}
    for row in results:
        about |= {key: row[key] for key in ('device', 'cores') if key in row}
        about['versions'] = row.get('versions', {}) | about['versions']
    git = ['git', '-C', str(config.ROOT)]
    with_git = shutil.which('git') and (config.ROOT / '.git').exists()
    if with_git and (commit := subprocess.run([*git, 'rev-parse', 'HEAD'], capture_output=True, text=True)).stdout:
        changed = subprocess.run([*git, 'status', '--porcelain', '-uno'], capture_output=True, text=True).stdout
        about['commit'] = commit.stdout.strip() + (', changed' if changed else '')
    return about


# ---- The command line -----------------------------------------------------------------------------------------------


def settle(arguments):
    """The tool's own options, the knobs of the command line, and the work: [{'name', 'script', 'length'}]."""
    tasks, rest = split_arguments(arguments)
    names = [name_of(task) for task in tasks]
    both = with_knobs(Options, common_knobs_class(names))
    given = parse_args(both(), 'python -m checks.bench', __doc__, rest)
    own = {field.name for field in dataclasses.fields(Options)} - {'model'}
    options = Options(**{name: value for name, value in given.items() if name in own})
    knobs = {'model': options.model} | {name: value for name, value in given.items() if name not in own}

    options.precision = some_of('--precision', options.precision, PRECISIONS)
    options.peer_pad = some_of('--peer-pad', options.peer_pad, PADS)
    if options.random and 'model' in given and not given.get('demo'):
        raise UserError('--random and --model: choose one of them.')
    in_windows = given.get('truncation') == 'windows'
    if options.peer and in_windows:
        raise UserError('--peer: transformers has nothing like --truncation windows.')
    if options.length:
        longest = 10**6 if in_windows else given.get('maxlen', 512)
        lengths = lengths_of('--length', options.length, longest)
        work = [{'name': f'{length} tokens', 'script': name, 'length': length}
                for name in dict.fromkeys(names or ['CoLA']) for length in lengths]
        if len(names) > 1:
            work = [one | {'name': f'{one["script"]}, {one["name"]}'} for one in work]
        options.peer_pad = [pad for pad in options.peer_pad if pad != 'max']
    else:
        work = [{'name': name, 'script': name, 'length': 0} for name in dict.fromkeys(names or TASKS)]
        root = Path(knobs.get('data_dir', config.Knobs.data_dir))
        folders = [TASKS[item['name']].folder for item in work if item['name'] in TASKS]
        missing = [folder for folder in folders if not (root / folder).is_dir()]
        if missing:
            raise UserError(f'{root / missing[0]}: no such folder. Fetch the data with `uv run -m tools.download '
                           f'{" ".join(missing)}`, name the folder of GLUE with --data-dir, or try --demo.')
    check_files(options)
    if options.peer:
        check_peer(options.peer)
    else:
        options.peer_pad = []
    return options, knobs, work


def name_of(task):
    """The script of a task: CoLA, SST2 or SST-2, documents/IMDB. Raises UserError."""
    name = task.replace('-', '')
    if name not in TASKS and not ('/' in name and (config.ROOT / f'{name}.py').is_file()):
        close = difflib.get_close_matches(name, TASKS, 1)
        hint = f' Did you mean {close[0]}?' if close else ''
        raise UserError(f'{task}: none of the tasks {", ".join(TASKS)}.{hint}')
    return name


def some_of(option, text, choices):
    """What an option chooses, separated by commas, as a list."""
    chosen = list(dict.fromkeys(text.split(',')))
    if not set(chosen) <= set(choices):
        raise UserError(f'{option} {text}: not some of {", ".join(choices)}.')
    return chosen


def lengths_of(option, text, longest=512):
    """The numbers of tokens that an option names."""
    lengths = text.split(',')
    if not all(length.isdecimal() and 8 <= int(length) <= longest for length in lengths):
        raise UserError(f'{option} {text}: numbers from 8 to {longest}, separated by commas, are expected.')
    return [int(length) for length in lengths]


def check_files(options):
    for path in filter(None, (options.json, options.markdown)):
        if not Path(path).absolute().parent.is_dir():
            raise UserError(f'{path}: its folder does not exist.')


def check_peer(python):
    if not shutil.which(python):
        raise UserError(f'--peer {python}: no such program. Name a Python that has torch and transformers.')
    program = 'import importlib.util as u; print(*(x for x in ("torch", "transformers") if not u.find_spec(x)))'
    done = subprocess.run([python, '-c', program], capture_output=True, text=True)
    if done.returncode or done.stdout.strip():
        raise UserError(f'--peer {python}: it has no {" and no ".join(done.stdout.split()) or "working Python"}. Name '
                        'a Python that has torch and transformers.')


def main(argv=None):
    """The command line. Returns 0, 1 where a measurement failed, 2 for bad input."""
    return command_line(run, argv)


def command_line(run, argv):
    """The exit status of run(arguments), 130 after ctrl-C."""
    try:
        return exit_status(run, sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        return 130


def run(arguments):
    results = []
    options, knobs, work = settle(arguments)
    try:
        measure(options, knobs, work, results)
    finally:        # what there is, also after ctrl-C
        if results:
            write(options, results, tables(results), shlex.join(['-m', 'checks.bench', *arguments]))
    return int(any('failed' in row for row in results))


def write(options, results, text, command):
    about = describe(results, command)
    if options.markdown:
        shown = ', '.join(f'{name} {version}' for name, version in about['versions'].items())
        write_file(Path(options.markdown), f'{text}\n{about.get("device")}, {about.get("cores")} cores; {shown}.\n')
    if options.json:
        write_json(Path(options.json), about | {'measurements': results})
    print(f'\n{text}', end='')


if __name__ == '__main__':
    sys.exit(main())
