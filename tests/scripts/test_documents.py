"""documents/: windows and layers against a numpy model, what is dev, what is read, whole runs."""

import csv
import json
import tarfile

import numpy as np
import pytest
from helpers import knobs_of, options, start
from scipy.special import softmax

import config
import snippets
from checks.make_demo import BAD, GOOD
from engine.files import UserError, read_json
from engine.model import windows
from engine.model.checkpoints import model_spec, open_model
from engine.model.encoders import named_weights
from engine.model.layers import Dropout
from engine.training import optimizers
from lab.reference import numpy_model
from lab.reference.random_model import SIZES, random_variables, write_google
from lab.scripts import load_script
from snippets import tf
from tools import export, predict, score

IMDB, TREC, YAHOO = SCRIPTS = [load_script(f'documents/{name}') for name in ('IMDB', 'TREC', 'Yahoo')]
TEXTS = ['a b c', 'a b c d e f g h', '', 'one two three four', 'x y z ' * 9]


def examples(texts):
    return [snippets.Example('file', i + 1, i, text, None, i % 2) for i, text in enumerate(texts)]


# ---- Windows --------------------------------------------------------------------------------------------------------


def test_windows_of_a_text_are_one_row(tiny_bert):
    knobs = knobs_of(IMDB, '--model', tiny_bert, '--maxlen', 8, '--truncation', 'windows')
    data = snippets.tokenize(knobs, examples(TEXTS))
    letters = {text: data.vocabulary.tokenizer.encode(text).ids for text in TEXTS}
    cls, sep = data.vocabulary.cls, data.vocabulary.sep
    for i, text in enumerate(TEXTS):
        parts = [letters[text][start:start + 6] for start in range(0, max(len(letters[text]), 1), 6)]
        row = [token for part in parts for token in [cls, *part, sep] + [0] * (6 - len(part))]
        if len(parts) == 1:
            row = [token for token in row if token]
        ids, segments = data.batch([i])
        assert ids[0].tolist() == row
        assert data.lengths[i] == len(row)
        assert not segments.any()
    ids, _ = data.batch(np.arange(len(TEXTS)), [16, 48])
    assert ids.shape == (len(TEXTS), 48)
    assert len(data) == len(TEXTS) and data.gold.tolist() == [0, 1, 0, 1, 0]


def build(knobs, tiny_bert):
    """The script's model, its classifier and attention with larger values than they begin with."""
    model = IMDB.build_model(knobs, 10)
    chance = np.random.default_rng(0)
    for name, variable in named_weights(model).items():
        if name.startswith(('classifier', 'attention')):
            variable.assign(chance.normal(size=variable.shape) / 4)
    return model, {name: variable.numpy() for name, variable in named_weights(model).items()}


@pytest.mark.parametrize('combine', ['mean', 'max', 'attention'])
def test_the_vector_of_a_text_is_made_of_those_of_its_windows(combine, tiny_bert):
    """Against the encoder in numpy, window by window."""
    knobs = knobs_of(IMDB, '--model', tiny_bert, '--maxlen', 10, '--truncation', 'windows', '--combine', combine,
                     '--stride', 5, '--pooling', 'cls')
    data = snippets.tokenize(knobs, examples(TEXTS))
    model, weights = build(knobs, tiny_bert)
    encoder = numpy_model.ReferenceModel('bert', open_model(str(tiny_bert), '').config, 'cls', weights)
    expected = []
    for i in range(len(TEXTS)):
        vectors = []
        for window in np.flatnonzero(data.windows.example == i):
            states, _ = encoder.encode(*data.windows.batch([window]))
            vectors.append(states[-1][0, 0])
        vectors = np.array(vectors)
        if combine == 'mean':
            text = vectors.mean(0)
        elif combine == 'max':
            text = vectors.max(0)
        else:
            kernel, bias, score = (value for name, value in weights.items() if name.startswith('attention'))
            text = softmax(np.tanh(vectors @ kernel + bias) @ score, 0)[:, 0] @ vectors
        expected.append(text @ weights['classifier/kernel'] + weights['classifier/bias'])
    logits = model.predict_on_batch(list(data.batch(np.arange(len(TEXTS)))))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def slopes(model, data, at_once):
    """(loss, {variable's number: gradient}) of a batch in training, the windows computed so many at a time."""
    window_layer = next(layer for layer in model.layers if isinstance(layer, windows.EncodeWindows))
    window_layer.at_once = at_once
    for i, dropout in enumerate(layer for layer in model.submodules if isinstance(layer, Dropout)):
        dropout.generator.reset_from_seed(i)
    inputs = [tf.constant(values) for values in data.batch(np.arange(len(data)))]

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(inputs, training=True)))
        return loss, [tf.convert_to_tensor(one) for one in tape.gradient(loss, model.trainable_weights)]
    return compute()


@pytest.mark.parametrize('dropout', [0.0, 0.3])
def test_windows_that_are_computed_twice_have_the_same_gradient(dropout, tmp_path, monkeypatch):
    """As that of the parts computed once, with the same random numbers; without dropout as that of all at once."""
    sizes = SIZES | {'hidden_dropout_prob': dropout, 'attention_probs_dropout_prob': dropout}
    folder = write_google(tmp_path / 'model', random_variables('bert', sizes), sizes)
    knobs = knobs_of(IMDB, '--model', folder, '--maxlen', 8, '--truncation', 'windows', '--dropout', dropout)
    data = snippets.tokenize(knobs, examples(TEXTS))
    model, _ = build(knobs, folder)
    loss, gradients = slopes(model, data, 3)

    def once(self, ids, segments):
        vectors = [self.encode((ids[start:start + 3], segments[start:start + 3]), training=True)
                   for start in range(0, int(data.counts.sum()), 3)]
        return tf.concat(vectors, 0)
    monkeypatch.setattr(windows.EncodeWindows, 'encode_recomputing', once)
    expected_loss, expected = slopes(model, data, 3 if dropout else 0)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    largest = max(float(tf.reduce_max(tf.abs(one))) for one in expected)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * largest)


# ---- Layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('layers', 'join'), [('1', 'concat'), ('2,1', 'concat'), ('all', 'mean'), ('all', 'max')])
@pytest.mark.parametrize('pooling', ['cls', 'mean'])
def test_the_layers_that_feed_the_classifier(layers, join, pooling, tiny_bert):
    knobs = knobs_of(IMDB, '--model', tiny_bert, '--layers', layers, '--join', join, '--pooling', pooling, '--maxlen',
                     16)
    data = snippets.tokenize(knobs, examples(TEXTS[:2]))
    model, weights = build(knobs, tiny_bert)
    encoder = numpy_model.ReferenceModel('bert', model_spec(knobs).config, 'cls', weights)
    for row in range(2):
        states, _ = encoder.encode(*data.batch([row]))
        numbers = {'all': [1, 2], '1': [1], '2,1': [2, 1]}[layers]
        vectors = [states[number][0].mean(0) if pooling == 'mean' else states[number][0, 0] for number in numbers]
        vector = {'concat': np.concatenate, 'mean': lambda some: np.mean(some, 0),
                  'max': lambda some: np.max(some, 0)}[join](vectors)
        expected = vector @ weights['classifier/kernel'] + weights['classifier/bias']
        logits = model.predict_on_batch(list(data.batch([row])))[0]
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_layers_that_the_model_has_not(tiny_bert):
    for layers in ('3', '0', '-1', 'first', ''):
        with pytest.raises(UserError, match='--layers .*: last, last4, all, or numbers from 1 to 2'):
            IMDB.build_model(knobs_of(IMDB, '--model', tiny_bert, f'--layers={layers}'), 10)


def test_rates_decay_as_in_the_paper(tiny_bert):
    """Sun et al. 2019, section 5.3.4: the rate of a layer is that of the layer above it times the decay factor."""
    knobs = knobs_of(IMDB, '--model', tiny_bert, '--layer-decay', 0.9, '--pooling', 'pooler')
    model = IMDB.build_model(knobs, 10)
    rates = {name: model.optimizer.rates[variable.ref()][0] for name, variable in named_weights(model).items()}
    assert rates['classifier/kernel'] == rates['bert/pooler/dense/kernel'] == 1
    assert rates['bert/encoder/layer_1/output/dense/kernel'] == 1
    assert rates['bert/encoder/layer_0/output/dense/kernel'] == pytest.approx(0.9)
    assert rates['bert/embeddings/word_embeddings'] == pytest.approx(0.81)
    assert optimizers.DECAY_EXPONENTS['electra'](2, 2) == 2


# ---- Rows -----------------------------------------------------------------------------------------------------------


def test_dev_is_a_tenth_of_every_label_whatever_the_seed():
    data = '--data-dir', config.ROOT / 'demo'
    parts = {split: TREC.load_data(knobs_of(TREC, *data), split) for split in ('train', 'dev', 'test')}
    assert len(parts['train']) == 270 and len(parts['dev']) == 30 and len(parts['test']) == 100
    lines = {split: [example.line for example in rows] for split, rows in parts.items()}
    assert sorted(lines['train'] + lines['dev']) == list(range(1, 301))
    for label in range(6):
        of_label = [sum(example.label == label for example in parts[split]) for split in ('train', 'dev')]
        assert abs(of_label[1] - sum(of_label) / 10) < 1
    again = TREC.load_data(knobs_of(TREC, *data, '--seed', 7, '--limit', 60), 'dev')
    assert again == parts['dev']
    assert TREC.load_data(knobs_of(TREC, *data, '--split-seed', 1), 'dev') != parts['dev']
    few = TREC.load_data(knobs_of(TREC, *data, '--limit', 60), 'train')
    assert len(few) == 60 and {example.label for example in few} == set(range(6)) and set(few) < set(parts['train'])
    assert len(TREC.load_data(knobs_of(TREC, *data, '--limit', 269), 'train')) == 269
    with pytest.raises(UserError, match='too few for --dev-share 0.01 with all labels'):
        TREC.load_data(knobs_of(TREC, *data, '--dev-share', 0.01), 'train')


def unpacked(tmp_path):
    with tarfile.open(config.ROOT / 'demo/IMDB/aclImdb_v1.tar.gz') as archive:
        archive.extractall(tmp_path / 'data', filter='data')
    return tmp_path / 'data'


def test_imdb_is_read_from_its_folder_as_from_its_archive_and_once(tmp_path, monkeypatch):
    folder, cache = unpacked(tmp_path), {'cache': True, 'cache_dir': str(tmp_path / 'cache')}
    for split in ('train', 'dev', 'test'):
        of_folder = IMDB.load_data(knobs_of(IMDB, '--data-dir', folder, **cache), split)
        of_archive = IMDB.load_data(knobs_of(IMDB, '--data-dir', config.ROOT / 'demo', **cache), split)
        assert [example[2:] for example in of_folder] == [example[2:] for example in of_archive]
        assert not any('<br' in example.text_a for example in of_folder)
    assert of_folder[0].file == str(folder / 'aclImdb/test/neg/3_3.txt') and of_folder[0].label == 0
    assert of_archive[0].file.endswith('aclImdb_v1.tar.gz: aclImdb/test/neg/3_3.txt')
    assert len(list((tmp_path / 'cache').glob('reviews-*'))) == 2
    monkeypatch.setattr(IMDB.long_text, 'read_files', None)         # it is not read again
    IMDB.long_text.all_reviews.cache_clear()
    kept = IMDB.load_data(knobs_of(IMDB, '--data-dir', folder, '--keep-html', **cache), 'test')
    assert '<br /><br />' in kept[0].text_a


def test_only_the_last_sentence_of_a_made_up_review_says_what_it_thinks():
    for example in IMDB.load_data(knobs_of(IMDB, '--data-dir', config.ROOT / 'demo'), 'train'):
        *before, verdict = example.text_a.rstrip('.').lower().split('. ')
        assert any(word in verdict.split() for word in (BAD, GOOD)[example.label])
        assert not any(word in verdict.split() for word in (GOOD, BAD)[example.label])
        counts = [sum(text.split().count(word) for text in before for word in kind) for kind in (GOOD, BAD)]
        assert abs(counts[0] - counts[1]) <= 1


BAD_FILES = [
    (IMDB, 'aclImdb/train/neg', None, 'no reviews train/neg/0_1.txt'),
    (IMDB, 'aclImdb/train/pos/2_10.txt', b' \n', '2_10.txt: an empty review'),
    (IMDB, 'aclImdb/train/pos/2_10.txt', b'f\xfcr', '2_10.txt: byte 0xfc is not UTF-8'),
    (IMDB, 'aclImdb_v1.tar.gz', b'PK', 'aclImdb_v1.tar.gz: not an intact archive'),
    (TREC, 'train_5500.label', b'HUM:ind Who ?\nWHO:ind Who ?\n', "line 2: 'WHO:ind Who ?' is not a label"),
    (TREC, 'train_5500.label', b'HUM:ind \n', 'line 1'),
    (YAHOO, 'train.csv', b'"1","a","b"\n', 'train.csv, line 1: 3 columns'),
    (YAHOO, 'train.csv', b'"1","a","b\n","c"\n"11","a","b","c"\n', "train.csv, line 3: 4 columns, the first '11'"),
    (YAHOO, 'train.csv', b'"1","a","\xfc","c"\n', 'train.csv, line 1: '),
    (YAHOO, 'train.csv', b'"1",""," ",""\n', 'train.csv, line 1: no text'),
    (YAHOO, 'train.csv', b'', 'train.csv: the file is empty'),
]


@pytest.mark.parametrize(('script', 'name', 'content', 'message'), BAD_FILES)
def test_bad_files_are_said_in_one_line(script, name, content, message, tmp_path):
    folder = unpacked(tmp_path) if script is IMDB else tmp_path
    path = folder / name
    if content is None:
        for review in path.iterdir():
            review.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        script.load_data(knobs_of(script, '--data-dir', folder), 'train')
    assert message in str(error.value) and '\n' not in str(error.value)


def test_yahoos_quotes_and_line_ends(tmp_path):
    rows = [['10', 'a "b"', '', 'c\\nd'], ['1', 'e', 'f, g', 'h']] * 20
    with open(tmp_path / 'train.csv', 'w', newline='') as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    read = YAHOO.load_data(knobs_of(YAHOO, '--data-dir', tmp_path, '--dev-share', 0.1), 'train')
    assert {example[3:] for example in read} == {('a "b"', 'c d', 9), ('e f, g', 'h', 0)}


# ---- Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('script', 'more'), [
    (IMDB, ('--truncation=windows', '--combine=attention', '--windows-at-once=8', '--limit=40', '--dev-share=0.1')),
    (TREC, ('--fine', '--layers=1')), (YAHOO, ('--truncation=tail',))], ids=['IMDB', 'TREC', 'Yahoo'])
def test_a_whole_run(script, more, tiny_bert, tmp_path, capsys):
    name = script.__name__.split('/')[-1]
    start(script, *options(tmp_path, tiny_bert, '--maxlen=32', *more))
    said = capsys.readouterr().out
    assert 'The test rows are used at the end alone.' in said and 'test, predicted once' in said
    folder = tmp_path / 'runs' / 'documents' / name / 'tiny-bert-seed42'
    metrics = read_json(folder / 'metrics.json')
    assert metrics['finished']
    with np.load(folder / f'{name}_outputs.npz') as outputs:
        chosen = outputs['output_0'].argmax(-1)
    labels = read_json(folder / 'config.json')['knobs']['labels']
    rows = (tmp_path / 'results' / f'{name}.tsv').read_text().splitlines()
    assert rows == ['index\tprediction', *(f'{i}\t{labels[label]}' for i, label in enumerate(chosen))]
    gold = [example.label for example in script.load_data(
        knobs_of(script, '--demo', *(('--fine',) if script is TREC else ())), 'test')]
    assert metrics['test']['accuracy'] == pytest.approx(np.mean(chosen == gold))
    start(script, *options(tmp_path, tiny_bert, '--maxlen=32', *more, '--no-fresh'))
    assert f'test accuracy {100 * metrics["test"]["accuracy"]:.2f}' in capsys.readouterr().out

    capsys.readouterr()
    assert score.main([f'documents/{name}', str(folder / 'dev_predictions.tsv'), '--data-dir',
                       str(config.ROOT / 'demo')]) == 0
    assert f'accuracy {100 * metrics["best"]["accuracy"]:.2f}' in capsys.readouterr().out
    if script is IMDB:      # the tools cut texts as the run did
        exported = tmp_path / 'exported'
        assert export.main([str(folder), '--format', 'onnx']) == 2
        assert export.main([str(folder), '--format', 'savedmodel', '--output', str(exported)]) == 0
        texts = [example.text_a for example in IMDB.load_data(knobs_of(IMDB, '--demo'), 'test')[:20]]
        (tmp_path / 'texts').write_text('\n'.join(texts) + '\n')
        for place in (folder, exported):
            capsys.readouterr()
            assert predict.main([str(place), str(tmp_path / 'texts'), '--format', 'json']) == 0
            answers = [json.loads(line)['prediction'] for line in capsys.readouterr().out.splitlines()]
            assert answers == [labels[label] for label in chosen[:20]]


@pytest.mark.parametrize(('given', 'message'), [
    (('--combine', 'max'), '--combine max: without effect beside --truncation head.tail and --layers last'),
    (('--join', 'max', '--layers', '2'), '--join max: without effect'),
    (('--head', 5, '--truncation', 'tail'), '--head 5: without effect'),
    (('--head', 63, '--maxlen', 64), '--head 63: a text has room for 62 tokens'),
])
def test_options_without_effect_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        knobs_of(IMDB, *given)


def test_an_archive_that_is_cut_short_is_not_read(tmp_path):
    whole = (config.ROOT / 'demo/IMDB/aclImdb_v1.tar.gz').read_bytes()
    for size in range(len(whole) - 1, 1, -len(whole) // 50):
        (tmp_path / 'part.tar.gz').write_bytes(whole[:size])
        with pytest.raises(UserError, match='not an intact archive'):
            list(IMDB.long_text.read_archive([tmp_path / 'part.tar.gz']))


def test_windows_are_not_compiled(tiny_bert):
    with pytest.raises(UserError, match='--jit: not for --truncation windows'):
        IMDB.build_model(knobs_of(IMDB, '--model', tiny_bert, '--truncation', 'windows', '--jit'), 10)


def test_the_three_differ_in_their_data_alone():
    sources = [(config.ROOT / script.__file__).read_text() for script in SCRIPTS]
    models = [source[source.index('# ---- Model'):].replace(f"'{name}.tsv'", '')
              for source, name in zip(sources, ('IMDB', 'TREC', 'Yahoo'), strict=True)]
    assert models[0] == models[1] == models[2]
    assert all(len(source.splitlines()) <= 115 for source in sources)
