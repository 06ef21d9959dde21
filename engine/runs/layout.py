"""The names of a run's folder and files."""

from pathlib import Path

STATE, WEIGHTS = 'state.safetensors', 'model.safetensors'       # of the run under way, of its best epoch
PREVIOUS_WEIGHTS = 'earlier.safetensors'     # the weights of the epoch that was the best when the state was saved
METRICS = 'metrics.json'
ANSWER_SEPARATOR = ' | '       # in dev_predictions.tsv, where several texts are accepted as the answer


def run_folder(knobs):
    """runs/<script>/<model>-seed<seed>[-<name>]."""
    variant = f'-{knobs.name}' if knobs.name else ''
    return Path(knobs.runs_dir) / knobs.task / f'{Path(knobs.model).resolve().name}-seed{knobs.seed}{variant}'


def tsv_cell(text):
    """A text as a cell of a TSV file: tabs and line ends become spaces."""
    return text.replace('\t', ' ').replace('\r', ' ').replace('\n', ' ')


def metric_names(row):
    """What the script's score() gave to this epoch of metrics.json."""
    names = list(row)
    return names[names.index('loss') + 1:names.index('score')]
