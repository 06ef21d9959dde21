"""The scores of the scripts against their definitions, written out; undefined ones; the texts of the answers."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import CLASSIFIERS, SCRIPTS

from snippets import Example


def dev(gold, files=None):
    """What score() uses of the dev set."""
    files = files or ['dev.tsv'] * len(gold)
    examples = [Example(file, i + 1, i, 'a', 'b', gold[i]) for i, file in enumerate(files)]
    return SimpleNamespace(examples=examples, gold=np.array(gold))


def logits(answers, classes=2):
    return np.eye(classes)[answers] * 3 - 1


def test_binary_tasks():
    gold, answers = np.array([0, 0, 0, 1, 1, 1, 1, 1]), np.array([0, 1, 1, 1, 1, 1, 0, 1])
    tp, fp, fn, tn = 4, 2, 1, 1
    accuracy, f1 = (tp + tn) / 8, 2 * tp / (2 * tp + fp + fn)
    mcc = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    for name in SCRIPTS:
        both = {'f1': f1, 'accuracy': accuracy}
        expected = {'CoLA': {'mcc': mcc}, 'MRPC': both, 'QQP': both}
        if name not in ('MNLI', 'STSB'):
            found = __import__(name).score(logits(answers), dev(gold))
            assert found == pytest.approx(expected.get(name, {'accuracy': accuracy}))


def test_matched_and_mismatched_are_scored_apart():
    files = ['x/dev_matched.tsv'] * 3 + ['x/dev_mismatched.tsv'] * 2
    found = __import__('MNLI').score(logits([0, 1, 2, 0, 0], 3), dev([0, 1, 1, 0, 2], files))
    assert found == pytest.approx({'accuracy_m': 2 / 3, 'accuracy_mm': 1 / 2})


def test_correlations():
    gold, answers = np.array([0, 1, 2, 3, 5.0]), np.array([1, 0, 2, 3, 9.0])
    x, y = gold - gold.mean(), answers - answers.mean()
    ranks = np.array([1, 0, 2, 3, 4.0]) - 2
    spearman = (np.arange(5) - 2) @ ranks / 10
    found = __import__('STSB').score(answers[:, None], dev(gold))
    assert found == pytest.approx({'pearson': x @ y / np.sqrt((x @ x) * (y @ y)), 'spearman': spearman})


def test_scores_of_a_constant_answer():
    assert np.isnan(list(__import__('STSB').score(np.full((3, 1), 2.5), dev([1.0, 2.0, 3.0])).values())).all()
    assert __import__('CoLA').score(logits([1, 1, 1]), dev([0, 1, 1])) == {'mcc': 0.0}
    assert __import__('MRPC').score(logits([0, 0, 0]), dev([1, 1, 0]))['f1'] == 0.0


def test_answers_are_labels_or_scores_within_the_range():
    for name in CLASSIFIERS:
        labels = __import__(name).knobs.labels
        data = SimpleNamespace(labels=labels)
        assert __import__(name).answers(logits([1, 0, 1], len(labels)), data) == [labels[1], labels[0], labels[1]]
    assert __import__('STSB').answers(np.array([[-0.2], [2.5004], [7]]), None) == ['0.000', '2.500', '5.000']
