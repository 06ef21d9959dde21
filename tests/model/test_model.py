"""The builder against a float64 forward pass, in both layouts; every variable accounted for; damaged checkpoints."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers import SHARED, make_knobs, needs_shared, write_hugging_face

import snippets
from checks.align import FORWARD
from engine.files import UserError
from engine.model.checkpoints import SKIPPED, Checkpoint
from engine.model.families import encoder_shapes
from lab.reference import numpy_model
from lab.reference.random_model import SIZES, WORDS, random_variables, sizes_of, write_google

PAIRS = [('a man.', 'he left, a man?'), ('b', '2'), ('the end of it all', 'x y z 1 2 3')]


def vectors(folder, *options):
    """The encoder's sequence and text vector for PAIRS, and the ids and segment ids they were computed from."""
    knobs = make_knobs('--model', folder, *options)
    data = snippets.tokenize(knobs, [snippets.Example('x', i, i, a, b, 0) for i, (a, b) in enumerate(PAIRS)])
    encoder = snippets.build_encoder(knobs)
    ids, segments = data.batch(np.arange(len(PAIRS)))
    model = snippets.keras.Model(encoder.inputs, [encoder.sequence, encoder.vector])
    return *model.predict_on_batch([ids, segments]), ids, segments


def expected_vectors(family, sizes, variables, ids, segments, gelu, pooling):
    """The sequence and the text vector by the float64 reference."""
    head = {'classifier/kernel': np.zeros((64, 2)), 'classifier/bias': np.zeros(2)}
    settings = sizes | {'hidden_act': gelu, 'layer_norm_eps': 1e-12}
    states, vector, *_ = numpy_model.ReferenceModel(family, settings, pooling, variables | head).forward(ids, segments)
    return states[-1], vector


@pytest.mark.parametrize('layout', ['Google', 'Hugging Face', 'Hugging Face, no prefix'])
@pytest.mark.parametrize('family', ['bert', 'electra', 'electra of one size'])
def test_the_encoder_computes_what_the_papers_say(tmp_path, capsys, layout, family):
    sizes = SIZES | {'num_attention_heads': 1} if family == 'electra of one size' else sizes_of(family)
    family = family.split()[0]
    variables = random_variables(family, sizes)
    if layout == 'Google':      # ELECTRA's downloads have no json: their shapes must do
        folder = write_google(tmp_path, variables, SIZES if family == 'bert' else None)
    else:
        folder = write_hugging_face(tmp_path, variables, sizes, family, prefix='no' not in layout or family != 'bert')
    forms = ['gelu_tanh', 'gelu_erf'] if layout == 'Google' and family == 'bert' else ['gelu_erf', 'gelu_tanh']
    sequence, vector, ids, segments = vectors(folder)
    pooling = 'pooler' if family == 'bert' else 'cls'
    (expected, text), (other, _) = (
        expected_vectors(family, sizes, variables, ids, segments, form, pooling) for form in forms)
    real = ids != 0
    assert np.abs(sequence - expected)[real].max() < 1e-5 * np.abs(expected).max()
    assert np.abs(sequence - other)[real].max() > 5 * np.abs(sequence - expected)[real].max()
    np.testing.assert_allclose(vector, text, atol=1e-5)
    if layout == 'Google':
        assert 'skipped: pre-training head' in capsys.readouterr().out


def test_pooling(tmp_path):
    variables = random_variables('bert', SIZES)
    folder = write_hugging_face(tmp_path, variables, SIZES, 'bert')
    sequence, mean, ids, _ = vectors(folder, '--pooling', 'mean')
    expected = [row[one != 0].mean(0) for row, one in zip(sequence, ids, strict=True)]
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_array_equal(vectors(folder, '--pooling', 'cls')[1], sequence[:, 0])
    (folder / '1_Pooling').mkdir()      # as sentence-transformers writes it
    (folder / '1_Pooling' / 'config.json').write_text('{"pooling_mode_mean_tokens": true}')
    assert Checkpoint(folder).pooling == 'mean'


def test_padding_changes_no_vector(tiny_bert):
    knobs = make_knobs('--model', tiny_bert)
    encoder = snippets.build_encoder(knobs)
    model = snippets.keras.Model(encoder.inputs, encoder.vector)
    ids = np.array([[2, 5, 6, 7, 3]])
    padded = np.pad(ids, ((0, 0), (0, 11)))
    vector = model.predict_on_batch([padded, 0 * padded])
    np.testing.assert_array_equal(model.predict_on_batch([padded, np.where(padded == 0, 1, 0)]), vector)
    np.testing.assert_allclose(model.predict_on_batch([ids, 0 * ids]), vector, atol=FORWARD)    # other products' shapes


def change(**changes):
    """random BERT variables with some replaced, or dropped where None."""
    variables = random_variables('bert', SIZES) | {name.replace('__', '/'): value for name, value in changes.items()}
    return {name: value for name, value in variables.items() if value is not None}


@pytest.mark.parametrize(('variables', 'message'), [
    (change(bert__encoder__layer_1__output__dense__kernel=None),
     r'layer_1/output/dense/kernel should have the shape \(48, 64\); the checkpoint has none of this name'),
    (change(bert__pooler__dense__kernel=np.zeros((64, 2), np.float32)), r'should have the shape \(64, 64\).*\(64, 2\)'),
    (change(bert__new__kernel=np.zeros(3, np.float32)), 'bert/new/kernel belongs to nothing that is known'),
    (change(bert__pooler__dense__bias=np.full(64, np.nan, np.float32)), 'pooler/dense/bias holds values that are not'),
])
def test_nothing_is_silently_left_at_random_values(tmp_path, variables, message):
    folder = write_google(tmp_path, variables, SIZES)
    with pytest.raises(UserError, match=message):
        snippets.build_encoder(make_knobs('--model', folder, '--pooling', 'pooler'))


def test_damaged_or_foreign_folders(tmp_path):
    variables = random_variables('bert', SIZES)

    def fails(name, message, spoil, write=write_google, **more):
        folder = write(tmp_path / name, variables, SIZES, **more)
        spoil(folder)
        with pytest.raises(UserError, match=message):
            snippets.build_encoder(make_knobs('--model', folder))

    def cut(name):
        return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:1000])

    fails('short data', 'seems damaged', cut('bert_model.ckpt.data-00000-of-00001'))
    fails('short index', 'seems damaged', cut('bert_model.ckpt.index'))
    fails('short safetensors', 'seems damaged', cut('model.safetensors'), write_hugging_face, family='bert')
    fails('no json', 'no config.json or bert_config.json', lambda folder: (folder / 'bert_config.json').unlink())
    fails('bad json', r'bert_config.json, line 1: not valid JSON',
          lambda folder: (folder / 'bert_config.json').write_text('{"hidden_size": '))
    fails('bad size', "hidden_size is 'x', not a whole number",
          lambda folder: (folder / 'bert_config.json').write_text(json.dumps(SIZES | {'hidden_size': 'x'})))
    fails('no vocabulary', 'no vocab.txt', lambda folder: (folder / 'vocab.txt').unlink())
    fails('no checkpoint', '0 TensorFlow checkpoints', lambda folder: (folder / 'bert_model.ckpt.index').unlink())
    with pytest.raises(UserError, match='--model bert-base-uncase: neither a folder.*Did you mean bert-base-uncased'):
        make_knobs('--model', 'bert-base-uncase')


@needs_shared
@pytest.mark.parametrize(('folder', 'family'), [
    ('uncased_L-4_H-256_A-4', 'bert'), ('CoVBERT_L-12_H-768', 'bert'), ('chinese_L-12_H-768_A-12', 'bert'),
    ('albert_base_zh', 'albert'), ('albert_tiny_zh', 'albert_zh')])
def test_every_variable_of_real_checkpoints_is_known(folder, family):
    folder = SHARED / 'checkpoints' / folder
    lines = [line.split(' ', 2) for line in (folder / 'variables.txt').read_text().splitlines() if line.strip()]
    real = {name: tuple(json.loads(shape)) for name, _, shape in lines}
    used = encoder_shapes(family, json.loads(next(folder.glob('*config*.json')).read_text()))
    assert {name: real.get(name) for name in used} == used
    assert [name for name in set(real) - set(used) if not any(re.fullmatch(p, name) for p in SKIPPED)] == []


@pytest.mark.parametrize(('change', 'message'), [
    ({'hidden_dropout_prob': '0.1'}, "hidden_dropout_prob is '0.1', not a number from 0 to below 1"),
    ({'attention_probs_dropout_prob': 1.0}, 'attention_probs_dropout_prob is 1.0'),
    ({'layer_norm_eps': None}, 'layer_norm_eps is None'), ({'layer_norm_eps': 0}, 'layer_norm_eps is 0'),
    ({'type_vocab_size': True}, 'type_vocab_size is True'), ({'embedding_size': '64'}, "embedding_size is '64'"),
    ({'num_attention_heads': 3}, 'hidden_size 64 is no multiple of num_attention_heads 3'),
    ({'hidden_act': ['gelu']}, 'hidden_act .* is not known here'), ({'model_type': ['bert']}, 'model_type'),
    ({'model_type': 'roberta'}, "model_type 'roberta' is none of"), ({'is_decoder': True}, 'is_decoder True'),
    ({'position_embedding_type': 'relative_key'}, "position_embedding_type 'relative_key'"),
])
def test_configurations_of_other_models_are_refused(tiny_bert, tmp_path, change, message):
    folder = shutil.copytree(tiny_bert, tmp_path / 'model')
    (folder / 'bert_config.json').write_text(json.dumps(SIZES | change))
    with pytest.raises(UserError, match=f'bert_config.json: {message}'):
        Checkpoint(folder)


def test_which_json_is_the_models(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / 'model')
    (folder / 'adapter_config.json').write_text('{"r": 8}')
    (folder / 'a_generator_config.json').write_text(json.dumps(SIZES | {'num_attention_heads': 4}))
    assert Checkpoint(folder).config['num_attention_heads'] == 2
    (folder / 'a_config.json').write_text(json.dumps(SIZES | {'num_attention_heads': 4}))
    with pytest.raises(UserError, match='a_config.json, bert_config.json give different sizes'):
        Checkpoint(folder)


def test_a_pooler_that_is_not_there(tmp_path):
    folder = write_google(tmp_path, random_variables('distilbert', sizes_of('distilbert')), sizes_of('distilbert'))
    with pytest.raises(UserError, match='--pooling pooler: .* has no pooler'):
        snippets.build_encoder(make_knobs('--model', folder, '--pooling', 'pooler'))


def test_cased_vocabularies_keep_case_and_accents(tmp_path):
    words = [*WORDS[:-1], 'É']
    folder = write_google(tmp_path, random_variables('bert', SIZES), SIZES, words)
    data = snippets.tokenize(make_knobs('--model', folder), [snippets.Example('x', 1, 0, 'É', None, 0)])
    assert data.batch(np.array([0]))[0].tolist() == [[2, words.index('É'), 3]]
