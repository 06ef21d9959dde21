"""tagging/: files of words and tags, words and their tokens, conditional random fields, whole runs, the tools."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import function, knobs_of, options, start, write
from scipy.special import softmax
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import log_loss

import config
import snippets
from engine.backend import tf
from engine.data import conll
from engine.files import UserError, read_json
from engine.metrics.entities import all_scores
from engine.model.crf import CRF, path_scores
from lab.scripts import load_script
from tagging import ner
from tools import convert, export, leaderboard, predict, score

NAMES = 'WNUT17', 'MSRA', 'PeopleDaily'
SCRIPTS = {name: load_script(f'tagging/{name}') for name in NAMES}
MODEL = config.ROOT / 'demo' / 'chinese-tags'

# ---- Files ----------------------------------------------------------------------------------------------------------


def knobs_for(name, *options):
    return knobs_of(SCRIPTS[name], f'--model={MODEL}', *options)


def read(name, path, split='train'):
    """[(line, words, tags)] of what a script reads."""
    knobs = knobs_for(name)
    examples = ner.load_conll(knobs, split, path)
    return [(example.line, example.text_a, example.label and ' '.join(knobs.labels[i] for i in example.label))
            for example in examples]


@pytest.mark.parametrize('content', [
    '中 B-LOC\n国 I-LOC\n人 O\n\n好 O\n',
    '\ufeff\n\n中\tB-LOC\r\n国\tI-LOC\r\n人\tO\r\n\t\r\n \r\n好\tO\r\n\r\n\r\n',
    '中 NN x B-LOC\n国 NN x I-LOC\n人 NN x O \n\n好 NN x O',
    '中 B-LOC\n国 E-LOC\n人 O\n\n好 O\n',
    '中 I-LOC\n国 I-LOC\n人 O\n\n好 O\n',
])
def test_a_word_a_line(content, tmp_path):
    write(tmp_path, 'train', content)
    (first, *one), (second, *other) = read('MSRA', tmp_path / 'train')
    assert (one, other) == (['中 国 人', 'B-LOC I-LOC O'], ['好', 'O'])
    lines = content.splitlines()
    assert (lines[first - 1].lstrip('\ufeff')[0], lines[second - 1][0]) == ('中', '好')


def test_a_wide_blank_is_a_word(tmp_path):
    write(tmp_path, 'train', '中 O\n\u3000 O\n')
    assert read('MSRA', tmp_path / 'train') == [(1, '中 \u3000', 'O O')]


def test_a_test_file_may_have_words_only(tmp_path):
    write(tmp_path, 'test', '中\n国\n\n好\n')
    assert read('MSRA', tmp_path / 'test', 'test') == [(1, '中 国', None), (4, '好', None)]
    with pytest.raises(UserError, match='test, line 1: a word without a tag'):
        read('MSRA', tmp_path / 'test', 'dev')


@pytest.mark.parametrize('content, message', [
    ('中 O\n国\n', 'train, line 2: 1 columns instead of 2'),
    ('中 O\n\n国 x O\n', 'train, line 3: 3 columns instead of 2'),
    ('中 O\n国 B-PLACE\n', "train, line 2: the tag 'B-PLACE' is none of O, B-PER"),
    ('中 O\n国 B-LOC,B-ORG\n', "train, line 2: the tag 'B-LOC,B-ORG' is none of"),
    ('中 O\nNew York\tB-LOC\n', "train, line 2: the word 'New York' has a blank in it"),
    ('中 O\n\tO\n', "train, line 2: the word '' has a blank in it"),
    ('\n \n\t\n', 'train: no words in it'),
    (b'\xbc O\n', 'line 1: byte 0xbc is not UTF-8'),
])
def test_bad_files_are_said_with_their_line(content, message, tmp_path):
    write(tmp_path, 'train', content)
    with pytest.raises(UserError) as error:
        read('MSRA', tmp_path / 'train')
    assert message in str(error.value)


SENTENCES = ['O B-PER I-PER O B-LOC', 'B-PER B-PER I-PER B-LOC I-LOC I-LOC O', 'O O', 'B-LOC', 'B-ORG I-ORG O B-ORG']
SCHEMES = ['IOB2', 'IOB1', 'BIOES', 'BMES', 'BILOU']


@pytest.mark.parametrize('scheme', SCHEMES)
def test_schemes_there_and_back(scheme):
    tags = [sentence.split() for sentence in SENTENCES]
    written = [conll.from_iob2(sentence, scheme) for sentence in tags]
    assert conll.scheme_of([conll.Sentence(1, [], sentence) for sentence in written]) == scheme
    assert [conll.to_iob2(sentence) for sentence in written] == tags
    if scheme not in ('BMES', 'BILOU'):         # which seqeval does not read like this
        assert [get_entities(sentence) for sentence in written] == [get_entities(sentence) for sentence in tags]


def test_an_entity_that_opens_with_i_stays_as_it_is_in_iob2():
    tags = [['O', 'I-PER', 'I-PER'], ['B-LOC', 'O']]
    assert conll.scheme_of([conll.Sentence(1, [], sentence) for sentence in tags]) == 'IOB2'
    assert conll.from_iob2(tags[0], 'IOB2') == tags[0]
    assert conll.from_iob2(tags[0], 'BIOES') == ['O', 'B-PER', 'E-PER']


def test_scores_in_both_senses():
    """The example of seqeval's README: what opens with I-."""
    gold, predicted = [['B-PER', 'I-PER', 'O', 'B-LOC']], [['I-PER', 'I-PER', 'O', 'B-LOC']]
    scores = all_scores(gold, predicted)
    assert scores == {'f1': 1.0, 'f1_strict': pytest.approx(2 / 3), 'f1_LOC': 1.0, 'f1_PER': 1.0}


def test_losses_are_the_cross_entropy_of_words():
    logits = [np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], np.float32)), np.array([[4.0, 0.0, 9.0]], np.float32)]
    data = SimpleNamespace(examples=[SimpleNamespace(label=(1, 1)), SimpleNamespace(label=(2,))])
    expected = [log_loss(example.label, softmax(scores, -1), labels=[0, 1, 2])
                for scores, example in zip(logits, data.examples, strict=True)]
    np.testing.assert_allclose(ner.cross_entropy(logits, data), expected, rtol=1e-5)


# ---- Words and tokens -----------------------------------------------------------------------------------------------

LONG = ['unhappy', 'birds', 'sing', '\u200b', 'unhappy', 'songs', 'all', 'the', 'long', 'day'] * 3


def examples_of(*sentences):
    return [snippets.Example('made up', i, i, ' '.join(sentence), None, tuple(range(len(sentence))))
            for i, sentence in enumerate(sentences)]


@pytest.mark.parametrize('stride', [2, 5, 0])
def test_every_word_is_tagged_once_where_it_has_the_most_context(stride, tiny_bert):
    knobs = knobs_of(SCRIPTS['WNUT17'], f'--model={tiny_bert}', '--maxlen=12', f'--stride={stride}')
    data = snippets.tokenize(knobs, examples_of(LONG, ['birds'], LONG[:4], ['\u200b']))
    places = ner.word_places(data)
    assert len(places) == len(data)
    seen = {}
    for row, (own, numbers) in enumerate(places):
        sentence = data.examples[data.example[row]].text_a.split(' ')
        begins = np.cumsum([0, *(len(word) + 1 for word in sentence)])
        assert data.row(row).offsets[own, 0].tolist() == begins[numbers].tolist()
        for place, number in zip(own, numbers, strict=True):
            assert (data.example[row], number) not in seen
            seen[data.example[row], number] = min(place - 1, data.tokens[row] - place)
    with_tokens = {(i, j) for i, example in enumerate(data.examples)
                   for j, word in enumerate(example.text_a.split(' ')) if word != '\u200b'}
    assert set(seen) == with_tokens
    for (i, number), context in seen.items():
        begin = sum(len(word) + 1 for word in data.examples[i].text_a.split(' ')[:number])
        for row in np.flatnonzero(data.example == i):
            for place in np.flatnonzero(data.row(row).offsets[:, 0] == begin):
                assert min(place - 1, data.tokens[row] - place) <= context


def test_labels_are_on_first_tokens(tiny_bert):
    knobs = knobs_of(SCRIPTS['WNUT17'], f'--model={tiny_bert}', '--maxlen=12')
    data = ner.prepare(knobs, examples_of(LONG[:6]))
    found = [(token, label) for row in range(len(data))
             for token, label in zip(data.row(row).ids, data.targets.values[row], strict=True) if label >= 0]
    firsts = [make_ids(tiny_bert, word)[0] for word in LONG[:6] if word != '\u200b']
    assert sorted(found, key=lambda pair: pair[1]) == list(zip(firsts, [0, 1, 2, 4, 5], strict=True))


def make_ids(model, word):
    return snippets.tokenize(knobs_of(SCRIPTS['WNUT17'], f'--model={model}'), examples_of([word])).row(0).ids[1:-1]


class Fixed:
    """A Predictor of random logits, the same for the same token of the text."""
    model = None

    def predict(self, data):
        rows = [data.row(i) for i in range(len(data))]
        return [np.sin(7.0 * np.arange(3) + 5.0 * row.ids[:, None]) for row in rows]


def test_what_was_in_windows_is_one_sentence_again(tiny_bert):
    outputs = []
    for maxlen in (128, 12):
        knobs = knobs_of(SCRIPTS['WNUT17'], f'--model={tiny_bert}', f'--maxlen={maxlen}', '--labels=O,B-a,I-a')
        outputs.append(ner.predict(Fixed(), snippets.tokenize(knobs, examples_of(LONG, ['birds', '\u200b']))))
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [len(scores) for scores in outputs[0]] == [30, 2]
    assert outputs[0][1].argmax(1)[1] == outputs[0][0].argmax(1)[3] == 0        # of no tokens: O


# ---- Conditional random fields --------------------------------------------------------------------------------------


def random_crf(labels):
    random, crf = np.random.default_rng(0), CRF(name='crf')
    crf(np.zeros((1, 2, labels), np.float32))
    for variable in crf.weights:
        variable.assign(random.normal(size=variable.shape))
    return crf


def all_paths(logits, crf):
    """{path: score} of a sentence, (words, labels), by enumeration."""
    transitions, begin, end = crf.parameters()
    scores = {}
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        steps = sum(transitions[a, b] for a, b in zip(path, path[1:], strict=False))
        scores[path] = begin[path[0]] + end[path[-1]] + steps + sum(logits[i, y] for i, y in enumerate(path))
    return scores


TARGETS = np.array([[-1, 0, 2, -1, 1, -1], [-1, 1, -1, -1, -1, -1], [-1] * 6, [0, 1, 2, 2, 1, 0]])


def test_the_likelihood_is_that_of_enumeration():
    crf, logits = random_crf(3), np.random.default_rng(1).normal(size=(4, 6, 3)).astype(np.float32)
    loss = crf.loss(tf.constant(TARGETS, tf.int32), crf(logits)).numpy()
    assert (loss[TARGETS < 0] == 0).all()
    for row in (0, 1, 3):
        real = TARGETS[row] >= 0
        scores = all_paths(logits[row, real].astype(np.float64), crf)
        expected = np.logaddexp.reduce(list(scores.values())) - scores[tuple(TARGETS[row, real])]
        np.testing.assert_allclose(loss[row, real], expected / real.sum(), rtol=1e-5)


def test_without_transitions_it_is_a_softmax():
    crf, logits = CRF(name='crf'), np.random.default_rng(1).normal(size=(4, 6, 3)).astype(np.float32)
    targets, real = tf.constant(TARGETS, tf.int32), TARGETS >= 0
    cross_entropy = snippets.keras.losses.sparse_categorical_crossentropy(np.maximum(TARGETS, 0), logits, True).numpy()
    np.testing.assert_allclose(crf.loss(targets, crf(logits)).numpy().sum(1), (cross_entropy * real).sum(1), rtol=1e-5)


def test_the_best_path_is_that_of_enumeration(monkeypatch):
    """Of sentences of all lengths, several at once."""
    monkeypatch.setattr('engine.model.crf.SENTENCES_AT_ONCE', 5)
    random, crf = np.random.default_rng(2), random_crf(3)
    logits = [random.normal(size=(length, 3)) for length in (2, 5, 0, 1, 6, 3, 6, 1, 4, 5, 5, 2)]
    for sentence, scores in zip(logits, path_scores(logits, crf.parameters()), strict=True):
        assert scores.shape == sentence.shape
        if len(sentence):
            of_paths = all_paths(sentence, crf)
            best = max(of_paths, key=of_paths.get)
            assert tuple(scores.argmax(1)) == best
            for word, label in np.ndindex(scores.shape):
                through = max(score for path, score in of_paths.items() if path[word] == label)
                assert scores[word, label] == pytest.approx(through - of_paths[best], abs=1e-5)


# ---- Runs and tools -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name, crf', [('WNUT17', True), ('MSRA', False), ('PeopleDaily', True)])
def test_a_whole_run(name, crf, tmp_path, tiny_bert, capsys):
    model = tiny_bert if name == 'WNUT17' else MODEL
    start(SCRIPTS[name], *options(tmp_path, model), *['--crf'] * crf)
    assert 'test, predicted once, by the best epoch on dev: f1' in capsys.readouterr().out
    folder = tmp_path / 'runs' / 'tagging' / name / f'{model.name}-seed42'
    gold = {'WNUT17': 'emerging.test.annotated', 'MSRA': 'test.txt', 'PeopleDaily': 'example.test'}[name]
    result, = (tmp_path / 'results').iterdir()
    gold = config.ROOT / 'demo' / name / gold
    assert re.sub(r'\S+\n', '', gold.read_text()) == re.sub(r'\S+\n', '', result.read_text())
    assert score.main([name, str(gold), str(result)]) == 0
    said = dict(line.split(' ') for line in capsys.readouterr().out.splitlines())
    scores = read_json(folder / 'metrics.json')['test']
    assert said == {metric: f'{100 * value:.2f}' for metric, value in scores.items()}
    result.unlink()
    start(SCRIPTS[name], *options(tmp_path, model), *['--crf'] * crf, '--no-fresh')
    assert 'This run is finished' in capsys.readouterr().out
    assert result.is_file()
    assert export.main([str(folder), '--format', 'savedmodel']) == (2 if crf else 0)
    assert ('by its CRF' in capsys.readouterr().err) == crf
    assert convert.main([str(folder), str(tmp_path / 'hf')]) == 0
    assert read_json(tmp_path / 'hf' / 'config.json')['architectures'][0].endswith('ForTokenClassification')
    assert (tmp_path / 'hf' / 'crf.safetensors').is_file() == crf
    capsys.readouterr()
    answers = []
    for place in [folder] if crf else [folder, folder / 'savedmodel']:
        assert predict.main([str(place), '--text', ' 王小红 在北京。']) == 0
        answers.append(capsys.readouterr().out.splitlines()[1].split())
    assert {len(tags) for tags in answers} == {2 if name == 'WNUT17' else 7}
    assert len(set(map(tuple, answers))) == 1


@pytest.mark.parametrize('content', ['中 x E-LOC\n国 x S-LOC\n\n好 x O\n', '中\n国\n\n好\n'])
def test_predictions_are_written_as_the_test_file_is(content, tmp_path, capsys):
    write(tmp_path, 'test', content)
    knobs = knobs_for('MSRA', f'--runs-dir={tmp_path}/runs', f'--results-dir={tmp_path}/results')
    (tmp_path / 'runs' / 'tagging' / 'MSRA' / 'chinese-tags-seed42').mkdir(parents=True)
    examples = ner.load_conll(knobs, 'test', tmp_path / 'test')
    outputs = [np.zeros((2, 7)), np.zeros((1, 7))]
    ner.write_conll(knobs, 'MSRA.txt', examples, outputs, [['B-LOC', 'I-LOC'], ['B-PER']])
    expected = {'中 x E-LOC\n': '中 x B-LOC\n国 x E-LOC\n\n好 x S-PER\n\n',
                '中\n国\n\n好\n': '中\tB-LOC\n国\tI-LOC\n\n好\tB-PER\n\n'}
    assert (tmp_path / 'results' / 'MSRA.txt').read_text() == expected.get(content, expected[content[:10]])


@pytest.mark.parametrize('content, message', [
    ('中 O\n国 O\n', "predictions, line 2: '国' instead of '人', line 2 of"),
    ('中 O\n', "predictions, line 2: the end of the sentence instead of '人', line 2 of"),
    ('中 O\n人 O\n好 O\n', "predictions, line 3: '好' instead of the end of the sentence"),
    ('中 O\n人 O\n', 'predictions: 1 sentences instead of 2'),
    ('中\n人\n', 'predictions, line 1: words without tags'),
])
def test_files_that_do_not_match_are_refused(content, message, tmp_path, capsys):
    write(tmp_path, 'gold', '中 B-LOC\n人 O\n\n好 O\n')
    write(tmp_path, 'predictions', content)
    assert score.main(['tagging/MSRA', str(tmp_path / 'gold'), str(tmp_path / 'predictions')]) == 2
    assert message in capsys.readouterr().err
    assert score.main(['MSRA', str(tmp_path / 'gold')]) == 2
    assert 'name two files, with the right answers' in capsys.readouterr().err


def test_the_scheme_is_that_of_the_labels(tmp_path, capsys):
    """Predictions that open with I- alone are no IOB1 where the labels are IOB2."""
    write(tmp_path, 'gold', '中 B-LOC\n人 O\n')
    write(tmp_path, 'predictions', '中 I-LOC\n人 O\n')
    assert score.main(['MSRA', str(tmp_path / 'gold'), str(tmp_path / 'predictions')]) == 0
    assert 'f1 100.00\nf1_strict 0.00\n' in capsys.readouterr().out


def test_the_three_differ_in_their_data_alone():
    for which in ('build_model', 'predict', 'score', 'answers', 'losses', 'score_files', 'main'):
        assert len({function(f'tagging/{name}', which).replace(f'{name}.conll', f'{name}.txt').replace(name, '')
                    for name in NAMES}) == 1
    for name in NAMES:
        assert len(Path(SCRIPTS[name].__file__).read_text().splitlines()) <= 130


def test_scripts_of_different_languages_want_a_model():
    for demo in ([], ['--demo']):
        with pytest.raises(UserError, match='different default models'):
            leaderboard.run(['tagging', *demo])
