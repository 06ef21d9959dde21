"""Whether a run is new, unfinished or finished."""

import enum
import json
from pathlib import Path

import config
from engine.devices import several_machines
from engine.files import UserError, read_json
from engine.runs.identity import configuration
from engine.runs.layout import METRICS, STATE, WEIGHTS, run_folder
from engine.runs.metrics import format_metrics, format_score
from engine.runs.results import result_files, write_result


class Status(enum.Enum):
    NEW = 'it begins anew'
    UNFINISHED = 'it goes on from its state'
    FINISHED = 'it is there'


def run_status(knobs):
    """The Status of this very run. Raises UserError where another one would be overwritten, finished or not, and
    where a file of a finished one is missing."""
    folder = run_folder(knobs)
    if knobs.fresh:
        return Status.NEW
    has_weights, has_metrics = (folder / WEIGHTS).is_file(), (folder / METRICS).is_file()
    if has_weights and not has_metrics:
        raise UserError(f'{folder} holds the weights of a run whose {METRICS} is missing. Put it back, move the '
                        'folder, or overwrite it with --fresh.')
    if not (has_metrics or is_resumable(knobs)):
        return Status.NEW
    now = json.loads(json.dumps(configuration(knobs)))
    try:
        finished = has_metrics and read_json(folder / METRICS)['finished']
        if not finished and not is_resumable(knobs):
            return Status.NEW
        before = read_json(folder / 'config.json')
        changed = configuration_differences(before, now, finished)
    except (UserError, LookupError, TypeError, AttributeError) as error:
        raise damaged_run(folder, error) from error
    if changed:
        kind = 'a finished' if finished else 'an unfinished'
        raise UserError(f'{folder} holds {kind} run with other settings ({"; ".join(changed)}). Keep both: give this '
                        'one a --name, or another --seed. Or overwrite it with --fresh.')
    if finished and not has_weights:
        raise UserError(f'{folder}: this run is finished, but its {WEIGHTS} is missing. Put it back, or run it again '
                        'with --fresh.')
    return Status.FINISHED if finished else Status.UNFINISHED


def is_resumable(knobs):
    """Whether there is a state from which the run goes on. (Whether it is of this very run, says status().)"""
    return not knobs.fresh and not several_machines() and (run_folder(knobs) / STATE).is_file()


def configuration_differences(before, now, finished):
    """In words, what two configurations have different that changes numbers; between two parts of an unfinished run the
    versions of libraries count, too. What the run has found out itself is no difference to a 0."""
    to_be_found = [name for name in before.get('found', []) if now['knobs'][name] == 0]
    changed = [f'{name}: {before["knobs"].get(name)} -> {value}' for name, value in now['knobs'].items()
               if name not in (*config.NOT_IN_RUN_IDENTITY, *to_be_found) and before['knobs'].get(name) != value]
    hashes = before['source_sha256']
    changed += [f'{name} was edited' for name, value in now['source_sha256'].items() if hashes.get(name) != value]
    if not finished:
        versions = before['versions']
        changed += [f'{name}: {versions.get(name)} -> {version}' for name, version in now['versions'].items()
                    if versions.get(name) != version]
    return changed


def damaged_run(folder, error):
    return UserError(f'{folder}: {METRICS} or config.json is not what a run leaves behind ({error}). Start over with '
                     '--fresh.')


def print_finished(knobs):
    """Say how a finished run ended, and write its files for the leaderboard again where they are gone."""
    folder = run_folder(knobs)
    try:
        metrics = read_json(folder / METRICS)
        best, test = metrics['best'], metrics.get('test', {})
        of_test = ''.join(f', test {name} {format_score(value)}' for name, value in test.items())
        print(f'This run is finished: dev {format_metrics(best)} (epoch {best["epoch"]}){of_test}, {folder}/. --fresh runs it '
              'again.')
        for path in result_files(folder):
            if not (Path(knobs.results_dir) / path.name).exists():
                write_result(knobs, path.name, path.read_bytes(), 'its')
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise damaged_run(folder, error) from error
    (folder / STATE).unlink(missing_ok=True)
