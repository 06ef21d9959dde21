"""A run folder as a model in memory, for the tools that use fine-tuned models."""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import re
import sys

import config
import snippets
from checkpoints import Checkpoint, UserError, read_json


def open_run(folder):
    """(script, knobs, model) of a folder in runs/: the task's script and its model with the weights of the best epoch.

    The model is built by the script as it is now; that it was edited since is said on standard error. Raises UserError.
    """
    run = Checkpoint(folder)
    if not isinstance(run.task, str) or not re.fullmatch(r'\w+', run.task) or not (
            config.ROOT / f'{run.task}.py').is_file():
        raise UserError(f'{folder}: no run of one of the scripts: its config.json names none. Choose a folder in runs/.')
    script = importlib.import_module(run.task)
    given = {field.name: run.knobs[field.name] for field in dataclasses.fields(config.Knobs) if field.name in run.knobs}
    given['labels'] = tuple(given.get('labels', ()))
    knobs = script.knobs.for_recipe(run.recipe, given | {'model': str(folder), 'init': str(folder)})
    with contextlib.redirect_stdout(io.StringIO()):     # which variables were read
        model = script.build_model(knobs, 1)
        snippets.load_run(knobs, model)
    now = hashlib.sha256((config.ROOT / f'{run.task}.py').read_bytes()).hexdigest()
    if read_json(run.folder / 'config.json')['source_sha256'].get(f'{run.task}.py') != now:
        print(f'Note: {run.task}.py was edited since this run; its model is built as the script says now.',
              file=sys.stderr)
    return script, knobs, model
