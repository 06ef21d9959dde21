"""What a run says of its epochs: metrics.json and .csv, the learning curve, the mistakes on dev, a line on screen."""

import csv
import io
import math
from pathlib import Path

import numpy as np

from engine.backend import keras, tf
from engine.files import BETWEEN_TEXTS, METRICS, metric_names, one_line, show, show_value, write_file, write_json
from engine.targets import PerRow, PerToken


def best_row(rows):
    """Of the epochs' rows that with the highest score, the first of several; nan is lower than any other."""
    return max(rows, key=lambda row: -math.inf if math.isnan(row['score']) else row['score'])


# ---- Files ----------------------------------------------------------------------------------------------------------


def write_metrics(folder, knobs, rows, panels=None):
    """metrics.json, metrics.csv and curve.png of the epochs so far. panels: see training.py."""
    write_json(folder / METRICS, {'finished': False, 'best': best_row(rows), 'last': rows[-1], 'epochs': rows})
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


def load_pyplot():
    """Takes a second, and only here."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    return pyplot


def plot(path, title, rows):
    """The learning curve: training loss and dev metrics by epoch."""
    pyplot = load_pyplot()
    figure, left = pyplot.subplots(figsize=(6, 4))
    epochs = [row['epoch'] for row in rows]
    left.plot(epochs, [row['loss'] for row in rows], 'k--', marker='.', label='training loss')
    left.set(xlabel='epoch', ylabel='loss', title=title)
    left.xaxis.get_major_locator().set_params(integer=True)
    right = left.twinx()
    for name in metric_names(rows[0]):
        right.plot(epochs, [100 * row[name] for row in rows], marker='o', label=f'dev {name}')
    right.set_ylabel('dev score')
    figure.legend(loc='lower center', ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save_figure(path, figure)


def plot_panels(path, title, rows, panels):
    """A curve by updates for each of {title: names of columns}, beside each other."""
    figure, axes = load_pyplot().subplots(1, len(panels), figsize=(3.6 * len(panels), 4.2), squeeze=False)
    updates = [row['update'] for row in rows]
    for panel, (heading, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            panel.plot(updates, [row[name] for row in rows], marker='.', label=name)
        panel.set(title=heading, xlabel='update')
        if len(names) > 1:
            panel.legend(frameon=False, fontsize='small', loc='upper center', bbox_to_anchor=(0.5, -0.24))
    figure.suptitle(title)
    figure.tight_layout()
    save_figure(path, figure)


def save_figure(path, figure):
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format='png')
    load_pyplot().close(figure)
    write_file(path, png.getvalue())


def write_mistakes(path, data, answers, losses):
    """Dev predictions as TSV, the largest loss first, of equal losses the wrong answers. answers: a text for each
    example; losses: (examples,). The column `row` is the example's place in dev, from 0, as in dev_outputs.npz."""
    names = ('loss', 'label', 'prediction', 'row', 'file', 'line', 'text_a', 'text_b')
    lines = ['\t'.join(names)]
    gold = [gold_text(data, example.label) for example in data.examples]
    is_right = [answer == text or is_accepted(answer, example.label)
                for answer, text, example in zip(answers, gold, data.examples, strict=True)]
    for i in np.lexsort((is_right, -losses)):       # by the losses first
        example = data.examples[i]
        row = (f'{losses[i]:.4f}', one_line(gold[i]), one_line(answers[i]), i, Path(example.file).name, example.line,
               one_line(example.text_a), one_line(example.text_b or ''))
        lines.append('\t'.join(map(str, row)))
    write_file(path, '\n'.join(lines) + '\n')


def gold_text(data, label):
    """A label as text: the name of its class, the score, or what it is; of several labels all, of accepted texts
    every different one."""
    if has_texts(label):
        return BETWEEN_TEXTS.join(dict.fromkeys(label))
    if isinstance(label, tuple | list):
        return ' '.join(gold_text(data, part) for part in label)
    if isinstance(label, int) and data.labels:
        return data.labels[label]
    if isinstance(label, int | float):
        return f'{label:g}'
    return label or ''


def has_texts(label):
    """Whether a label is a number of accepted texts."""
    return isinstance(label, tuple | list) and all(isinstance(part, str) for part in label)


def is_accepted(answer, label):
    return has_texts(label) and answer in label


def losses_of(model, data, outputs):
    """The loss of each example, (examples,), by the function that the model was compiled with; 0 where there is no such
    function of one output. Of an example with several rows the sum."""
    losses = np.zeros(len(data.examples))
    has_function = isinstance(model.loss, str) or callable(model.loss)
    if not has_function or not isinstance(outputs, np.ndarray) or not isinstance(data.targets, PerRow):
        return losses
    function = keras.losses.get(model.loss)
    function = getattr(function, 'call', function)      # of a Loss, before it takes the mean
    gold = data.targets.values
    if gold.ndim < outputs.ndim and outputs.shape[-1] == 1:     # as Keras does: a column for a column
        gold = gold[:, None]
    row_losses = function(tf.constant(gold), tf.constant(outputs.astype(np.float64))).numpy()
    np.add.at(losses, data.example, row_losses.reshape(len(data), -1).sum(1))
    return losses


# ---- Words ----------------------------------------------------------------------------------------------------------


def same_answer(data, answers):
    """The answer that all examples get, or where labels are for words all words, in words; '' where there is more than
    one."""
    def parts(texts):
        return ' '.join(texts).split() if isinstance(data.targets, PerToken) else texts

    answers = parts(answers)
    if len(set(answers)) > 1 or len(answers) < 2:
        return ''
    if not data.labels:
        return answers[0] or 'an empty one'
    gold = parts([gold_text(data, example.label) for example in data.examples])
    share = gold.count(answers[0]) / len(gold)
    is_majority = gold.count(answers[0]) == max(map(gold.count, set(gold)))
    which = 'the majority class' if is_majority else 'not even the majority class'
    return f'{answers[0]} ({which}, {100 * share:.1f} % of dev)'


def say_epoch(rows, epochs, seconds_left):
    """One line about the epoch just scored, of so many."""
    row, best, minutes = rows[-1], best_row(rows), int(seconds_left) // 60
    print(f'epoch {row["epoch"]}/{epochs}  loss {row["loss"]:.4f}  {show(row)}  '
          f'best {show_value(best["score"])} (epoch {best["epoch"]})  '
          f'{row["examples_per_second"]:.0f} examples/s  {minutes}:{int(seconds_left) % 60:02} left', flush=True)


def say_updates(row, updates, seconds_left):
    """One line about the stretch of a pre-training just scored, of so many updates."""
    minutes = int(seconds_left) // 60
    left = f'{minutes // 60}:{minutes % 60:02}:{int(seconds_left) % 60:02}'
    print(f'update {row["update"]}/{updates}  loss {row["loss"]:.4f}  {show(row)}  '
          f'{row["examples_per_second"]:.0f} examples/s  {left} left', flush=True)


def say_scores(rows):
    """The two scores with which a run ends, and a warning where one of them is of a model that learned nothing."""
    best, last = best_row(rows), rows[-1]
    print(f'dev, best epoch {best["epoch"]}: {show(best)}\n'
          f'dev, last epoch {last["epoch"]}: {show(last)}')
    for which, row in (('best', best), ('last', last)):
        if row['same_answer']:
            print(f'Note: the {which} epoch gives every dev example the same answer, {row["same_answer"]}: nothing was '
                  'learned. Try another --seed, a lower --learning-rate or more --epochs.')
