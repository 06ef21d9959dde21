"""Is a run that was killed, and killed again, the run that it would have been?

    uv run -m checks.kill                                    # CoLA, RTE and STSB on the demo data, 8 kills each
    uv run -m checks.kill RTE --kills 20 --data-dir GLUE --limit 300     # options of the scripts are passed on

For every task the same command runs twice with --deterministic: undisturbed, and killed at random moments, two times of
three by SIGKILL, else by SIGTERM or SIGINT, and started again until it ends; as often as it takes for all kills. One
kill of four comes at any time from the start on, the others after the run has saved its state, as it does in every
step. Then the weights, every number of metrics.json but the seconds, and the TSV files must be equal, bit by bit. Exit
status: 0 equal, 1 not, 2 bad input.
"""

import argparse
import contextlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.numpy

import config
from engine.console import markdown_row, markdown_table, split_arguments
from engine.files import UserError, exit_status, read_json
from engine.runs.layout import PREVIOUS_WEIGHTS, STATE

TASKS = ('CoLA', 'RTE', 'STSB')
MEASURED = {'train_seconds', 'dev_seconds', 'save_seconds', 'examples_per_second', 'peak_gib'}
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


def start(task, folder, options, log):
    """The script as a process of its own, with everything it writes under `folder`."""
    command = [sys.executable, config.ROOT / f'{task}.py', '--deterministic', '--no-fresh', '--save-every', '0',
               '--runs-dir', folder / 'runs', '--cache-dir', folder / 'cache', *options]
    if not task.startswith('pretraining/'):
        command += ['--results-dir', folder / 'results']
    # In the background of a shell SIGINT would be ignored.
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=config.ROOT,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))


def finish(task, process, log):
    if process.wait():
        log.seek(0)
        raise UserError(f'{task}.py ended with status {process.returncode}:\n{log.read().decode()}')


def differences(one, two):
    """What differs between two folders in which the same run has ended, in words."""
    folders = [next((folder / 'runs').rglob('metrics.json')).parent for folder in (one, two)]
    weights = [safetensors.numpy.load_file(folder / 'model.safetensors') for folder in folders]
    metrics = [read_json(folder / 'metrics.json') for folder in folders]
    rows = [[{name: value for name, value in row.items() if name not in MEASURED}
             for row in (*found['epochs'], found['best'], found['last'])] for found in metrics]
    texts = [{path.relative_to(top): path.read_bytes() for top in (folder, whole / 'results')
              for path in top.glob('*.tsv')} for folder, whole in zip(folders, (one, two), strict=True)]
    left = [path.name for folder in folders for path in folder.iterdir() if path.name.startswith('.')
            or path.name in (STATE, PREVIOUS_WEIGHTS)]
    found = {'weights': weights[0].keys() != weights[1].keys() or any(
        weights[0][name].tobytes() != weights[1][name].tobytes() for name in weights[0]),
        'metrics': rows[0] != rows[1], 'TSV files': texts[0] != texts[1],
        f'left behind: {" ".join(left)}': left}
    return [name for name, differs in found.items() if differs]


def wait_for_state(process, folder):
    """Wait until the run has saved its state, or has ended."""
    began = time.time()
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):        # the run has ended in between
            if any(path.stat().st_mtime >= began for path in folder.rglob(STATE)):
                return
        time.sleep(0.02)


def kill(task, kills, options, folder, chance):
    """{what: how many} of one task, and what differed at last."""
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        finish(task, start(task, folder / 'undisturbed', options, log), log)
        duration = time.monotonic() - began
    counts = {'kills': 0, 'going on': 0, 'ends': 0}
    while counts['kills'] < kills:
        again = folder / f'killed-{counts["ends"]}'
        while True:
            with tempfile.TemporaryFile() as log:
                process = start(task, again, options, log)
                try:
                    if counts['kills'] < kills and chance.random() < 0.75:
                        wait_for_state(process, again)
                    process.wait(chance.uniform(0, duration / 2) if counts['kills'] < kills else None)
                except subprocess.TimeoutExpired:
                    number = chance.choice([signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT])
                    process.send_signal(number)
                    process.wait()
                    counts['kills'] += 1
                log.seek(0)
                said = log.read().decode()
                counts['going on'] += bool(re.search('goes on after', said))
                if process.returncode == 0:
                    break
                # A signal may come before Python is able to hear it.
                if process.returncode not in (*STATUS.values(), -signal.SIGTERM, -signal.SIGINT):
                    raise UserError(f'{task}.py ended with status {process.returncode}:\n{said}')
        counts['ends'] += 1
        if found := differences(folder / 'undisturbed', again):
            return counts, found
    return counts, []


def main(argv=None):
    parser = argparse.ArgumentParser(prog='python -m checks.kill', usage='%(prog)s [TASK ...] [options]',
                                     description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=8, help='for every task (8)')
    parser.add_argument('--chance', type=int, default=0, help='seed of the moments (0)')
    tasks, rest = split_arguments(sys.argv[1:] if argv is None else argv)
    given, options = parser.parse_known_args(rest)

    def work():
        equal = True
        print(markdown_table(['task', 'kills', 'of these starts went on', 'ends compared', 'differences']), end='')
        for task in tasks or TASKS:
            if not (config.ROOT / f'{task}.py').is_file():
                raise UserError(f'{task}: no such script. Choose from {", ".join(TASKS)} and the others.')
            with tempfile.TemporaryDirectory() as folder:
                counts, found = kill(task, given.kills, options or ['--demo'], Path(folder),
                                     random.Random(f'{given.chance} {task}'))
            print(markdown_row([task, counts['kills'], counts['going on'], counts['ends'],
                                ', '.join(found) or 'none']), flush=True)
            equal &= not found
        return int(not equal)
    return exit_status(work)


if __name__ == '__main__':
    sys.exit(main())
