"""Train runs once more in transformers, with the same weights, tokens and recipe: does it score the same?

    uv run -m checks.rerun PYTHON runs/documents/IMDB/minilm-seed1 runs/documents/IMDB/minilm-seed2

PYTHON: an interpreter with torch and transformers. The runs are finished ones, of scripts that give one label or one
score to each text, or a label to each word. transformers gets the token ids of their training, dev and test rows, and
trains AutoModelForSequenceClassification as run_glue.py does, or AutoModelForTokenClassification as run_ner.py: batches
padded to their longest row, AdamW without decay of biases and LayerNorm, clipping, autocast for 16 bits; batch size,
epochs, learning rate, schedule, Adam's bias correction, weight decay, epsilon and dropout are the run's, learning rates
by layer and CRFs are not there. Its batches are drawn at random. As in the run the best epoch on dev counts. Scores are
those of the script's own score(). How fast both are is checks.bench's to say.
"""

import argparse
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

import config
from checks.bench import check_peer, run_child
from engine.cli import resolve_knobs
from engine.console import markdown_table
from engine.data.targets import PerToken
from engine.files import UserError, exit_status, read_json, write_json
from engine.model.checkpoints import Checkpoint
from engine.runs.layout import METRICS
from engine.runs.metrics import format_score
from lab.peers.folders import peer_folders
from lab.scripts import knobs_of_run, load_script
from snippets import tokenize

RECIPE = ('seed', 'epochs', 'batch_size', 'eval_batch_size', 'learning_rate', 'schedule', 'warmup', 'bias_correction',
          'weight_decay', 'epsilon', 'clip_norm', 'dropout', 'precision')
IGNORED = -100      # by the loss of transformers: tokens without a label


def rerun(python, path, folder):
    """[run, split, the run's score, that of transformers] of a run, one row for dev and one for test where the run has
    a score of it. Files go into `folder`. Raises UserError."""
    run = Checkpoint(path)
    if not isinstance(run.task, str) or not isinstance(run.knobs, dict):
        raise UserError(f'{path}: no run of one of the scripts.')
    metrics = read_json(Path(path) / METRICS)
    if not metrics.get('finished'):
        raise UserError(f'{path}: this run is not finished.')
    script = load_script(run.task)
    knobs = resolve_knobs(script.knobs, script.__file__, knobs_of_run(run, script) | {'cache': False}, run.recipe)
    if knobs.updates or knobs.init or knobs.grad_accumulation > 1 or knobs.cut.get('joined'):
        raise UserError(f'{path}: --updates, --init, --grad-accumulation and windows have no counterpart here.')

    ours = {'dev': metrics['best']} | ({'test': metrics['test']} if 'test' in metrics else {})
    prepare = getattr(script, 'prepare', tokenize)
    data = {split: prepare(knobs, script.load_data(knobs, split)) for split in ('train', *ours)}
    arrays = {}
    for split, tokens in data.items():
        if tokens.gold is None and not isinstance(tokens.targets, PerToken):
            raise UserError(f'{run.task}: its examples have not one label or one score each, nor one for each word.')
        arrays[f'{split}_ids'], arrays[f'{split}_segments'] = tokens.batch(np.arange(len(tokens)))
    _, _, gold, weights = data['train'].targets.batch(arrays['train_ids'], np.arange(len(data['train'])), ())
    model, _ = peer_folders(knobs.model, knobs.model_dir, folder)
    files = {name: str(folder / f'{name}.npz') for name in ('rows', 'outputs')}
    np.savez(files['rows'], gold=np.where(weights > 0, gold, IGNORED), **arrays)
    request = files | {'model': str(model), 'labels': len(knobs.labels) or 1, 'splits': list(ours),
                       'of_tokens': gold.ndim == 2} | {
        name: getattr(knobs, name) for name in RECIPE}
    answer = run_child([python, str(config.ROOT / 'lab' / 'peers' / 'rerun.py')], request, folder)
    if 'failed' in answer:
        raise UserError(f'{path}: transformers failed, {answer["failed"]}')

    with np.load(files['outputs']) as outputs:
        scores = [{split: score_of(script, outputs[f'{split}_{epoch}'], data[split]) for split in ours}
                  for epoch in range(knobs.epochs)]
    # As in the run: by the mean where there are several metrics, and the first of equal ones.
    best = max(scores, key=lambda score: np.mean(list(score['dev'].values())))
    return [[f'{run.task}, {run.folder.name}', f'{split}, {name}', value_of(ours[split], name),
             best[split][name]] for split in ours for name in best[split]]


def score_of(script, outputs, data):
    """The script's score() of transformers' outputs for all rows, (rows, labels) or, padded, (rows, length, labels)."""
    if hasattr(script, 'predict'):
        rows = [output[:length] for output, length in zip(outputs, data.lengths, strict=True)]
        outputs = script.predict(types.SimpleNamespace(model=None, predict=lambda _: rows), data)
    return script.score(outputs, data)


def value_of(metrics, name):
    if name not in metrics:
        raise UserError(f'no {name} in the {METRICS} of the run: was its script edited since?')
    return metrics[name]


def main(argv=None):
    """The command line. Returns 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog='python -m checks.rerun', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('python', metavar='PYTHON', help='an interpreter with torch and transformers')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='the folder of a finished run')
    parser.add_argument('--json', metavar='FILE', help='write the scores into this file')
    return exit_status(run, parser.parse_args(argv))


def run(args):
    """Do what the command line says. Raises UserError."""
    check_peer(args.python)
    rows = []
    for path in args.runs:
        with tempfile.TemporaryDirectory() as folder:
            rows += rerun(args.python, path, Path(folder))
        print(f'{path}: done', flush=True)
        if args.json:
            write_json(Path(args.json), rows)
    shown = [[name, what, format_score(ours), format_score(theirs)] for name, what, ours, theirs in rows]
    for what in dict.fromkeys(row[1] for row in rows):
        means = np.mean([row[2:] for row in rows if row[1] == what], 0)
        shown.append([f'mean of {len(args.runs)}', what, *map(format_score, means)])
    print(f'\n{markdown_table(["run", "", "ours", "transformers"], shown)}', end='')


if __name__ == '__main__':
    sys.exit(main())
