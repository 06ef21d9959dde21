"""The dev predictions of the best epoch, worst mistakes first."""

from pathlib import Path

import numpy as np

from engine.backend import keras, tf
from engine.data.targets import PerRow, PerToken
from engine.files import write_file
from engine.runs.layout import ANSWER_SEPARATOR, tsv_cell


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
        row = (f'{losses[i]:.4f}', tsv_cell(gold[i]), tsv_cell(answers[i]), i, Path(example.file).name, example.line,
               tsv_cell(example.text_a), tsv_cell(example.text_b or ''))
        lines.append('\t'.join(map(str, row)))
    write_file(path, '\n'.join(lines) + '\n')


def gold_text(data, label):
    """A label as text: the name of its class, the score, or what it is; of several labels all, of accepted texts
    every different one."""
    if is_text_label(label):
        return ANSWER_SEPARATOR.join(dict.fromkeys(label))
    if isinstance(label, tuple | list):
        return ' '.join(gold_text(data, part) for part in label)
    if isinstance(label, int) and data.labels:
        return data.labels[label]
    if isinstance(label, int | float):
        return f'{label:g}'
    return label or ''


def is_text_label(label):
    """Whether a label is a number of accepted texts."""
    return isinstance(label, tuple | list) and all(isinstance(part, str) for part in label)


def is_accepted(answer, label):
    return is_text_label(label) and answer in label


def example_losses(model, data, outputs):
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


def constant_answer(data, answers):
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
