"""The scores of answers against fixed numbers that the official scripts gave for the same texts.

CMRC 2018: cmrc2018_evaluate.py v5 under Python 2.7 with NLTK 3.4.5, and v6 under Python 3.11 with NLTK 3.9.2, both with
the punkt data. SQuAD: evaluate-v1.1.py and evaluate-v2.0.py.
"""

import pytest

from engine.metrics import reading

CMRC = {
    'right': (['1990年出生于北京'], '1990年出生于北京', 1, 1.0),
    'shifted': (['北京大学图书馆'], '在北京大学图书', 0, 0.8571428571428571),
    'one run counts, not all that is common': (['中国人民大学'], '中国大学', 0, 0.4),
    'Chinese punctuation is dropped': (['《红楼梦》'], '红楼梦。', 1, 1.0),
    'a period is not': (['红楼梦'], '红楼梦.', 0, 0.8571428571428571),
    'dropped between digits': (['2014-9-1'], '201491', 1, 1.0),
    'a space inside counts for em': (['红 楼梦'], '红楼梦', 0, 1.0),
    'case and spaces around': (['iPhone'], ' IPHONE ', 1, 1.0),
    'empty': (['红楼梦'], '', 0, 0.0),
    'only what is dropped': (['，'], '。', 1, 0.0),
    'English': (["The U.S. Army's band, 2nd (\"green\") co."], "the U.S. Army's 2nd \"green\" band",
                0, 0.34782608695652173),
    'part of English': (["The U.S. Army's band"], "u.s. army's", 0, 0.7499999999999999),
    'Chinese, English and digits': (['iPhone 6s手机于2014年9月上市'], 'iphone 6S手机于2014-9', 0, 0.5882352941176471),
    'percent': (['约3.5%，即1,000人'], '3.5%', 0, 0.5),
    'full width': (['ABC公司(2010)'], 'ＡＢＣ公司（2010）', 0, 0.4),
    'a circle is no Chinese character': (['二〇一四年'], '二〇一四', 0, 0.888888888888889),
    'several': (['一九九〇年', '1990年', '1990年12月'], '1990年底', 0, 0.8),
    'dashes hold words together': (['1999—2008年'], '1999年', 0, 0.5),
}

SQUAD1 = {
    'right': (['Denver Broncos'], 'Denver Broncos', 1, 1.0),
    'shifted': (['in the Denver Broncos stadium'], 'Denver Broncos stadium of', 0, 0.75),
    'articles and punctuation': (['The "Broncos"'], 'a broncos.', 1, 1.0),
    'a hyphen joins': (['twenty-first'], 'twenty first', 0, 0.0),
    'several': (['Santa Clara', 'Santa Clara, California', "Levi's Stadium"], 'santa clara california stadium',
                0, 0.8571428571428571),
    'repeated words': (['to be or not to be'], 'to to to be', 0, 0.6),
    'empty': (['Denver'], '', 0, 0.0),
    'only articles': (['the'], 'an', 1, 0.0),
    'Chinese': (['北京 大学'], '北京，大学', 0, 0.0),
    'full width': (['ABC (2010)'], 'ＡＢＣ (2010)', 0, 0.5),
}

SQUAD2 = {
    'part': (['Denver Broncos'], 'Broncos', 0, 0.6666666666666666),
    'rightly no answer': ([], '', 1, 1),
    'wrongly an answer': ([], 'Denver', 0, 0),
    'wrongly no answer': (['Denver'], '', 0, 0),
    'an answer without words': (['the'], '', 1, 1),
    'an answer without words and another': (['the', 'Denver'], 'a', 0, 0),
    'a prediction without words': ([], 'the', 1, 1),
}


@pytest.mark.parametrize('accepted, prediction, em, f1', CMRC.values(), ids=CMRC)
def test_cmrc(accepted, prediction, em, f1):
    assert reading.cmrc_scores(accepted, prediction) == {'em': em, 'f1': f1}


@pytest.mark.parametrize('accepted, prediction, em, f1', SQUAD1.values(), ids=SQUAD1)
def test_squad1(accepted, prediction, em, f1):
    assert reading.squad1_scores(accepted, prediction) == {'em': em, 'f1': f1}


@pytest.mark.parametrize('accepted, prediction, em, f1', SQUAD2.values(), ids=SQUAD2)
def test_squad2(accepted, prediction, em, f1):
    assert reading.squad2_scores(accepted, prediction) == {'em': em, 'f1': f1}


def test_a_missing_prediction_counts_0():
    accepted = {'a': ['红楼梦'], 'b': ['1990年'], 'c': ['北京']}
    scores = reading.evaluate_cmrc(accepted, {'a': '红楼梦', 'b': '1990', 'unknown': '北京'})
    assert scores == pytest.approx({'em': 1 / 3, 'f1': 5 / 9, 'average': 4 / 9})
    assert reading.evaluate_squad1(accepted, {'a': '红楼梦'}) == pytest.approx({'em': 1 / 3, 'f1': 1 / 3})
    with pytest.raises(KeyError, match="'b'"):
        reading.evaluate_squad2(accepted, {'a': '红楼梦'})


def test_a_period_inside_a_stretch_stays_with_its_word():
    """Where the words can differ from the scripts': those say c.l . max, but st. paul."""
    assert reading.word_tokens('c.l. max, st. paul') == ['c.l.', 'max', ',', 'st.', 'paul']
    assert reading.word_tokens('max c.l.') == ['max', 'c.l', '.']


ACCEPTED = {'a': ['red'], 'c': [], 'e': [], 'b': ['dark green']}
PREDICTIONS = {'a': 'red', 'c': 'black', 'e': '', 'b': 'the green leaf'}


def test_squad2_without_odds():
    assert reading.evaluate_squad2(ACCEPTED, PREDICTIONS) == {
        'em': 0.5, 'f1': 0.625, 'has_answer_em': 0.5, 'has_answer_f1': 0.75, 'no_answer_em': 0.5, 'no_answer_f1': 0.5}
    assert set(reading.evaluate_squad2({'a': ['red']}, PREDICTIONS)) == {'em', 'f1', 'has_answer_em', 'has_answer_f1'}


@pytest.mark.parametrize('odds, best_em, em_threshold, best_f1, f1_threshold', [
    ({'a': 0.5, 'c': 0.5, 'e': 2.0, 'b': 0.5}, 0.75, 0.5, 0.75, 0.5),       # no threshold gives this score
    ({'c': 0.5, 'a': 0.5, 'e': 2.0, 'b': 0.5}, 0.5, 0.0, 0.625, 0.5),       # the same odds in another order
    ({'a': -3.0, 'b': -1.0, 'c': -4.0, 'e': -5.0}, 0.5, 0.0, 0.625, -1.0),  # 0 stays where nothing is better than ''
])
def test_best_thresholds(odds, best_em, em_threshold, best_f1, f1_threshold):
    scores = reading.evaluate_squad2(ACCEPTED, PREDICTIONS, odds)
    assert (scores['best_em'], scores['best_em_threshold']) == (best_em, em_threshold)
    assert (scores['best_f1'], scores['best_f1_threshold']) == (best_f1, f1_threshold)


def test_odds_above_the_threshold_mean_no_answer():
    odds = {'a': 0.5, 'c': 0.5, 'e': 2.0, 'b': 0.5}
    equal = reading.evaluate_squad2(ACCEPTED, PREDICTIONS, odds, 0.5)
    assert (equal['em'], equal['f1'], equal['no_answer_em']) == (0.5, 0.625, 0.5)
    above = reading.evaluate_squad2(ACCEPTED, PREDICTIONS, odds, 0.0)
    assert (above['em'], above['f1'], above['has_answer_f1'], above['no_answer_em']) == (0.5, 0.5, 0, 1)
