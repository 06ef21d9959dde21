"""reading/: files as they are, windows and targets, both heads, the best answers, whole runs, and what tools make of
them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import SECTIONS, SHARED, function, knobs_of, needs_shared, options, start

import config
from checks.make_demo_chinese import write_model
from engine.backend import keras, tf
from engine.files import UserError, read_json
from engine.metrics.reading import cmrc_scores, evaluate_cmrc
from engine.runs.records import read_predictions, read_run
from engine.runs.status import configuration_differences
from engine.training.prediction import Predictor
from lab.scripts import load_script
from reading import qa
from tools import predict, score
from tools.compare import error_of

NAMES = 'CMRC2018', 'DRCD', 'SQuAD'
SCRIPTS = {name: load_script(f'reading/{name}') for name in NAMES}
MODEL = config.ROOT / 'demo' / 'chinese-reading'
DEMO = config.ROOT / 'demo'


def squad(*items, text='甲在北京，乙在北京。'):
    """A file in SQuAD's form; items: (id, [(answer, first character)] or None)."""
    asked = [{'id': name, 'question': '谁在哪？'} | ({} if answers is None else {'answers': [
        {'text': answer, 'answer_start': place} for answer, place in answers]}) for name, answers in items]
    return {'version': '1', 'data': [{'paragraphs': [{'context': text, 'qas': asked}]}]}


def load(tmp_path, content, split='dev', name='CMRC2018', **knobs):
    """The Questions of this content."""
    file = {'CMRC2018': f'cmrc2018_{split}.json', 'DRCD': f'DRCD_{split}.json', 'SQuAD': f'{split}-v1.1.json'}[name]
    path = tmp_path / name / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    knobs = knobs_of(SCRIPTS[name], f'--data-dir={tmp_path}', f'--model={MODEL}', **knobs)
    return SCRIPTS[name].load_data(knobs, split)


def small_knobs(*more, name='CMRC2018', head='plain'):
    return knobs_of(SCRIPTS[name], '--demo', f'--model={MODEL}', f'--head={head}', '--max-answer=9', '--no-jit', *more)


# ---- Files ----------------------------------------------------------------------------------------------------------


def test_both_forms_are_read(tmp_path):
    first = [{'context_id': 'a', 'context_text': '甲在北京', 'title': 't', 'qas': [
        {'query_id': 'a-1', 'query_text': '哪？', 'answers': ['北京', '在北京']}]}]
    question, = load(tmp_path, first)
    assert question[1:] == (1, 'a-1', '哪？', '甲在北京', ('北京', '在北京'), (2, 1))
    assert question._replace(label=None).label is None
    question, = load(tmp_path, squad(('1', [('北京', 7)])))
    assert (question.index, question.label, question.starts) == ('1', ('北京',), (7,))


def test_wrong_places_are_mended_and_said(tmp_path, capsys):
    answers = [('北京', 2), ('北京', 8), ('北京', 3), ('北京', -1), ('北京', 99), ('39764.0', -1), ('甲在北京', 1),
               ('  ', 4)]
    question, = load(tmp_path, squad(('1', answers)))
    assert question.starts == (2, 7, 2, 2, 2, -1, 0, -1)
    assert question.label[5] == '39764.0'
    said = capsys.readouterr().out
    assert '5 of 8 answers were not where the file says, and were found elsewhere' in said
    assert '2 of 8 answers are not in the paragraph: accepted, but never predicted' in said
    kept = load(tmp_path, squad(('1', [('上海', 0)]), ('2', [('上海', 0), ('乙', 5)])), 'train')
    assert [question.index for question in kept] == ['2']
    assert '1 questions left out' in capsys.readouterr().out


def test_no_answer_is_an_answer_in_squad_alone(tmp_path):
    content = squad(('1', []), ('2', [('北京', 2)]))
    assert [question.label for question in load(tmp_path, content, name='SQuAD')] == [(), ('北京',)]
    with pytest.raises(UserError, match='question 1: its list of answers is empty'):
        load(tmp_path, content)


@pytest.mark.parametrize('content, message', [
    ('{', 'cmrc2018_dev.json, line 1: not valid JSON'),
    ('{}', "cmrc2018_dev.json, the file: no 'data'"),
    ('[]', 'no questions in it'),
    ('3', "the file: no 'data'"),
    ({'data': [{'paragraphs': [{'qas': []}]}]}, "a paragraph: no 'context'"),
    ({'data': [{'paragraphs': 1}]}, "an article: 'paragraphs' is not a list"),
    (squad(('1', [('北京', '2')])), "question 1: 'answer_start' is not a whole number"),
    (squad(('1', [('北京', 2)]), ('1', [('北京', 2)])), 'question 1: this id was there before'),
    (squad(('1', [('北京', 2)]), text=' \n'), 'question 1: its paragraph is empty'),
    (squad(('1', [('北京', 2)]), ('2', None)), 'question 2: no answers. Add them; only a test file may have none'),
    (squad(('1', [('北京', 2)]), text='\ud83d'), "a paragraph: 'context' has half a character"),
    ([{'context_text': '甲', 'qas': [{'query_id': '7', 'query_text': '', 'answers': [1]}]}], 'question 7: '),
])
def test_bad_files_are_said_with_the_question(content, message, tmp_path):
    with pytest.raises(UserError) as error:
        load(tmp_path, content)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_a_test_file_may_have_no_answers(tmp_path):
    assert [question.label for question in load(tmp_path, squad(('1', None), ('2', None)), 'test')] == [None, None]
    with pytest.raises(UserError, match='question 2: no answers'):
        load(tmp_path, squad(('1', [('北京', 2)]), ('2', None)), 'test')


# ---- Windows and targets --------------------------------------------------------------------------------------------


def prepared(tmp_path, answers, knobs, question='谁？', text='甲在北京，乙在北京。'):
    content = squad(*((str(number), [answer]) for number, answer in enumerate(answers)), text=text)
    for item in content['data'][0]['paragraphs'][0]['qas']:
        item['question'] = question
    return qa.prepare(knobs, load(tmp_path, content))


def test_a_window_without_the_whole_answer_points_to_cls(tmp_path):
    # [CLS] 谁 ？ [SEP] and four of the tokens 0 to 9, two apart, [SEP]: windows of 0-3, 2-5, 4-7 and 6-9.
    data = prepared(tmp_path, [('在北京', 1), ('京', 8)], small_knobs('--maxlen=9', '--stride=2'))
    assert data.targets.values.tolist() == [[5, 7], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [6, 6]]


def test_long_questions_are_cut_and_said(tmp_path, capsys):
    data = prepared(tmp_path, [('北京', 2)], small_knobs('--max-query=3'), question='谁在北京？  ')
    assert data.counts[:, 0].tolist() == [3]
    assert '1 questions cut to 3 tokens (--max-query)' in capsys.readouterr().out
    prepared(tmp_path, [('北京', 2)], small_knobs('--max-query=5'), question='谁在北京？  ')
    assert 'cut to' not in capsys.readouterr().out


def test_a_stride_that_skips_text_is_refused(tmp_path):
    with pytest.raises(UserError, match='question 0: a window has room for 4 tokens beside the first text, and wi'):
        prepared(tmp_path, [('北京', 2)], small_knobs('--maxlen=9', '--stride=5'))


def test_the_longest_answer_comes_from_the_training_data(tmp_path, capsys):
    data = prepared(tmp_path, [('京', 3)] * 998 + [('在北京', 1), ('甲在北京，乙', 0)], small_knobs())
    knobs = knobs_of(SCRIPTS['DRCD'], '--demo')
    assert qa.with_longest_answer(knobs, data).max_answer == 3
    assert 'the longest of them has 6' in capsys.readouterr().out
    assert qa.with_longest_answer(small_knobs(), data).max_answer == 9


def test_a_token_may_begin_an_answer_in_the_window_with_most_context(tmp_path):
    data = prepared(tmp_path, [('北京', 2)], small_knobs('--maxlen=15', '--stride=3'),
                    text='甲在北京乙在北京天地人和日月星辰'[:15])
    begins, counts = qa.window_begins(data), data.counts[:, 1]
    spans = list(zip(begins.tolist(), counts.tolist(), strict=True))
    for row, allowed in enumerate(qa.context_maximal(data)):
        expected = [check_is_max_context(spans, row, begins[row] + i) for i in range(counts[row])]
        assert allowed.tolist() == expected


def check_is_max_context(doc_spans, cur_span_index, position):
    """google-research/bert, run_squad.py, _check_is_max_context; a span is (start, length)."""
    best_score = best_span_index = None
    for span_index, (start_of_span, length) in enumerate(doc_spans):
        end = start_of_span + length - 1
        if position < start_of_span or position > end:
            continue
        score = min(position - start_of_span, end - position) + 0.01 * length
        if best_score is None or score > best_score:
            best_score, best_span_index = score, span_index
    return cur_span_index == best_span_index


# ---- An oracle ------------------------------------------------------------------------------------------------------


class Oracle:
    """In place of a Predictor: a model whose outputs point to these positions, (rows, 2)."""

    def __init__(self, knobs, positions):
        self.knobs, self.positions = knobs, positions

    def batches(self, data):
        for rows in np.array_split(np.arange(len(data))[::-1], -(-len(data) // 64)):
            outputs = np.zeros((len(rows), 2, data.lengths[rows].max()), np.float32)
            for logits, row in zip(outputs, rows, strict=True):
                logits[[0, 1], self.positions[row]] = 10.0
            if self.knobs.head == 'joint':
                outputs = np.concatenate([outputs, np.repeat(outputs[:, 1:], self.knobs.n_best, 1)], 1)
            yield rows, [outputs]


def unreachable(knobs, loaded):
    """(share of exact matches, {reason: questions}) of an oracle that points to the first answer in the paragraph."""
    data = qa.prepare(knobs, loaded)
    texts = qa.best_texts(qa.predict(Oracle(knobs, data.targets.values), data), data)
    tokens, windows = qa.answer_tokens(data), data.targets.values.any(1)
    lengths, held = tokens[:, 1] - tokens[:, 0] + 1, np.zeros(len(loaded), bool)
    np.logical_or.at(held, data.example, windows)
    reasons = {'not in the paragraph': 0, 'too long': 0, 'in no window': 0, 'part of a word': 0, 'other window': 0}
    for question, text, length, in_window in zip(loaded, texts, lengths, held, strict=True):
        if cmrc_scores(question.label, text)['em']:
            continue
        first = next((i for i, start in enumerate(question.starts) if start >= 0), None)
        if first is None:
            reasons['not in the paragraph'] += 1
        elif length > knobs.max_answer:
            reasons['too long'] += 1
        elif not in_window:
            reasons['in no window'] += 1
        elif question.label[first] in text and text in question.text_b:
            reasons['part of a word'] += 1
        else:
            reasons['other window'] += 1
    right = evaluate_cmrc({question.index: question.label for question in loaded},
                          {question.index: text for question, text in zip(loaded, texts, strict=True)})
    return right['em'], {reason: count for reason, count in reasons.items() if count}


@pytest.mark.parametrize('head', ['plain', 'joint'])
@pytest.mark.parametrize('name', ['CMRC2018', 'DRCD'])
def test_gold_positions_give_all_answers(name, head):
    loaded = SCRIPTS[name].load_data(small_knobs(name=name), 'dev')
    assert unreachable(small_knobs('--maxlen=32', '--stride=8', name=name, head=head), loaded) == (1.0, {})


def test_what_cannot_be_reached_is_known(tmp_path):
    text = '甲在北京abcd，乙在北京。'
    answers = [('北京', 2), ('上海', 0), ('甲在北京abcd，乙在北京', 0), ('abc', 4), ('在北京abcd', 1)]
    loaded = load(tmp_path, squad(*((str(i), [answer]) for i, answer in enumerate(answers)), text=text))
    knobs = small_knobs('--maxlen=13', '--stride=3', '--max-answer=6')
    score, reasons = unreachable(knobs, loaded)
    assert (score, reasons) == (0.4, {'not in the paragraph': 1, 'too long': 1, 'part of a word': 1})


@needs_shared
@pytest.mark.parametrize('name, file, expected', [
    ('CMRC2018', 'CMRC2018/cmrc2018_dev.json', {}),
    ('DRCD', 'DRCD/DRCD_dev.json', {'part of a word': 1}),
])
def test_gold_positions_give_the_answers_of_real_data(name, file, expected, tmp_path):
    """Of every third question."""
    loaded = qa.load(small_knobs(), 'dev', SHARED / 'chinese' / file)[::3]
    write_model(tmp_path, ''.join({question.text_a + question.text_b for question in loaded}))
    knobs = knobs_of(SCRIPTS[name], f'--model={tmp_path}', '--max-answer=100')
    score, reasons = unreachable(knobs, loaded)
    assert reasons == expected
    assert score == 1 - sum(expected.values()) / len(loaded)


# ---- Predictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('head', ['plain', 'joint'])
def test_predictions_are_pieces_of_the_paragraph(head):
    """Of a model with fresh values, in batches of another order than the file's."""
    knobs = small_knobs('--maxlen=32', '--stride=8', '--n-best=5', '--max-answer=4', head=head)
    loaded = SCRIPTS['CMRC2018'].load_data(knobs, 'dev')
    data = qa.prepare(knobs, [question._replace(label=None) for question in loaded])
    model = SCRIPTS['CMRC2018'].build_model(knobs, 1)
    outputs = qa.predict(Predictor(knobs, model), data)
    assert outputs.shape == (len(loaded), 6, 3)
    assert np.isfinite(outputs).all()
    assert (np.diff(outputs[:, 1:, 2], axis=1) <= 0).all()
    texts = qa.best_texts(outputs, data)
    assert all(text in question.text_b for text, question in zip(texts, loaded, strict=True))
    assert all(texts)
    assert len({tuple(span[:2]) for span in outputs[0, 1:]}) == 5
    lengths = (outputs[:, 1:, 1] - outputs[:, 1:, 0]).astype(int)
    assert lengths.min() >= 1


def test_what_may_be_no_answer_is_masked():
    knobs = small_knobs()
    model = SCRIPTS['CMRC2018'].build_model(knobs, 1)
    ids, segments = np.array([[2, 7, 3, 8, 9, 3, 0, 0]]), np.array([[0, 0, 0, 1, 1, 1, 0, 0]])
    logits = model([ids, segments], training=False).numpy()
    assert ((logits > qa.MASKED_LOGIT) == (np.array([1, 0, 0, 1, 1, 0, 0, 0]) == 1)).all()


def test_the_joint_head_is_that_of_electra():
    """Against NumPy: the beginning is given in training, and one of the top_starts ones in prediction."""
    random, (batch, length, hidden) = np.random.default_rng(0), (2, 6, 4)
    vectors = random.normal(size=(batch, length, hidden)).astype(np.float32)
    ids, segments = np.ones((batch, length)), np.tile([0, 0, 1, 1, 1, 1], (batch, 1))
    allowed = np.array([1, 0, 1, 1, 1, 1], bool)        # the last token is no [SEP] here but is what one would be
    allowed[-1] = False
    starts = np.where(allowed, random.normal(size=(batch, 1, length)), qa.MASKED_LOGIT).astype(np.float32)
    layer = qa.JointSpanHead(3, keras.initializers.GlorotUniform(0))
    inputs = [tf.constant(x) for x in (vectors, starts, np.array([[4], [3]]), ids, segments)]
    trained, predicted = layer(inputs, training=True).numpy(), layer(inputs, training=False).numpy()
    kernel, bias, end_kernel, end_bias = (weight.numpy() for weight in layer.weights)

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    def gelu(x):
        return x * 0.5 * (1 + tf.math.erf(x / 2 ** 0.5).numpy())

    def ends(row, place):
        both = np.concatenate([np.tile(vectors[row, place], (length, 1)), vectors[row]], 1)
        return log_softmax(np.where(allowed, (gelu(both @ kernel + bias) @ end_kernel + end_bias)[:, 0], -1e9))

    for row, gold in enumerate([4, 3]):
        np.testing.assert_allclose(trained[row], [log_softmax(starts[row, 0]), ends(row, gold)], rtol=1e-4, atol=1e-4)
        top_starts = np.argsort(-starts[row, 0, 1:])[:3] + 1
        expected = [log_softmax(starts[row, 0]), *(ends(row, place) for place in (0, *top_starts))]
        np.testing.assert_allclose(predicted[row], expected, rtol=1e-4, atol=1e-4)


def test_the_threshold_is_the_best_one_on_dev(tmp_path):
    content = squad(('1', []), ('2', []), ('3', [('北京', 2)]), ('4', [('北京', 2)]))
    data = qa.prepare(small_knobs(name='SQuAD'), load(tmp_path, content, name='SQuAD'))
    outputs = np.full((4, 3, 3), (-1, -1, qa.MASKED_LOGIT), np.float32)
    outputs[:, 1] = 2, 4, 5.0
    outputs[:, 0] = 0, 0, 0.0
    outputs[:, 0, 2] = 9.0, 6.0, 5.5, 1.0       # how likely there is no answer: 4, 1, 0.5, -4 more than the best text
    script = SCRIPTS['SQuAD']
    assert qa.null_threshold(outputs, data) == 0.5
    assert script.answers(outputs, data) == ['', '', '北京', '北京']
    assert script.score(outputs, data) == {'em': 1.0, 'f1': 1.0}
    outputs[2:, 0, 2] = 20.0        # no threshold helps: '' for all is as good as it gets
    assert script.answers(outputs, data) == [''] * 4
    all_have = qa.prepare(small_knobs(name='SQuAD'), load(tmp_path, squad(('1', [('北京', 2)])), name='SQuAD'))
    assert script.answers(outputs[:1], all_have) == ['北京']
    unknown = qa.prepare(small_knobs(name='SQuAD'), load(tmp_path, squad(('1', None)), 'test', name='SQuAD'))
    assert script.answers(outputs[:1], unknown) == ['']


# ---- Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name, more', [('CMRC2018', []), ('DRCD', ['--head=plain']), ('SQuAD', ['--version=2.0'])])
def test_a_whole_run(name, more, tmp_path, tiny_bert, capsys):
    script, model = SCRIPTS[name], tiny_bert if name == 'SQuAD' else MODEL
    args = [*options(tmp_path, model), '--no-fresh', *more]
    folder = tmp_path / 'runs' / 'reading' / name / f'{model.name}-seed42'
    folder.mkdir(parents=True)
    (folder / f'{name}_null_odds.json').write_text('of an earlier run')
    start(script, *args)
    said = capsys.readouterr().out
    assert ('test, predicted once, by the best epoch on dev: em' in said) == (name == 'DRCD')
    split = 'test' if name == 'DRCD' else 'dev'
    loaded = script.load_data(knobs_of(script, '--demo', *more), split)
    predictions = read_json(tmp_path / 'results' / f'{name}.json')
    assert predictions == read_json(folder / f'{name}.json')
    assert list(predictions) == [question.index for question in loaded]
    assert all(predictions[question.index] in question.text_b for question in loaded)
    configuration = read_json(folder / 'config.json')
    settled = configuration['knobs']
    assert settled['max_answer'] > 0
    assert configuration['found'] == ['max_answer', *['null_threshold'] * (name == 'SQuAD')]
    default = configuration | {'knobs': settled | {'max_answer': 0}}
    assert configuration_differences(configuration, default, True) == []
    chosen = configuration | {'found': []}      # a run with --max-answer is not the one without
    assert configuration_differences(chosen, default, True) == [f'max_answer: {settled["max_answer"]} -> 0']
    n_best = read_json(folder / f'{name}_nbest.json')
    assert sum(answer['probability'] for answer in n_best[loaded[0].index]) == pytest.approx(1)
    assert (folder / f'{name}_null_odds.json').is_file() == (name == 'SQuAD')

    answers = {answer.row: answer for answer in read_predictions(read_run(folder))}
    assert {error_of(answer, False) for answer in answers.values()} == {0.0, 1.0}
    if name != 'DRCD':
        assert all(answers[row].prediction == text for row, text in enumerate(predictions.values()))

    metrics = read_json(folder / 'metrics.json')
    assert np.mean([answer.loss for answer in answers.values()]) == pytest.approx(1 - metrics['best']['f1'], abs=1e-4)
    expected = metrics['test'] if name == 'DRCD' else metrics['best']
    capsys.readouterr()
    assert score.main([name, loaded[0].file, str(folder / f'{name}.json')]) == 0
    assert f'em {100 * expected["em"]:.2f}\nf1 {100 * expected["f1"]:.2f}\n' in capsys.readouterr().out

    (tmp_path / 'results' / f'{name}.json').unlink()
    start(script, *args)
    said = capsys.readouterr().out
    assert 'This run is finished' in said
    assert f'its predictions: {tmp_path}/results/{name}.json' in said
    with pytest.raises(SystemExit):
        start(script, *args, '--max-answer=1')
    assert f'max_answer: {settled["max_answer"]} -> 1' in capsys.readouterr().err
    if name == 'DRCD':
        question = loaded[0]
        assert predict.main([str(folder), '--text', question.text_a, '--text-b', question.text_b]) == 0
        assert capsys.readouterr().out.splitlines() == ['prediction', predictions[question.index]]


@pytest.mark.parametrize('change, message', [
    ({'x': '北京'}, 'none of its ids is one of'),
    ({'1': 3}, 'question 1: not a text'),
    ({'1': ''}, 'no prediction for 1 of 2 questions, the first 2'),
])
def test_bad_predictions_are_said(change, message, tmp_path, capsys):
    load(tmp_path, squad(('1', []), ('2', [('北京', 2)])), name='SQuAD')
    predictions = tmp_path / 'p.json'
    predictions.write_text(json.dumps(change))
    assert score.main(['SQuAD', str(tmp_path / 'SQuAD/dev-v1.1.json'), str(predictions)]) == 2
    assert message in capsys.readouterr().err


# ---- The three scripts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', NAMES)
def test_sections_and_names(name):
    text = Path(SCRIPTS[name].__file__).read_text()
    assert re.findall(r'^# ---- (.*?) -+$', text, re.M) == SECTIONS
    assert re.findall(r'^def (\w+)', text, re.M) == [
        'load_data', 'prepare', 'build_model', 'predict', 'score', 'answers', 'losses', 'score_files', 'main']
    assert f'uv run reading/{name}.py' in text and 'Expect' in text
    assert len(text.splitlines()) <= 130
    assert function(f'reading/{name}', 'build_model') == function('reading/CMRC2018', 'build_model')


def test_cmrc_and_drcd_differ_in_their_data_alone():
    for which in ('predict', 'score', 'answers', 'losses', 'score_files'):
        assert function('reading/CMRC2018', which) == function('reading/DRCD', which)
    one, other = (re.sub(rf'{name}|"""[\s\S]*?"""|splits = .*', '', function(f'reading/{name}', 'main'))
                  for name in ('CMRC2018', 'DRCD'))
    assert one == other
