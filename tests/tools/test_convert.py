"""Conversion there and back is bit-identical; what is converted is complete; fine-tuned models keep their logits."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from helpers import rows_of
from make_goldens import FAMILIES, GOLDENS

import CoLA
import snippets
from engine.data.vocabulary import load_vocabulary
from engine.files import UserError
from engine.model.checkpoints import Checkpoint
from engine.model.families import encoder_shapes, mlm_head_shapes, rtd_head_shapes
from engine.training.prediction import Predictor
from lab import scripts as tools_runs
from lab.reference import numpy_model
from lab.reference.random_model import WORDS, random_values, random_variables, sizes_of, write_google
from lab.scripts import dev_examples, open_run
from tools import convert


@pytest.mark.parametrize('family', FAMILIES)
def test_there_and_back(family, tmp_path, capsys):
    sizes = sizes_of(family)
    variables = random_variables(family, sizes)
    write_google(tmp_path / 'first', variables, None if family == 'electra' else sizes | {'model_type': family})
    for source, target in (('first', 'hugging face'), ('hugging face', 'google'), ('google', 'again')):
        assert convert.main([str(tmp_path / source), str(tmp_path / target)]) == 0
        out = capsys.readouterr().out
        if family == 'electra' and source == 'first':
            assert "skipped (ELECTRA's generator): generator/embeddings/LayerNorm/gamma" in out
            assert 'skipped (state of the pre-training optimizer): electra/embeddings/LayerNorm/gamma/adam_m' in out
            assert 'skipped (pre-training head): discriminator_predictions/dense/kernel' in out
            assert 'embeddings_project/kernel (32, 64) -> embeddings_project.weight, transposed' in out
    first, google = Checkpoint(tmp_path / 'first'), Checkpoint(tmp_path / 'google')
    assert set(google.shapes) == {name for name in variables if not any(
        one in name for one in ('cls/', 'generator', 'discriminator', 'global_step', 'adam_m'))}
    for name, value in google.read(google.shapes):
        assert value.tobytes() == variables[name].tobytes(), name
    assert google.config == first.config
    assert google.pooling == first.pooling
    for file in ('model.safetensors', 'config.json', 'tokenizer.json', 'vocab.txt'):
        assert (tmp_path / 'hugging face' / file).read_bytes() == (tmp_path / 'again' / file).read_bytes()
    names = safetensors.numpy.load_file(tmp_path / 'hugging face' / 'model.safetensors').keys()
    authentic = set(json.loads(GOLDENS.read_text())[family]['variables'])
    assert set(names) == authentic


def test_the_activation_keeps_its_form(tmp_path):
    """'gelu' in Google's BERT is another function than 'gelu' in transformers."""
    write_google(tmp_path / 'a', random_variables('bert', sizes_of('bert')), sizes_of('bert'))
    convert.convert(tmp_path / 'a', tmp_path / 'b')
    assert json.loads((tmp_path / 'b' / 'config.json').read_text())['hidden_act'] == 'gelu_new'
    settings = json.loads((tmp_path / 'b' / 'config.json').read_text()) | {'hidden_act': 'gelu'}
    (tmp_path / 'b' / 'config.json').write_text(json.dumps(settings))
    convert.convert(tmp_path / 'b', tmp_path / 'c')
    assert json.loads((tmp_path / 'c' / 'bert_config.json').read_text())['hidden_act'] == 'gelu_erf'
    assert Checkpoint(tmp_path / 'c').config['hidden_act'] == 'gelu_erf'


def test_old_names_and_pickles(tmp_path, capsys):
    """bert-base-uncased on the hub still says gamma and beta; pytorch_model.bin is refused with advice."""
    write_google(tmp_path / 'a', random_variables('bert', sizes_of('bert')), sizes_of('bert'))
    convert.convert(tmp_path / 'a', tmp_path / 'b')
    path = tmp_path / 'b' / 'model.safetensors'
    tensors = safetensors.numpy.load_file(path)
    old = {f'bert.{key}'.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('Norm.bias', 'Norm.beta'): value
           for key, value in tensors.items()}
    safetensors.numpy.save_file(old, path)
    assert set(Checkpoint(tmp_path / 'b').shapes) == {name for name in Checkpoint(tmp_path / 'a').shapes
                                                      if not name.startswith('cls/')}
    path.rename(path.with_name('pytorch_model.bin'))
    assert convert.main([str(tmp_path / 'b'), str(tmp_path / 'c')]) == 2
    error = capsys.readouterr().err
    assert 'pytorch_model.bin is not read' in error
    assert 'save_pretrained' in error


@pytest.mark.parametrize(('family', 'change', 'message'), [
    ('bert', {'bert/new/kernel': np.zeros(3, np.float32)}, 'bert/new/kernel belongs to nothing that is known'),
    ('bert', {'bert/embeddings/LayerNorm/beta': None}, 'bert/embeddings/LayerNorm/beta should have the shape (64,)'),
    ('bert', {'bert/pooler/dense/bias': np.zeros(3, np.float32)}, 'bert/pooler/dense/bias should have the shape (64,)'),
    ('albert_zh', {}, 'adds segments and positions after the words are projected'),
])
def test_what_cannot_be_converted(family, change, message, tmp_path, capsys):
    variables = {name: value for name, value in (random_variables(family, sizes_of(family)) | change).items()
                 if value is not None}
    source = write_google(tmp_path / 'source', variables, sizes_of(family))
    assert convert.main([str(source), str(tmp_path / 'target')]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ['source']


def test_nothing_is_overwritten(tmp_path, tiny_bert, capsys):
    (tmp_path / 'target').mkdir()
    assert convert.main([str(tiny_bert), str(tmp_path / 'target')]) == 2
    assert 'target exists already' in capsys.readouterr().err


def logits_of(folder, family, pooling, head, data):
    """The float64 reference's logits from a converted folder."""
    checkpoint = Checkpoint(folder)
    encoder = dict(checkpoint.read([name for name in checkpoint.shapes if name.startswith(('bert/', 'electra/'))]))
    head = {'classifier/kernel': head['classifier.weight'].T, 'classifier/bias': head['classifier.bias']}
    model = numpy_model.ReferenceModel(family, checkpoint.config, pooling, encoder | head)
    return model.forward(*data.batch(np.arange(len(data))))[2]


@pytest.mark.parametrize('task', ['CoLA', 'STSB'])
def test_a_fine_tuned_bert_is_transformers_own_class(task, runs, tmp_path, capsys):
    assert convert.main([str(runs[task]), str(tmp_path / 'b')]) == 0
    settings = json.loads((tmp_path / 'b' / 'config.json').read_text())
    assert settings['architectures'] == ['BertForSequenceClassification']
    labels = {'0': '0', '1': '1'} if task == 'CoLA' else {'0': 'LABEL_0'}
    assert settings['id2label'] == labels
    tensors = safetensors.numpy.load_file(tmp_path / 'b' / 'model.safetensors')
    assert {key.split('.')[0] for key in tensors} == {'bert', 'classifier'}
    _, knobs, model = open_run(runs[task])
    data = snippets.tokenize(knobs, dev_examples(runs[task])[:8])
    ours = Predictor(knobs, model).predict(data)
    theirs = logits_of(tmp_path / 'b', 'bert', 'pooler', tensors, data)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize('family', ['electra', 'distilbert', 'mean'])
def test_another_head_is_kept_apart(family, runs, untrained, tmp_path, capsys):
    """Where transformers' class has one more layer, or another text vector than its pooler's."""
    folder = tmp_path / family
    if family == 'mean':        # as of MiniLM
        run = shutil.copytree(runs['CoLA'], folder)
        settings = json.loads((run / 'config.json').read_text())
        settings['pooling'] = 'mean'
        (run / 'config.json').write_text(json.dumps(settings))
    else:
        sizes = sizes_of(family) | {'model_type': family}
        run = untrained('CoLA', write_google(folder, random_variables(family, sizes), sizes), tmp_path)
    assert convert.main([str(run), str(tmp_path / 'b')]) == 0
    assert 'computes another head than this one' in capsys.readouterr().out
    settings = json.loads((tmp_path / 'b' / 'config.json').read_text())
    assert settings['architectures'] == [
        {'electra': 'ElectraModel', 'distilbert': 'DistilBertModel', 'mean': 'BertModel'}[family]]
    vector = 'output.last_hidden_state * mask' if family == 'mean' else 'output.last_hidden_state[:, 0]'
    assert vector in (tmp_path / 'b' / 'README.md').read_text()
    head = safetensors.numpy.load_file(tmp_path / 'b' / 'classifier.safetensors')
    _, knobs, model = open_run(run)
    data = snippets.tokenize(knobs, dev_examples(run)[:8])
    ours = Predictor(knobs, model).predict(data)
    theirs = logits_of(tmp_path / 'b', 'bert' if family == 'mean' else family, 'mean' if family == 'mean' else 'cls',
                       head, data)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_an_edited_model_is_used_but_not_converted(untrained, tiny_bert, tmp_path, monkeypatch, capsys):
    """As with ideas/last4.patch on a BERT, which then has no use for its pooler and does not keep it."""
    def build_model(knobs, examples):
        encoder = snippets.build_encoder(knobs)
        keras = snippets.keras
        vector = snippets.MeanPooling()(keras.layers.Average()(encoder.hidden_states[-2:]))
        model = keras.Model(encoder.inputs, snippets.classifier(knobs, len(knobs.labels))(vector))
        model.compile(snippets.build_optimizer(knobs, model, examples))
        return model

    monkeypatch.setattr(CoLA, 'build_model', build_model)
    monkeypatch.setattr(tools_runs, 'load_script', lambda task: CoLA)
    run = untrained('CoLA', tiny_bert, tmp_path)
    _, knobs, model = open_run(run)
    data = snippets.tokenize(knobs, dev_examples(run))
    golds = {(row['text_a'], row['prediction']) for row in rows_of(run / 'dev_predictions.tsv')}
    answers = [knobs.labels[i] for i in Predictor(knobs, model).predict(data).argmax(-1)]
    assert {(example.text_a, answer) for example, answer in zip(data.examples, answers, strict=True)} == golds
    assert convert.main([str(run), str(tmp_path / 'b')]) == 2
    assert "the run's logits are not those of one dense layer on the encoder's cls vector" in capsys.readouterr().err
    assert not (tmp_path / 'b').exists()


@pytest.mark.parametrize(('change', 'message'), [
    ({'task': 'config'}, 'no run of one of the scripts'), ({'task': '../x'}, 'no run of one of the scripts'),
    ({'knobs': {'maxlen': '64'}}, "the knob maxlen is '64'"), ({'knobs': {'precision': 'int8'}}, "precision is 'int8'"),
    ({'knobs': {'labels': ['a', 1]}}, 'the knob labels is')])
def test_an_edited_configuration_of_a_run(change, message, runs, tmp_path, capsys):
    run = shutil.copytree(runs['CoLA'], tmp_path / 'run')
    settings = json.loads((run / 'config.json').read_text())
    change = change | ({'knobs': settings['knobs'] | change['knobs']} if 'knobs' in change else {})
    (run / 'config.json').write_text(json.dumps(settings | change))
    assert convert.main([str(run), str(tmp_path / 'b')]) == 2
    assert message in capsys.readouterr().err


def test_the_tokenizer_goes_along(tiny_bert, tmp_path):
    from tokenizers import Tokenizer
    convert.convert(tiny_bert, tmp_path / 'b')
    written = Tokenizer.from_file(str(tmp_path / 'b' / 'tokenizer.json'))
    own, cls, sep, _ = load_vocabulary(tiny_bert, len(WORDS))
    text = 'A man, Éa 12'
    assert written.encode(text, 'b').ids == [cls, *own.encode(text).ids, sep, WORDS.index('b'), sep]
    assert written.encode(text, 'b').type_ids == [0] * (len(own.encode(text).ids) + 2) + [1, 1]
    assert own.encode('[SEP]').ids != [sep]         # ours takes it for text


# ---- Pre-trained models ---------------------------------------------------------------------------------------------


GENERATOR = {'hidden_size': 128, 'intermediate_size': 40, 'num_hidden_layers': 3, 'num_attention_heads': 2}


def pretrained(script, family, folder):
    """A folder as a run of pretraining/ELECTRA.py or MLM.py leaves it, as far as it is a model."""
    sizes = sizes_of(family) | {'hidden_act': 'gelu_erf'}
    encoder = {name: shape for name, shape in encoder_shapes(family, sizes).items() if '/pooler/' not in name}
    shapes = encoder | mlm_head_shapes(family, sizes)
    if script == 'ELECTRA':
        of_generator = encoder_shapes(family, sizes | GENERATOR)
        shapes = encoder | rtd_head_shapes(sizes) | mlm_head_shapes(family, sizes | GENERATOR) | {
            name.replace('electra/', 'generator/', 1): shape for name, shape in of_generator.items()
            if '/embeddings/' not in name}
    folder.mkdir()
    variables = random_values(shapes, lambda name: 0.2)
    safetensors.numpy.save_file(variables, folder / 'model.safetensors')
    (folder / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
    (folder / 'config.json').write_text(json.dumps(
        sizes | {'task': f'pretraining/{script}', 'knobs': {}, 'model_type': family, 'pooling': 'cls'}))
    return variables


def dense_and_norm(dense, norm):
    return {f'{layer}.{variable}' for layer in (dense, norm) for variable in ('weight', 'bias')}


WORDS_HEAD = {      # the keys of transformers' ...ForMaskedLM; what is tied is not in the file
    'bert': dense_and_norm('cls.predictions.transform.dense', 'cls.predictions.transform.LayerNorm') | {
        'cls.predictions.bias'},
    'electra': dense_and_norm('generator_predictions.dense', 'generator_predictions.LayerNorm') | {
        'generator_lm_head.bias'},
    'albert': dense_and_norm('predictions.dense', 'predictions.LayerNorm') | {'predictions.bias'},
    'distilbert': dense_and_norm('vocab_transform', 'vocab_layer_norm') | {'vocab_projector.bias'}}
REPLACED_HEAD = {f'discriminator_predictions.{layer}.{variable}' for layer in ('dense', 'dense_prediction')
                 for variable in ('weight', 'bias')}


@pytest.mark.parametrize(('script', 'family', 'options', 'architecture'), [
    ('ELECTRA', 'electra', [], 'ElectraForPreTraining'), ('ELECTRA', 'electra', ['--generator'], 'ElectraForMaskedLM'),
    ('MLM', 'bert', [], 'BertForMaskedLM'), ('MLM', 'electra', [], 'ElectraForMaskedLM'),
    ('MLM', 'albert', [], 'AlbertForMaskedLM'), ('MLM', 'distilbert', [], 'DistilBertForMaskedLM')])
def test_a_pretrained_model_keeps_its_head(script, family, options, architecture, tmp_path, capsys):
    variables = pretrained(script, family, tmp_path / 'run')
    assert convert.main([str(tmp_path / 'run'), str(tmp_path / 'b'), *options]) == 0
    said = capsys.readouterr().out
    assert all(f'{name} (' in said or f' {name}' in said for name in variables)     # is mapped, or skipped
    settings = json.loads((tmp_path / 'b' / 'config.json').read_text())
    assert settings['architectures'] == [architecture]
    expected = {f'{family}.{name}' for name in json.loads(GOLDENS.read_text())[family]['variables']
                if 'pooler' not in name}
    if options:
        expected |= {name.replace('layer.1', 'layer.2') for name in expected}
    expected |= REPLACED_HEAD if architecture.endswith('PreTraining') else WORDS_HEAD[family]
    written = Checkpoint(tmp_path / 'b')
    tensors = safetensors.numpy.load_file(written.path)
    assert set(tensors) == expected
    assert settings.get('hidden_size', settings.get('dim')) == (128 if options else 64)
    if options:
        assert {key: settings[key] for key in GENERATOR} == GENERATOR
        table = 'electra/embeddings/word_embeddings'
        np.testing.assert_array_equal(dict(written.read([table]))[table], variables[table])
        np.testing.assert_array_equal(tensors['electra.encoder.layer.2.attention.self.query.weight'],
                                      variables['generator/encoder/layer_2/attention/self/query/kernel'].T)
    if family == 'electra' and not options and script == 'ELECTRA':
        np.testing.assert_array_equal(tensors['discriminator_predictions.dense_prediction.weight'],
                                      variables['discriminator_predictions/dense_1/kernel'].T)


def test_a_factorized_bert_is_none_of_transformers(tmp_path, capsys):
    """A BERT whose embeddings are narrower than its layers."""
    pretrained('MLM', 'bert', tmp_path / 'run')
    settings = json.loads((tmp_path / 'run' / 'config.json').read_text())
    (tmp_path / 'run' / 'config.json').write_text(json.dumps(settings | {'embedding_size': 32}))
    assert convert.main([str(tmp_path / 'run'), str(tmp_path / 'b')]) == 2
    assert "transformers' BERT has no projection of embeddings" in capsys.readouterr().err


def test_what_has_no_generator(tiny_bert, runs, tmp_path, capsys):
    pretrained('MLM', 'electra', tmp_path / 'run')
    for folder in (tmp_path / 'run', tiny_bert, runs['CoLA']):
        assert convert.main([str(folder), str(tmp_path / 'b'), '--generator']) == 2
        assert capsys.readouterr().err == (f'error: {folder}: --generator is for runs of pretraining/ELECTRA.py alone; '
                                           'there is no generator in this one.\n')
    assert not (tmp_path / 'b').exists()


@pytest.mark.parametrize(('generator', 'key', 'name'), [
    (True, 'generator_lm_head.bias', 'generator_predictions/output_bias'),
    (False, 'discriminator_predictions.dense.weight', 'discriminator_predictions/dense/kernel')])
def test_a_damaged_head_is_noticed(generator, key, name, tmp_path, monkeypatch):
    pretrained('ELECTRA', 'electra', tmp_path / 'run')
    monkeypatch.setattr(convert, 'save', lambda path, tensors: safetensors.numpy.save_file(
        tensors | {key: tensors[key] + 1}, path))
    with pytest.raises(UserError, match=f'{name} reads back with other bits'):
        convert.convert(tmp_path / 'run', tmp_path / 'b', generator=generator)
    assert not (tmp_path / 'b').exists()


def test_a_damaged_write_is_noticed(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, 'save', lambda path, tensors: safetensors.numpy.save_file(
        {key: value + 1 if key.startswith('pooler') else value for key, value in tensors.items()}, path))
    with pytest.raises(UserError, match='pooler/dense/kernel reads back with other bits'):
        convert.convert(tiny_bert, tmp_path / 'b')
    assert not list(tmp_path.iterdir())
