"""What a run says of its epochs: metrics.json and .csv, the learning curve, the mistakes on dev, a line on screen."""

import csv
import io
import math
from pathlib import Path

from engine.files import write_file, write_json
from engine.runs.curve import plot, plot_panels
from engine.runs.layout import METRICS, metric_names


def best_epoch(rows):
    """Of the epochs' rows that with the highest score, the first of several; nan is lower than any other."""
    return max(rows, key=lambda row: -math.inf if math.isnan(row['score']) else row['score'])


# ---- Files ----------------------------------------------------------------------------------------------------------


def write_metrics(folder, knobs, rows, panels=None):
    """metrics.json, metrics.csv and curve.png of the epochs so far. panels: see training.py."""
    write_json(folder / METRICS, {'finished': False, 'best': best_epoch(rows), 'last': rows[-1], 'epochs': rows})
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_file(folder / 'metrics.csv', table.getvalue())
    title = f'{knobs.task}, {Path(knobs.model).name}, seed {knobs.seed}'
    if panels:
        plot_panels(folder / 'curve.png', title, rows, panels)
    else:
        plot(folder / 'curve.png', title, rows)


# ---- Words ----------------------------------------------------------------------------------------------------------


def print_epoch(rows, epochs, seconds_left):
    """One line about the epoch just scored, of so many."""
    row, best, minutes = rows[-1], best_epoch(rows), int(seconds_left) // 60
    print(f'epoch {row["epoch"]}/{epochs}  loss {row["loss"]:.4f}  {format_metrics(row)}  '
          f'best {format_score(best["score"])} (epoch {best["epoch"]})  '
          f'{row["examples_per_second"]:.0f} examples/s  {minutes}:{int(seconds_left) % 60:02} left', flush=True)


def print_updates(row, updates, seconds_left):
    """One line about the stretch of a pre-training just scored, of so many updates."""
    minutes = int(seconds_left) // 60
    left = f'{minutes // 60}:{minutes % 60:02}:{int(seconds_left) % 60:02}'
    print(f'update {row["update"]}/{updates}  loss {row["loss"]:.4f}  {format_metrics(row)}  '
          f'{row["examples_per_second"]:.0f} examples/s  {left} left', flush=True)


def print_final_scores(rows):
    """The two scores with which a run ends, and a warning where one of them is of a model that learned nothing."""
    best, last = best_epoch(rows), rows[-1]
    print(f'dev, best epoch {best["epoch"]}: {format_metrics(best)}\n'
          f'dev, last epoch {last["epoch"]}: {format_metrics(last)}')
    for which, row in (('best', best), ('last', last)):
        if row['same_answer']:
            print(f'Note: the {which} epoch gives every dev example the same answer, {row["same_answer"]}: nothing was '
                  'learned. Try another --seed, a lower --learning-rate or more --epochs.')


def format_score(value, digits=2):
    """A share as percent."""
    return 'undefined' if value is None or math.isnan(value) else f'{100 * value:.{digits}f}'


def format_metrics(row, digits=2, between='  '):
    """The metrics of an epoch, for people: shares as percent, losses and perplexities as they are."""
    words = []
    for name in metric_names(row):
        is_share = not name.endswith(('loss', 'perplexity')) or row[name] is None
        words.append(f'{name} {format_score(row[name], digits) if is_share else f"{row[name]:.3f}"}')
    return between.join(words)
