"""Many runs of scripts, several at a time, each a process of its own, with a live table of all of them."""

import contextlib
import dataclasses
import datetime
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
from engine.catalog.datasets import TASKS, million_tokens
from engine.runs.metrics import format_metrics, format_score

POLL = 0.5              # seconds between two looks at the runs
PATIENCE = 30           # seconds that a run has to end after SIGTERM
SHOWN = 10              # last lines of a failed run's log


@dataclasses.dataclass(eq=False)
class Run:
    task: str
    seed: int
    folder: Path
    script: Path = None
    options: tuple = ()             # of the script, beside --seed and --results-dir
    name: str = ''                  # --name
    state: str = 'waiting'          # then running, then done or failed
    started: float = 0.0
    process: subprocess.Popen = None
    slot: dict = None               # its share of the machine, as environment variables
    log_start: int = 0              # bytes that were in the log before
    rows: list = ()                 # of the epochs that have ended, as in metrics.json
    best: dict = None               # one of them
    test: dict = dataclasses.field(default_factory=dict)    # scores on a test set with public labels
    settings: dict = None           # config.json

    def __str__(self):
        return f'{self.label} seed {self.seed}'

    @property
    def label(self):
        return f'{self.task} {self.name}'.strip()

    @property
    def log(self):
        return self.folder.with_name(f'{self.folder.name}.log')     # beside: training clears the folder


# ---- The scripts' options -------------------------------------------------------------------------------------------


def knobs_class(task):
    if task in TASKS:
        return config.Knobs
    from lab.scripts import load_script  # imports TensorFlow, which the nine do not need here
    return type(load_script(task).knobs)


def common_knobs_class(tasks):
    """The class of the knobs that all of these scripts have."""
    classes = [knobs_class(task) for task in tasks] or [config.Knobs]
    return next(one for one in classes[0].__mro__ if all(issubclass(other, one) for other in classes))


def with_knobs(options, family):
    """A dataclass of a tool's own options and the scripts' knobs; where both have one, it is the tool's."""
    return dataclasses.dataclass(type('Both', (options, family), {}))


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


def start(run, slot, scratch):
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    # A script in a folder finds the modules of its own copy of the project.
    root = str(Path(run.script).parents[run.task.count('/')])
    path = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    command = [sys.executable, str(run.script), *run.options, f'--seed={run.seed}',
               f'--results-dir={scratch}/{run.folder.parent.name}-{run.folder.name}']   # seeds would overwrite others'
    with open(run.log, 'ab') as log:
        run.state, run.slot, run.log_start, run.started = 'running', slot, log.tell(), time.time()
        # A session of its own: Ctrl-C reaches it through stop(), and stop() reaches whatever it has started.
        run.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       env=os.environ | slot | {'PYTHONPATH': path},
                                       start_new_session=True)


def look(run, say):
    """Take note of the epochs that have ended since the last look, and of the end."""
    status, path, known = run.process.poll(), run.folder / 'metrics.json', len(run.rows)
    metrics = {'finished': False}
    with contextlib.suppress(FileNotFoundError):    # a run that starts removes what an earlier one has left
        if status == 0 or path.stat().st_mtime > run.started:
            metrics = json.loads(path.read_text())
            run.settings = json.loads((run.folder / 'config.json').read_text())
            run.rows, run.best, run.test = metrics['epochs'], metrics['best'], metrics.get('test', {})
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


def work(runs, slots):
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
                    start(waiting[0], free.pop(0), scratch)
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
    return format_metrics(row, 1, ', ')


def by_task(runs):
    """{task: its runs}: GLUE's in its order, then the others by name."""
    others = sorted({run.task for run in runs} - set(TASKS))
    tasks = {task: [run for run in runs if run.task == task] for task in [*TASKS, *others]}
    return {task: task_runs for task, task_runs in tasks.items() if task_runs}


def by_label(runs):
    """{task and name: its runs}, tasks in order."""
    labels = {}
    for task_runs in by_task(runs).values():
        for run in task_runs:
            labels.setdefault(run.label, []).append(run)
    return labels


def time_left(wanted, runs, jobs):
    """Estimated time until the `wanted` of all runs are through, as text: a run takes what its own epochs take, else
    what its task's other runs take, else what others take by the sizes of the tasks."""
    known = {run: run.settings['knobs']['epochs'] * statistics.mean(map(seconds, run.rows)) for run in runs if run.rows}
    if not known:
        return '?'
    pace = statistics.mean(duration / million_tokens(run.task) for run, duration in known.items())
    left = [0]
    for run in wanted:
        if run.state not in ('waiting', 'running'):
            continue
        same_task = [known[other] for other in known if other.label == run.label]
        if run in known:
            duration = known[run]
        elif same_task:
            duration = statistics.mean(same_task)
        else:
            duration = pace * million_tokens(run.task)
        passed = time.time() - run.started if run.process else 0
        left.append(max(0, duration - passed))
    return str(datetime.timedelta(seconds=round(max(sum(left) / jobs, *left))))


def table(runs, jobs):
    """The state of all runs: a row a task, a column a seed."""
    def cell(run):
        if run.state == 'done':
            return f'[green]done {format_score(run.best["score"], 1)}'
        if run.state == 'running' and run.rows:
            return f'{len(run.rows)}/{run.settings["knobs"]["epochs"]} {format_score(run.rows[-1]["score"], 1)}'
        return {'waiting': '[dim]waiting', 'running': 'started', 'failed': '[red]failed'}[run.state]

    states = [run.state for run in runs]
    count = ', '.join(f'{states.count(state)} {state}' for state in ('done', 'failed', 'running', 'waiting'))
    grid = Table('task', *(f'seed {seed}' for seed in sorted({run.seed for run in runs})), 'left')
    for label, row in by_label(runs).items():
        grid.add_row(label, *map(cell, row), time_left(row, runs, jobs))
    return Group(grid, f'{count}; about {time_left(runs, runs, jobs)} left')
