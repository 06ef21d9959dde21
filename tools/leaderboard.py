"""Every task with several seeds, as many runs at a time as the machine holds, and one table of all of them.

    uv run -m tools.leaderboard --model electra-small                   # all tasks, seeds 1 to 5
    uv run -m tools.leaderboard CoLA RTE --seeds 3 --first-seed 4 --epochs 5 --data-dir /data/glue
    uv run -m tools.leaderboard --demo --seeds 2                        # no data, no weights to fetch

Tasks come first; the options of the scripts are passed on to them. Every run is a process of its own. With GPUs each
has one to itself (of those in CUDA_VISIBLE_DEVICES, if it is set); on the CPU each has 4 cores and 4 GiB, where there
are as many; --jobs says otherwise. The longest tasks come first.

The same command again goes on: finished runs are not run again. What a run prints is in its folder's name with .log.
At the end, of the runs of this command: RUNS_DIR/leaderboard-MODEL.md, .json (in percent) and .png; and in results/ the
test predictions of the best seed of each task, by its dev score, for tools.submission.

Exit status: 0 all runs are done, 1 some failed, 2 bad usage, 130 or 143 interrupted (the runs are stopped).
"""

import contextlib
import dataclasses
import datetime
import io
import itertools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table

import config
from engine.console import markdown_table, words_and_options
from engine.files import (
    UserError,
    metric_names,
    run_folder,
    show,
    show_value,
    status_of,
    write_file,
    write_json,
)

TRANSFORMERS = 'https://github.com/huggingface/transformers/tree/main/examples/pytorch/text-classification'
DISTILBERT = 'https://github.com/huggingface/transformers/tree/v4.40.0/examples/research_projects/distillation'
GOOGLE = 'https://github.com/google-research/electra#expected-results'
LONEPATIENT = 'https://github.com/lonePatient/electra_pytorch#result'
# What others have published, in percent on dev: (what the model's name contains, title, source, scores)
PUBLISHED = [
    # One seed; 3 epochs, MRPC and WNLI 5.
    ('bert-base', 'BERT-base cased, transformers', TRANSFORMERS, {
        'CoLA mcc': 56.53, 'SST2 accuracy': 92.32, 'MRPC f1': 88.85, 'MRPC accuracy': 84.07, 'STSB pearson': 88.64,
        'STSB spearman': 88.48, 'QQP f1': 87.49, 'QQP accuracy': 90.71, 'MNLI accuracy_m': 83.91,
        'MNLI accuracy_mm': 84.10, 'QNLI accuracy': 90.66, 'RTE accuracy': 65.70, 'WNLI accuracy': 56.34}),
    # Medians of 5 seeds (arXiv 1910.01108). Of MRPC, STS-B, QQP and MNLI it does not say which metric: left out.
    ('bert-base', 'BERT-base uncased, DistilBERT', DISTILBERT, {
        'CoLA mcc': 56.3, 'SST2 accuracy': 92.7, 'QNLI accuracy': 91.8, 'RTE accuracy': 69.3, 'WNLI accuracy': 53.5}),
    ('distilbert', 'DistilBERT uncased', DISTILBERT, {
        'CoLA mcc': 51.3, 'SST2 accuracy': 91.3, 'QNLI accuracy': 89.2, 'RTE accuracy': 59.9, 'WNLI accuracy': 56.3}),
    # Medians over many seeds.
    ('electra-small', 'ELECTRA-small, Google', GOOGLE, {
        'CoLA mcc': 57.0, 'SST2 accuracy': 91.2, 'MRPC accuracy': 88.0, 'STSB spearman': 87.5, 'QQP accuracy': 89.0,
        'MNLI accuracy_m': 81.3, 'QNLI accuracy': 88.4, 'RTE accuracy': 66.7}),
    ('electra-base', 'ELECTRA-base, Google', GOOGLE, {
        'CoLA mcc': 67.7, 'SST2 accuracy': 95.1, 'MRPC accuracy': 89.5, 'STSB spearman': 91.2, 'QQP accuracy': 91.5,
        'MNLI accuracy_m': 88.8, 'QNLI accuracy': 93.2, 'RTE accuracy': 82.7}),
    ('electra-large', 'ELECTRA-large, Google', GOOGLE, {
        'CoLA mcc': 69.1, 'SST2 accuracy': 96.9, 'MRPC accuracy': 90.8, 'STSB spearman': 92.6, 'QQP accuracy': 92.4,
        'MNLI accuracy_m': 90.9, 'QNLI accuracy': 95.0, 'RTE accuracy': 88.0}),
    ('electra-small', 'ELECTRA-small, lonePatient', LONEPATIENT, {
        'CoLA mcc': 56.6, 'SST2 accuracy': 90.5, 'STSB pearson': 87.6}),
    ('electra-base', 'ELECTRA-base, lonePatient', LONEPATIENT, {
        'CoLA mcc': 67.8, 'SST2 accuracy': 94.2, 'STSB pearson': 91.1}),
    ('electra-large', 'ELECTRA-large, lonePatient', LONEPATIENT, {
        'CoLA mcc': 71.1, 'SST2 accuracy': 95.8, 'STSB pearson': 92.4}),
]

POLL = 0.5              # seconds between two looks at the runs
PATIENCE = 30           # seconds that a run has to end after SIGTERM
MARKERS = 'Dsv'         # in the figure, of the published scores: at most three of a model
SHOWN = 10              # last lines of a failed run's log


@dataclasses.dataclass
class Options(config.Knobs):
    """The scripts' options, and this tool's own."""
    seeds: int = config.knob(5, 'runs of every task', 1, 1000)
    first_seed: int = config.knob(1, 'the first run has this seed, the next one more', 0, 2**30)
    jobs: int = config.knob(0, 'runs at a time; 0: as many as fit', 0, 1000)


@dataclasses.dataclass(eq=False)
class Run:
    task: str
    seed: int
    folder: Path
    state: str = 'waiting'          # then running, then done or failed
    started: float = 0.0
    process: subprocess.Popen = None
    slot: dict = None               # its share of the machine, as environment variables
    log_start: int = 0              # bytes that were in the log before
    rows: list = ()                 # of the epochs that have ended, as in metrics.json
    best: dict = None               # one of them
    settings: dict = None           # config.json

    def __str__(self):
        return f'{self.task} seed {self.seed}'

    @property
    def log(self):
        return self.folder.with_name(f'{self.folder.name}.log')     # beside: training clears the folder


# ---- The machine ----------------------------------------------------------------------------------------------------


def find_gpus():
    """The GPUs to use, as CUDA_VISIBLE_DEVICES names them. TensorFlow would take hold of them, so it is not asked."""
    if (visible := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        return list(itertools.takewhile(lambda name: name not in ('', '-1'), map(str.strip, visible.split(','))))
    try:
        return subprocess.run(['nvidia-smi', '--query-gpu=index', '--format=csv,noheader'], capture_output=True,
                              text=True, check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return [str(i) for i, _ in enumerate(Path('/proc/driver/nvidia/gpus').glob('*'))]


def free_memory():
    """Bytes; no limit where the system does not say, as outside of Linux."""
    limits = [math.inf]
    with contextlib.suppress(OSError):
        limits.append(1024 * int(re.search(r'MemAvailable:\s+(\d+)', Path('/proc/meminfo').read_text())[1]))
    with contextlib.suppress(OSError, ValueError):      # a container's; ValueError: 'max'
        limits.append(int(Path('/sys/fs/cgroup/memory.max').read_text()))
    return min(limits)


def make_slots(jobs, runs, devices='one'):
    """What the environment of each of the runs at a time has beyond this one; `jobs` 0: as many as fit."""
    if devices == 'all':
        return [{}]
    if gpus := find_gpus():
        return [{'CUDA_VISIBLE_DEVICES': gpus[i % len(gpus)]} for i in range(min(jobs or len(gpus), runs))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    jobs = min(jobs or max(1, int(min(cores / 4, free_memory() / 2**32))), runs)
    names = [name for name in ('TF_NUM_INTRAOP_THREADS', 'OMP_NUM_THREADS') if jobs > 1 and name not in os.environ]
    return [dict.fromkeys(names, str(max(1, cores // jobs)))] * jobs


# ---- Runs -----------------------------------------------------------------------------------------------------------


def start(run, slot, options, scratch):
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(config.ROOT / f'{run.task}.py'), *options, f'--seed={run.seed}',
               f'--results-dir={scratch}/{run.task}-{run.seed}']    # seeds would overwrite one another's files
    with open(run.log, 'ab') as log:
        run.state, run.slot, run.log_start, run.started = 'running', slot, log.tell(), time.time()
        # A session of its own: Ctrl-C reaches it through stop(), and stop() reaches whatever it has started.
        run.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       env=os.environ | slot, start_new_session=True)


def look(run, say):
    """Take note of the epochs that have ended since the last look, and of the end."""
    status, path, known = run.process.poll(), run.folder / 'metrics.json', len(run.rows)
    metrics = {'finished': False}
    with contextlib.suppress(FileNotFoundError):    # a run that starts removes what an earlier one has left
        if status == 0 or path.stat().st_mtime > run.started:
            metrics = json.loads(path.read_text())
            run.settings = json.loads((run.folder / 'config.json').read_text())
            run.rows, run.best = metrics['epochs'], metrics['best']
    if len(run.rows) > known and path.stat().st_mtime > run.started:
        say(f'{run}: epoch {len(run.rows)}/{run.settings["knobs"]["epochs"]}, {show_scores(run.rows[-1])}')
    if status == 0 and metrics['finished']:
        run.state = 'done'
        say(f'{run}: done, epoch {run.best["epoch"]} is the best: {show_scores(run.best)}')
    elif status is not None:
        run.state = 'failed'
        why = f'killed by {signal.Signals(-status).name}' if status < 0 else f'exit status {status}'
        log = run.log.read_bytes()[run.log_start:].decode(errors='replace')
        lines = [line for line in log.split('\n') if line.strip()]
        say('\n  '.join([f'{run} failed, {why}. {run.log}:', *lines[-SHOWN:]]), True)


def stop(runs, signals):
    """End running processes and theirs: SIGTERM, and after a while, or at a second Ctrl-C, SIGKILL."""
    for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, math.inf)):
        deadline, before = time.time() + patience, len(signals)
        for run in runs:
            if run.process.poll() is None:      # not reaped yet, so that the number is still its own
                with contextlib.suppress(ProcessLookupError, PermissionError):      # macOS: of one that just ended
                    os.killpg(run.process.pid, number)
        while any(run.process.poll() is None for run in runs) and time.time() < deadline and len(signals) == before:
            time.sleep(0.05)


def work(runs, slots, options):
    """Run them all. Returns the signal that interrupted it, or None."""
    signals = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:       # nohup. A handler that raises could lose a process just started.
            signal.signal(number, lambda number, frame: signals.append(number))
    live = Live(auto_refresh=False) if sys.stdout.isatty() else None

    def say(text, always=False):
        if not live:
            print(text, flush=True)
        elif always:
            live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    waiting, running, free = list(runs), [], list(slots)
    try:
        with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
            stack.callback(lambda: stop(running, signals))
            stack.enter_context(live or contextlib.nullcontext())
            while (waiting or running) and not signals:
                while waiting and free:
                    start(waiting[0], free.pop(0), options, scratch)
                    running.append(waiting.pop(0))
                    say(f'{running[-1]}: started')
                time.sleep(POLL)
                for run in list(running):
                    look(run, say)
                    if run.state != 'running':
                        running.remove(run)
                        free.append(run.slot)
                if live:
                    live.update(table(runs, len(slots)), refresh=True)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return signals[0] if signals else None


# ---- The live table -------------------------------------------------------------------------------------------------


def seconds(row):
    return row['train_seconds'] + row['dev_seconds']


def show_scores(row):
    """The metrics of an epoch, for people."""
    return show(row, 1, ', ')


def by_task(runs):
    """{task: its runs}, both in order."""
    tasks = {task: [run for run in runs if run.task == task] for task in config.TASKS}
    return {task: task_runs for task, task_runs in tasks.items() if task_runs}


def time_left(wanted, runs, jobs):
    """Estimated time until the `wanted` of all runs are through, as text: a run takes what its own epochs take, else
    what its task's other runs take, else what others take by the sizes of the tasks."""
    known = {run: run.settings['knobs']['epochs'] * statistics.mean(map(seconds, run.rows)) for run in runs if run.rows}
    if not known:
        return '?'
    pace = statistics.mean(duration / config.TASKS[run.task].million_tokens for run, duration in known.items())
    left = [0]
    for run in wanted:
        if run.state not in ('waiting', 'running'):
            continue
        same_task = [known[other] for other in known if other.task == run.task]
        if run in known:
            duration = known[run]
        elif same_task:
            duration = statistics.mean(same_task)
        else:
            duration = pace * config.TASKS[run.task].million_tokens
        passed = time.time() - run.started if run.process else 0
        left.append(max(0, duration - passed))
    return str(datetime.timedelta(seconds=round(max(sum(left) / jobs, *left))))


def table(runs, jobs):
    """The state of all runs: a row a task, a column a seed."""
    def cell(run):
        if run.state == 'done':
            return f'[green]done {show_value(run.best["score"], 1)}'
        if run.state == 'running' and run.rows:
            return f'{len(run.rows)}/{run.settings["knobs"]["epochs"]} {show_value(run.rows[-1]["score"], 1)}'
        return {'waiting': '[dim]waiting', 'running': 'started', 'failed': '[red]failed'}[run.state]

    states = [run.state for run in runs]
    count = ', '.join(f'{states.count(state)} {state}' for state in ('done', 'failed', 'running', 'waiting'))
    grid = Table('task', *(f'seed {seed}' for seed in sorted({run.seed for run in runs})), 'left')
    for task, task_runs in by_task(runs).items():
        grid.add_row(task, *map(cell, task_runs), time_left(task_runs, runs, jobs))
    return Group(grid, f'{count}; about {time_left(runs, runs, jobs)} left')


# ---- The report -----------------------------------------------------------------------------------------------------


def best_run(runs):
    return max(runs, key=lambda run: -math.inf if run.best['score'] is None else run.best['score'])


def summarize(runs):
    """Of the finished runs of one task, in percent: {'seeds', 'best_seed', 'minutes', 'metrics': {metric: statistics}}.

    A metric that is not defined counts as lower than any other, as in training; a result without a number is None.
    """
    def percent(value):
        return -math.inf if value is None else 100 * value

    def number(value):
        return value if math.isfinite(value) else None

    def statistics_of(name):
        best = [percent(run.best[name]) for run in runs]
        last = [percent(run.rows[-1][name]) for run in runs]
        several = len(best) > 1 and all(map(math.isfinite, best))
        return {'median': number(statistics.median(best)), 'max': number(max(best)),
                'last_median': number(statistics.median(last)), 'std': statistics.stdev(best) if several else None,
                'values': [number(value) for value in best]}

    return {'seeds': [run.seed for run in runs], 'best_seed': best_run(runs).seed,
            'minutes': statistics.median(sum(map(seconds, run.rows)) for run in runs) / 60,
            'metrics': {name: statistics_of(name) for name in metric_names(runs[0].best)}}


def nearest(model):
    """{title: (source, {'CoLA mcc': percent, ...})} of what is published about this model, else about BERT-base.

    DistilBERT's name contains its teacher's, which is shown beside it.
    """
    name = model.lower().replace('_', '-')
    rows = [row for row in PUBLISHED if row[0] in name] or PUBLISHED[:1]
    return {title: (source, scores) for _, title, source, scores in rows}


def markdown(summary, published):
    """The table of all tasks: a row a metric, a task's name and its runs in the first of its rows."""
    def number(percent):
        return 'undefined' if percent is None else f'{percent:.1f}'

    rows = []
    for task, of_task in summary.items():
        about = [task, len(of_task['seeds']), f'{of_task["minutes"]:.1f}']
        for name, figures in of_task['metrics'].items():
            deviation = '' if figures['std'] is None else number(figures['std'])
            others = [scores.get(f'{task} {name}', '') for _, scores in published.values()]
            rows.append([about[0], name, f'**{number(figures["median"])}**', number(figures['max']), deviation,
                         number(figures['last_median']), *about[1:], *others])
            about = ['', '', '']
    return markdown_table(['task', 'metric', 'median', 'max', 'std', 'last epoch, median', 'seeds', 'minutes a run',
                           *published], rows)


def plot(title, summary, published):
    """A png: a panel for each task with a dot for each seed, a bar for the median, other marks for published scores."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    columns, rows = min(len(summary), 5), -(-len(summary) // 5)
    figure, panels = pyplot.subplots(rows, columns, figsize=(max(2.6 * columns, 7), 3.1 * rows + 1), squeeze=False)
    for panel in panels.flat[len(summary):]:
        panel.axis('off')
    for panel, (task, of_task) in zip(panels.flat, summary.items(), strict=False):
        metrics = of_task['metrics']
        for x, (name, figures) in enumerate(metrics.items()):
            for i, value in enumerate(figures['values']):     # side by side, so that none hides another
                panel.plot(x + 0.4 * ((i + 0.5) / len(figures['values']) - 0.5), [value], 'C0.', label='a seed')
            panel.plot([x - 0.3, x + 0.3], [figures['median']] * 2, 'C0', label='median')
            for i, (other, (_, scores)) in enumerate(published.items()):
                panel.plot(x, [scores.get(f'{task} {name}')], color=f'C{i + 1}', marker=MARKERS[i], linestyle='none',
                           fillstyle='none', label=other)
        panel.set_xticks(range(len(metrics)), [name.replace('_', '\n') for name in metrics])
        panel.set(title=task, xlim=(-0.6, len(metrics) - 0.4))
        panel.margins(y=0.15)
        panel.grid(axis='y', alpha=0.3)
    labels = dict(zip(*reversed(panels[0, 0].get_legend_handles_labels()), strict=True))
    figure.suptitle(title)
    figure.supylabel('dev score')
    figure.legend(labels.values(), labels, loc='lower center', ncols=len(labels) if columns > 3 else 2, frameon=False)
    figure.tight_layout(rect=(0, 0.7 / (3.1 * rows + 1), 1, 1))
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format='png')
    pyplot.close(figure)
    return png.getvalue()


def machine(settings):
    return f'{"GPU" if "GPU" in settings["device"] else "CPU"}, {settings["cores"]} cores'


def report(knobs, options, runs):
    """Write the table, the numbers and the figure, and the best runs' test predictions; print what they are."""
    model = Path(knobs.model).resolve().name
    summary = {task: summarize(task_runs) for task, task_runs in by_task(runs).items()}
    published = {} if knobs.demo else nearest(model)        # they are other data's
    machines = ' and '.join(sorted({machine(run.settings) for run in runs}))
    notes = ['Demo: made-up data. These scores mean nothing.'] if knobs.demo else []
    notes += [
        'GLUE, dev. Best epoch of each run, chosen by the metric (the mean where there are two). Minutes: training and '
        f'scoring dev ({machines}).', f'Options: {" ".join(options)}',
        *(f'{title}: published, {source}' for title, (source, _) in published.items())]
    text = '\n'.join([f'# {model}', '', markdown(summary, published), *(f'- {note}' for note in notes)]) + '\n'
    numbers = {'model': model, 'options': options, 'machines': machines, 'tasks': summary, 'published': {
        title: {'source': source, 'scores': scores} for title, (source, scores) in published.items()}}
    path = Path(knobs.runs_dir) / f'leaderboard-{model}'
    write_file(Path(f'{path}.md'), text)
    write_json(Path(f'{path}.json'), numbers)
    write_file(Path(f'{path}.png'), plot(f'{model}, demo' if knobs.demo else model, summary, published))
    Path(knobs.results_dir).mkdir(parents=True, exist_ok=True)
    said = [f'\n{text}\n{path}.md, .json and .png']
    for task_runs in by_task(runs).values():
        best = best_run(task_runs)
        for source in sorted(set(best.folder.glob('*.tsv')) - {best.folder / 'dev_predictions.tsv'}):
            write_file(Path(knobs.results_dir) / source.name, source.read_bytes())
            said.append(f'{Path(knobs.results_dir) / source.name}: of seed {best.seed}, on dev the best of '
                        f'{len(task_runs)}: {show_scores(best.best)}')
    print('\n'.join(said))


# ---- The command line -----------------------------------------------------------------------------------------------


def as_option(name, value):
    name = name.replace('_', '-')
    if isinstance(value, bool):
        return f'--{name}' if value else f'--no-{name}'
    return f'--{name}={value}'


def main(argv=None):
    """The command line. Returns the exit status."""
    return status_of(run, sys.argv[1:] if argv is None else argv)


def run(argv):
    names, rest = words_and_options(argv)
    given = config.parse_args(Options(), 'python -m tools.leaderboard', __doc__, rest)
    if unknown := [name for name in names if name not in config.TASKS]:
        raise UserError(f'no task {unknown[0]}; there are {", ".join(config.TASKS)}.')
    if 'seed' in given:
        raise UserError('not --seed, but --seeds (how many) and --first-seed (from where).')
    if 'fresh' in given:
        given['fresh'] = '--fresh' in argv      # not because of --demo: a demo can be gone on with as well
    knobs = Options(**given)
    options = [as_option(name, value) for name, value in given.items()
               if name in config.Knobs.__dataclass_fields__ and name != 'results_dir']
    tasks = sorted(names or config.TASKS, key=lambda task: config.TASKS[task].million_tokens, reverse=True)
    runs = [Run(task, seed, run_folder(dataclasses.replace(knobs, script=f'{config.ROOT / task}.py', seed=seed)))
            for task in dict.fromkeys(tasks)
            for seed in range(knobs.first_seed, knobs.first_seed + knobs.seeds)]
    slots = make_slots(knobs.jobs, len(runs), knobs.devices)
    gpus = [slot['CUDA_VISIBLE_DEVICES'] for slot in slots if 'CUDA_VISIBLE_DEVICES' in slot]
    place = f'GPU {", ".join(gpus)}' if gpus else 'the CPU'
    print(f'{len(runs)} runs, {len(slots)} at a time, on {place}')
    interrupted = work(runs, slots, options)
    done = [run for run in runs if run.state == 'done']
    if interrupted:
        how = ' without --fresh' if knobs.fresh else ''
        print(f'Interrupted: {len(done)} of {len(runs)} runs are done. To go on, start the same command again{how}.',
              file=sys.stderr)
        return 128 + interrupted
    for run in runs:
        if run.state == 'failed':
            print(f'error: {run} failed: {run.log}', file=sys.stderr)
    if done:
        report(knobs, options, done)
    return 1 if len(done) < len(runs) else 0


if __name__ == '__main__':
    sys.exit(main())
