"""A run on the disk: its folder, its configuration, and whether it is new, unfinished or finished.

    config.json                                 what decides the outcome: knobs, model, code, versions
    metrics.json metrics.csv curve.png          every epoch (report.py); metrics.json says whether the run is finished
    model.safetensors vocab.txt                 the weights of the best epoch
    dev_predictions.tsv dev_outputs.npz         of the best epoch: dev, the worst mistakes first, and the outputs
    <TASK>.tsv <TASK>_outputs.npz               the same for the test set, in the leaderboard's or the task's format
    <TASK>_nbest.json <TASK>_null_odds.json     of questions: more than one answer each, and how sure it is of none
    state.safetensors earlier.safetensors       while it is unfinished: what it goes on from
"""

import os
from pathlib import Path

import filelock

from engine.files import UserError, fsync, read_json, remove_stale, write_file, write_json
from engine.model.checkpoints import model_spec
from engine.runs.identity import configuration
from engine.runs.layout import METRICS, PREVIOUS_WEIGHTS, STATE, WEIGHTS, run_folder
from engine.runs.results import result_files
from engine.runs.status import Status, run_status

# ---- Whether it is there --------------------------------------------------------------------------------------------


LOCKS = []      # of this process's runs; they die with it


def lock_folder(folder):
    """Keep other runs out of this folder until release(), or until this process ends in whatever way. Raises
    UserError."""
    file_lock = filelock.FileLock(folder.with_name(f'.{folder.name}.lock'))
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f'{folder}: another run is at work in this folder. Wait for it, or give this one a --name or '
                        'another --seed.') from None
    LOCKS.append(file_lock)


def release_locks():
    while LOCKS:
        LOCKS.pop().release()


# ---- Its beginning and its end --------------------------------------------------------------------------------------


def make_writable(folder, option):
    """Make a folder. Raises UserError where that fails or no files can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f'{folder}: there is a file where a folder should be. Move it, or name another folder with '
                        f'{option}.') from error
    if not os.access(folder, os.W_OK):
        raise UserError(f'{folder}: no files can be written into this folder.')


def remove_partial_files(folder):
    """Delete what a killed run left half-written: our files and the safetensors library's."""
    for pattern in ('.*.[0-9]*', '.tmp*'):
        remove_stale(folder, pattern, 0)


def claim_folder(knobs, goes_on):
    """Make the folder this process's own. Raises UserError where the run that is there is not, or no more, the one that
    `goes_on` says."""
    folder = run_folder(knobs)
    make_writable(folder, '--runs-dir')        # now, not after an hour of training
    if knobs.predict:
        make_writable(Path(knobs.results_dir), '--results-dir')
    lock_folder(folder)
    if run_status(knobs) != (Status.UNFINISHED if goes_on else Status.NEW):
        raise UserError(f'{folder}: another run was at work in this folder until now. Start again.')
    remove_partial_files(folder)


def initialize_folder(knobs):
    """Empty the folder for a new run, and write its configuration. First goes what an earlier run would go on from;
    metrics.json is there all the time, so that a run without it is one whose file was deleted."""
    folder = run_folder(knobs)
    (folder / STATE).unlink(missing_ok=True)
    write_json(folder / METRICS, {'finished': False, 'best': None, 'last': None, 'epochs': []})
    for path in result_files(folder):
        path.unlink()
    for pattern in (WEIGHTS, PREVIOUS_WEIGHTS, 'metrics.csv', 'curve.png', 'dev_predictions.tsv', '*.npz', '*_nbest.json',
                    '*_null_odds.json'):
        for path in folder.glob(pattern):
            path.unlink()
    write_configuration(knobs)
    write_file(folder / 'vocab.txt', (model_spec(knobs).folder / 'vocab.txt').read_bytes())


def write_configuration(knobs):
    """Write config.json; again, at the end of a run, where it has found a knob out."""
    write_json(run_folder(knobs) / 'config.json', configuration(knobs))


def mark_finished(folder):
    """Mark the run as finished, when everything that is left of it is on the disk."""
    metrics = read_json(folder / METRICS)
    write_json(folder / METRICS, metrics | {'finished': True})
    for path in folder.iterdir():
        fsync(path)
    (folder / STATE).unlink(missing_ok=True)
