"""Conversion there and back is bit-identical; what is converted is complete; fine-tuned models keep their logits."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from conftest import WORDS, random_variables, sizes_of, write_google
from make_goldens import FAMILIES, GOLDENS
from test_scripts import rows_of

import CoLA
import snippets
from checks import reference
from engine.checkpoints import Checkpoint
from engine.files import UserError
from engine.prediction import Predictor
from engine.vocabulary import load_vocabulary
from tools import convert
from tools import runs as tools_runs
from tools.runs import dev_examples, open_run


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
    model = reference.Model(family, checkpoint.config, pooling, encoder | head)
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
        vector = snippets.Mean()(keras.layers.Average()(encoder.hidden_states[-2:]))
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


def test_a_damaged_write_is_noticed(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, 'save', lambda path, tensors: safetensors.numpy.save_file(
        {key: value + 1 if key.startswith('pooler') else value for key, value in tensors.items()}, path))
    with pytest.raises(UserError, match='pooler/dense/kernel reads back with other bits'):
        convert.convert(tiny_bert, tmp_path / 'b')
    assert not list(tmp_path.iterdir())
