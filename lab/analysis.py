"""What a task's finished runs say of dev, in numbers: right and wrong, calibration, groups of texts, the worst
mistakes, and of MNLI the diagnostic set by phenomenon. tools.report shows them.

A task's runs are in groups, which are compared: those of a model and a --name, or of the two sides of --against.
"""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.metrics import matthews_corrcoef

from engine.catalog.datasets import AX, TASKS
from engine.files import UserError, read_lines
from engine.runs.records import read_outputs, read_predictions

BINS = 15               # of equal width, for the calibration error: as in Guo et al. 2017, table 1
CATEGORIES = ('Lexical Semantics', 'Predicate-Argument Structure', 'Logic', 'Knowledge')    # columns of the labelled AX
# A Chinese character is a word of its own, as for BERT's tokenizer.
WORD = re.compile(r'[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+')


class Group(NamedTuple):
    """Runs that belong together, and what they say of dev."""
    title: str
    records: list
    predictions: np.ndarray = None      # (runs, examples): labels, or scores as floats
    probabilities: np.ndarray = None    # (runs, examples, labels); None where the outputs are not a logit a label


class Dev(NamedTuple):
    """A task's dev set and the groups of runs that answer it."""
    task: str
    kind: str           # 'classes', 'scores', or 'other': answers that are neither, of which only scores are known
    labels: list        # of kind 'classes', in the order of the logits
    examples: list      # engine.runs.records.Answer, whose prediction is the first run's
    gold: np.ndarray    # (examples,): labels, or scores as floats; None for kind 'other'
    groups: list

    @property
    def is_pair(self):
        return any(example.text_b for example in self.examples)


# ---- Reading --------------------------------------------------------------------------------------------------------


def read_dev(task, groups):
    """The Dev of a task from its Groups of records. Raises UserError where the runs do not fit together."""
    records = [record for group in groups for record in group.records]
    answers = {str(record): read_predictions(record) for record in records}
    first = records[0]
    for record in records:
        for what, of_record, of_first in (('labels', labels_of(record), labels_of(first)),
                                          ('metrics', record.metrics, first.metrics)):
            if of_record != of_first:
                raise UserError(f'{record}: its {what} are {", ".join(of_record) or "none"}, those of {first} '
                                f'{", ".join(of_first) or "none"}. Report on them one by one.')
        if questions(answers[str(record)]) != questions(answers[str(first)]):
            raise UserError(f'{record}: its dev texts or labels are not those of {first}. Report on them one by one.')
    labels, examples = labels_of(first), answers[str(first)]
    everything = [answer for each in answers.values() for answer in each]
    kind = kind_of(labels, everything)
    if kind == 'other':
        if task in TASKS:
            raise UserError(f'{first.folder / "dev_predictions.tsv"} or that of another run of {task}: a label or a '
                            f'prediction is not {" or ".join(labels) or "a number"}. Run it again with --fresh.')
        return Dev(task, kind, labels, examples, None, groups)
    convert = float if kind == 'scores' else str
    gold = np.array([convert(example.label) for example in examples])
    full = []
    for group in groups:
        predictions = np.array([[convert(answer.prediction) for answer in answers[str(record)]]
                                for record in group.records])
        outputs = [read_logits(record, len(examples)) for record in group.records]
        full.append(group._replace(predictions=predictions, probabilities=probabilities_of(outputs, kind, len(labels))))
    return Dev(task, kind, labels, examples, gold, full)


def labels_of(record):
    return list(record.knobs.get('labels', ()))


def questions(answers):
    return [answer.question for answer in answers]


def kind_of(labels, answers):
    if labels:
        known = set(labels)
        return 'classes' if all({answer.label, answer.prediction} <= known for answer in answers) else 'other'
    try:
        numbers = [float(text) for answer in answers for text in (answer.label, answer.prediction)]
    except ValueError:
        return 'other'
    return 'scores' if np.isfinite(numbers).all() else 'other'


def read_logits(record, count):
    """The output of a run for dev, of so many rows; None where it has several outputs. Raises UserError."""
    path, arrays = record.folder / 'dev_outputs.npz', read_outputs(record)
    if 'output_0' not in arrays:
        raise UserError(f'{path}: no output_0 in it. Run it again with --fresh.')
    if 'output_1' in arrays or 'lengths_0' in arrays:
        return None
    outputs = arrays['output_0']
    if outputs.shape[:1] != (count,) or outputs.dtype.kind != 'f' or not np.isfinite(outputs).all():
        raise UserError(f'{path}: an output of the shape {outputs.shape} and type {outputs.dtype}, where finite floats '
                        f'for {count} examples are expected. Run it again with --fresh.')
    return outputs


def probabilities_of(outputs, kind, labels):
    """outputs: of each run the array, or None. The softmax over so many labels, (runs, examples, labels), or None."""
    if kind != 'classes' or any(output is None or output.shape[1:] != (labels,) for output in outputs):
        return None
    return softmax(np.array(outputs, np.float64), -1)


# ---- Calibration ----------------------------------------------------------------------------------------------------


class Bin(NamedTuple):
    """The answers whose confidence is within (low, high]. All but the count are shares from 0 to 1."""
    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def confidences(dev, group):
    """(runs, examples): the probability of the answer that the run gives. Where that is the most probable label, as the
    nine scripts have it, this is what Guo et al. 2017 call confidence."""
    places = {label: i for i, label in enumerate(dev.labels)}
    chosen = np.vectorize(places.get, otypes=[int])(group.predictions)
    return np.take_along_axis(group.probabilities, chosen[..., None], -1)[..., 0]


def reliability(confidence, right):
    """The Bins that hold examples, of BINS of equal width. confidence, right: arrays of one shape."""
    edges = np.linspace(0, 1, BINS + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)
    bins = []
    for i in range(BINS):
        members = index == i
        if members.any():
            bins.append(Bin(float(edges[i]), float(edges[i + 1]), int(members.sum()),
                            float(confidence[members].mean()), float(right[members].mean())))
    return bins


def calibration_error(bins):
    """The expected calibration error: the mean distance of accuracy from confidence over the bins, weighted by their
    examples, from 0 to 1 (Guo et al. 2017, arXiv 1706.04599, equation 3)."""
    total = sum(each.count for each in bins)
    return sum(each.count / total * abs(each.accuracy - each.confidence) for each in bins)


# ---- Groups of texts ------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Examples that are alike: those whose value is from low to high."""
    low: float
    high: float
    members: np.ndarray     # places in dev


def words(text):
    return WORD.findall(text.lower())


def length(example):
    """Words of an example, both texts together."""
    return len(words(example.text_a)) + len(words(example.text_b))


def overlap(example):
    """The words that are in both texts over those that are in any (Jaccard 1901), from 0 to 1."""
    first, second = set(words(example.text_a)), set(words(example.text_b))
    either = first | second
    return len(first & second) / len(either) if either else 0.0


def quartiles(values):
    """At most four Parts of about the same size. Equal values are in the same part, so there may be fewer."""
    values = np.asarray(values)
    index = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values)
    return [part_of(values, np.flatnonzero(index == i)) for i in np.unique(index)]


def by_score(gold):
    """Parts of equal width 1 by gold score: 0 to below 1, and so on; 5 belongs to the last one."""
    index = np.clip(np.floor(gold), 0, max(np.ceil(gold.max()) - 1, 0))
    return [part_of(gold, np.flatnonzero(index == i)) for i in np.unique(index)]


def part_of(values, members):
    return Part(float(values[members].min()), float(values[members].max()), members)


def means(values, parts):
    """values: (runs, examples). Of each part the list of the runs' means."""
    return [values[:, part.members].mean(1).tolist() for part in parts]


# ---- Mistakes -------------------------------------------------------------------------------------------------------


class Mistake(NamedTuple):
    """A wrong answer. wrong: how many runs give one; prediction: the one that most of them give; the probabilities, of
    the gold label and of that one, are means over all runs, None where they are not known."""
    example: tuple
    wrong: int
    prediction: str
    gold_probability: float
    probability: float


class Miss(NamedTuple):
    """A score that is far off: the runs' mean, lowest and highest prediction, and their mean absolute error."""
    example: tuple
    mean: float
    low: float
    high: float
    error: float


def worst_mistakes(dev, group, count):
    """At most `count` Mistakes: those of most runs first, of these the gold label with the lowest probability first."""
    wrong = (group.predictions != dev.gold).sum(0)
    places = {label: i for i, label in enumerate(dev.labels)}
    if group.probabilities is None:
        mean = np.full((len(dev.gold), len(dev.labels)), np.nan)
    else:
        mean = group.probabilities.mean(0)
    of_gold = mean[np.arange(len(dev.gold)), [places[label] for label in dev.gold]]
    order = [i for i in np.lexsort((of_gold, -wrong)) if wrong[i]][:count]
    mistakes = []
    for i in order:
        answers = Counter(answer for answer in group.predictions[:, i].tolist() if answer != dev.gold[i])
        prediction = answers.most_common(1)[0][0]
        known = group.probabilities is not None
        mistakes.append(Mistake(dev.examples[i], int(wrong[i]), prediction, float(of_gold[i]) if known else None,
                                float(mean[i, places[prediction]]) if known else None))
    return mistakes


def worst_misses(dev, group, count):
    """At most `count` Misses, the largest mean error first."""
    errors = abs(group.predictions - dev.gold).mean(0)
    columns = group.predictions
    return [Miss(dev.examples[i], float(columns[:, i].mean()), float(columns[:, i].min()), float(columns[:, i].max()),
                 float(errors[i])) for i in np.argsort(-errors, kind='stable')[:count]]


# ---- The diagnostic set ---------------------------------------------------------------------------------------------


class Diagnostic(NamedTuple):
    """The labelled diagnostic set: gold labels (rows,), and for each category the rows that have a tag of it, under '',
    and those of each tag."""
    path: Path
    gold: np.ndarray
    categories: dict


def read_diagnostic(path, labels):
    """The Diagnostic that diagnostic-full.tsv holds, as gluebenchmark.com publishes it. Raises UserError."""
    header, *lines = [line.split('\t') for line in read_lines(path)]
    missing = [name for name in (*CATEGORIES, 'Label') if name not in header]
    if missing:
        raise UserError(f'{path}, line 1: no column {missing[0]}. The labelled file is expected, diagnostic-full.tsv; '
                        'diagnostic.tsv has the texts alone.')
    rows = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise UserError(f'{path}, line {number}: {len(line)} columns, the header has {len(header)}.')
        row = dict(zip(header, line, strict=True))
        if row['Label'] not in labels:
            raise UserError(f'{path}, line {number}: the label {row["Label"]!r} is not {" or ".join(labels)}.')
        rows.append(row)
    categories = {name: tagged_rows(rows, name) for name in CATEGORIES}
    return Diagnostic(Path(path), np.array([row['Label'] for row in rows]), categories)


def tagged_rows(rows, category):
    """{'': the rows with any tag of this category, tag: those with this one}, tags in the order of the alphabet."""
    tags = [[tag.strip() for tag in row[category].split(';') if tag.strip()] for row in rows]
    found = {'': [i for i, of_row in enumerate(tags) if of_row]}
    for name in sorted({tag for of_row in tags for tag in of_row}):
        found[name] = [i for i, of_row in enumerate(tags) if name in of_row]
    return found


def read_diagnostic_answers(record, diagnostic):
    """The labels that an MNLI run gives to the rows of a Diagnostic, (rows,). Raises UserError."""
    path = record.folder / 'AX.tsv'
    header, *rows = [line.split('\t') for line in read_lines(path)]
    labels = labels_of(record)
    if header != ['index', 'prediction'] or any(len(row) != 2 or row[1] not in labels for row in rows):
        raise UserError(f'{path}: not what the run wrote: the columns index and prediction, and the labels '
                        f'{", ".join(labels)}. Run it again with --fresh.')
    if len(rows) != len(diagnostic.gold):
        raise UserError(f'{path} answers {len(rows)} examples, {diagnostic.path} has labels for '
                        f'{len(diagnostic.gold)}; the official set has {AX.files["diagnostic.tsv"].rows}. '
                        'They are not of the same set.')
    return np.array([row[1] for row in rows])


def correlation(gold, answers):
    """Matthews correlation of several classes, from -1 to 1 (R_K, Gorodkin 2004; Wang et al. 2018, arXiv 1804.07461,
    section 4); 0 where the gold labels or the answers are all the same."""
    if len({*gold, *answers}) == 1:
        return 0.0          # scikit-learn's value, without its warning
    return float(matthews_corrcoef(gold, answers))
