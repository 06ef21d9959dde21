"""Every family against float64 numpy and against transformers' committed numbers; checks.align itself."""

import json

import numpy as np
import pytest
from make_goldens import FAMILIES, GOLDENS, norms, small_setup

from checks import align
from engine.model.checkpoints import open_model
from engine.model.families import hugging_face_name
from lab.reference import numpy_model
from lab.reference.random_model import random_variables, sizes_of

SETUPS = {}


@pytest.fixture
def setup(request, tmp_path_factory):
    family = getattr(request, 'param', 'bert')
    if family not in SETUPS:
        SETUPS[family] = small_setup(family, tmp_path_factory.mktemp('align') / family)
    return SETUPS[family]


everywhere = pytest.mark.parametrize('setup', [*FAMILIES, 'albert_zh'], indirect=True)
with_goldens = pytest.mark.parametrize('setup', FAMILIES, indirect=True)


@everywhere
def test_forward_and_backward(setup, capsys):
    """Logits, loss and every gradient, of a classification and of a regression."""
    family, numpy = setup.checkpoint.family, align.Numpy(setup)
    for task, model in setup.models.items():
        ids, segments, labels = setup.data[task][0]
        logits = model([ids, segments], training=False).numpy()
        loss, gradients = align.gradients_of(model, ids, segments, labels)
        _, _, expected, expected_loss, expected_gradients = numpy.forward(task)
        assert align.relative(logits, expected) < 1e-5
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert align.compare_variables('gradients', gradients, expected_gradients, 1e-4).passed
        if family in FAMILIES:
            golden = json.loads(GOLDENS.read_text())[family][task]
            assert align.relative(logits, np.array(golden['logits'])) < 1e-5
            assert loss == pytest.approx(golden['loss'], rel=1e-5)
            for name, norm in norms(gradients).items():
                if not name.endswith('key/bias'):           # zero
                    assert norm == pytest.approx(golden['gradients'][name], rel=1e-4), name


@everywhere
def test_twenty_steps_of_both_recipes(setup):
    family, numpy, start = setup.checkpoint.family, align.Numpy(setup), align.named_arrays(setup.models['MRPC'])
    for run in setup.runs:
        if run['steps'] != [align.STEPS]:
            continue
        (weights, rates), (expected, expected_rates) = setup.train(run), numpy.train(run)
        assert align.relative(rates, expected_rates) < 1e-7
        assert align.compare_variables('weights', weights, expected, 1e-4, setup.reach(run)).passed
        assert align.compare_changes('changes', weights, expected, start, align.STEPS, 1e-3).passed
        if family in FAMILIES:
            golden = json.loads(GOLDENS.read_text())[family][run['recipe']['schedule']]
            assert align.relative(rates, np.array(golden['rates'])) < 1e-7
            for name, norm in norms({name: weights[name] - start[name] for name in weights}).items():
                if not name.endswith('key/bias'):
                    assert norm == pytest.approx(golden['moved'][name], rel=1e-3), name


@everywhere
def test_what_the_steps_of_a_run_can_reach(setup):
    """The floor of the weights' threshold, beside an optimizer that sees the same gradient in every step."""
    class Constant(numpy_model.ReferenceModel):
        def loss(self, *batch):
            self.gradients = {name: np.full(np.shape(value), 1e-2) for name, value in self.variables.items()}

    for run in setup.runs:
        reach, recipe = setup.reach(run), run['recipe'] | {'epsilon': 0.0, 'weight_decay': 0.0}
        model = Constant(setup.checkpoint.family, setup.checkpoint.config, '', dict.fromkeys(reach, 0.0))
        moved, = model.train([()], recipe, run['steps'])
        assert {name: -value for name, value in moved.items()} == pytest.approx(reach)
    one_step = [setup.reach(run)['classifier/bias'] for run in setup.runs if run['steps'] == [1]]
    assert one_step == pytest.approx([2e-5, 1e-4 * 0.1 / 0.001 ** 0.5])


def test_a_hundredth_of_a_step_is_noticed(setup):
    """In a variable near 0 after all steps; after one step, where little is rounded, in any variable."""
    start = align.named_arrays(setup.models['MRPC'])
    for run in setup.runs:
        reach, steps = setup.reach(run), run['steps'][0]
        step = reach['classifier/bias'] / steps
        for error, noticed in ((1e-2, True), (1e-5, False)):
            wrong = start | {'classifier/bias': start['classifier/bias'] + error * step}
            assert align.compare_variables('weights', wrong, start, align.BACKWARD, reach).passed != noticed
        if steps > 1:
            continue
        theirs = {name: value.astype(np.float64) + reach[name] for name, value in start.items()}
        assert align.compare_changes('changes', theirs, theirs, start, steps, align.CHANGE).passed
        for name in start:
            wrong = theirs | {name: theirs[name] + 1e-2 * reach[name]}
            row = align.compare_changes('changes', wrong, theirs, start, steps, align.CHANGE)
            assert not row.passed and row.what.endswith(f'worst {name}')


@with_goldens
def test_names_are_transformers_own(setup):
    variables = json.loads(GOLDENS.read_text())[setup.checkpoint.family]['variables']
    ours = {hugging_face_name(name, setup.checkpoint.family).split('.', 1)[1] for name in setup.names}
    assert ours == {name for name in variables if setup.checkpoint.pooling == 'pooler' or 'pooler' not in name}


@pytest.mark.parametrize(('family', 'pooling', 'activation'), [
    ('bert', 'pooler', 'gelu_tanh'), ('electra', 'cls', 'gelu_erf'), ('albert_zh', 'mean', 'relu')])
def test_the_reference_is_its_own_derivative(family, pooling, activation):
    """Its gradients against central differences of its loss, along a random direction of every variable."""
    sizes = sizes_of(family) | {'hidden_act': activation, 'layer_norm_eps': 1e-12}
    random = np.random.default_rng(0)
    head = {'classifier/kernel': random.normal(size=(64, 1)), 'classifier/bias': random.normal(size=1)}
    model = numpy_model.ReferenceModel(family, sizes, pooling, random_variables(family, sizes) | head, 5.0)
    ids, segments = random.integers(4, 60, (2, 5)), random.integers(0, 2, (2, 5))
    ids[0, 3:] = 0
    batch = ids, segments, random.normal(size=2)
    model.loss(*batch)
    for name, gradient in model.gradients.items():
        value, direction = model.variables[name], random.normal(size=np.shape(model.variables[name]))
        losses = []
        for sign in (1, -1):
            model.variables[name] = value + sign * 1e-6 * direction
            losses.append(type(model).loss(model, *batch))
        model.variables[name] = value
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx((gradient * direction).sum(), rel=1e-4, abs=1e-6), name


def test_mixed_precision_keeps_what_float32_would(setup):
    rows = list(align.compare_precision(setup))
    logits = {row.what.split()[2].rstrip(','): row.difference for row in rows if row.what.startswith('logits')}
    assert 0 < logits['float16'] < 0.005
    assert 0 < logits['bfloat16'] < 0.04
    assert [row.passed for row in rows if row.what.startswith('LayerNorm')] == [True, True]


@pytest.mark.parametrize('precision', ['bfloat16', 'float16'])
def test_training_in_mixed_precision_follows_float32(setup, precision):
    """The same four steps; in float16 with a scaled loss, as most of these gradients are below what it can hold."""
    changes = []
    for given in ({}, {'precision': precision}):
        model = setup.build(align.MRPC.build_model, setup.knobs('MRPC', 'electra', **given), 32)
        start = align.named_arrays(model)
        for t in range(4):
            ids, segments, labels = setup.data['MRPC'][t]
            model.train_on_batch((ids, segments), labels)
        assert type(model.optimizer).__name__.startswith('LossScale') == (given.get('precision') == 'float16')
        changes.append({name: value - start[name] for name, value in align.named_arrays(model).items()})
    exact, mixed = (np.concatenate([change[name].ravel() for name in changes[0]]) for change in changes)
    cosine = exact @ mixed / np.sqrt((exact @ exact) * (mixed @ mixed))
    assert cosine > 0.95


def test_what_is_not_a_number_fails():
    ones = np.ones(2)
    row = align.compare_variables('x', {'a': ones, 'b': np.array([np.nan, 1])}, {'a': ones, 'b': ones}, 1e-4)
    assert not row.passed
    assert 'worst b' in row.what
    assert not align.compare('x', np.ones((2, 1)), ones, 1e-4).passed


def test_the_command_says_what_differs(tmp_path, capsys, monkeypatch):
    sizes = sizes_of('electra') | {'num_hidden_layers': 1, 'generator_size': '1/4'}
    (tmp_path / 'config.json').write_text(json.dumps(sizes))
    monkeypatch.setattr(align, 'STEPS', 2)
    monkeypatch.setattr(align, 'compare_precision', lambda setup: [])
    args = ['--random', str(tmp_path / 'config.json'), '--markdown', str(tmp_path / 'table.md')]
    assert align.main(args) == 0
    assert 'all 22 rows pass' in capsys.readouterr().out
    assert '| logits, regression |' in (tmp_path / 'table.md').read_text()
    monkeypatch.setattr(numpy_model.ReferenceModel, 'depth', lambda self, name: (0, 0))    # without the exponent of the layers
    assert align.main(args) == 1
    out = capsys.readouterr().out
    assert "weights after 1 step, ELECTRA's recipe" in out
    assert '**FAIL**' in out
    assert align.main(['nowhere']) == 2
    assert capsys.readouterr().err.startswith('error: --model nowhere: neither a folder')


@pytest.mark.parametrize(('option', 'message'), [
    ('--reference=/bin/false', 'it needs torch and transformers'),
    ('--reference=/nowhere/python', '--reference /nowhere/python: no such program'),
    ('--markdown=/nowhere/table.md', '--markdown /nowhere/table.md: its folder does not exist')])
def test_bad_options_of_the_command(option, message, tiny_bert, capsys):
    assert align.main([str(tiny_bert), option]) == 2
    assert message in capsys.readouterr().err
    assert open_model(str(tiny_bert), 'pretrained').config['hidden_dropout_prob'] == 0.1   # as it was


def test_softmax_is_computed_in_float32():
    """The weights of attention are those of float64, from the products that this processor gives in bfloat16."""
    from engine.model.layers import Attention, tf
    random = np.random.default_rng(0)
    q, k = (tf.constant(random.normal(size=(2, 2, 7, 20)) * 3, tf.bfloat16) for _ in range(2))
    mask = np.arange(7) < np.array([[7], [4]])
    layer = Attention(2, 20, dtype='mixed_bfloat16')

    @tf.function
    def weights_and_products():         # in one graph, which has the product once
        return layer.weights_of(q, k, tf.constant(mask)), tf.matmul(q, k, transpose_b=True)
    weights, products = weights_and_products()
    assert (weights.dtype, products.dtype) == (tf.float32, tf.bfloat16)
    q, k, products = (np.array(tf.cast(x, tf.float64)) for x in (q, k, products))
    # A kernel may add up in any order and in float32, and rounds once, to bfloat16's 8 bits.
    assert (np.abs(products - q @ k.swapaxes(-1, -2)) <= 2 ** -8 * (np.abs(q) @ np.abs(k).swapaxes(-1, -2))).all()
    scores = np.where(mask[:, None, None], products / 20 ** 0.5, -np.inf)
    exact = np.exp(scores - scores.max(-1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    assert np.abs(weights - exact).max() <= 1e-6
    assert not weights.numpy()[1, :, :, 4:].any()


@pytest.mark.parametrize(('change', 'message'), [
    ({'model_type': 'roberta'}, "model_type 'roberta' is none of"), ({'hidden_size': '64'}, "hidden_size is '64'"),
    ({'vocab_size': 3}, 'vocab_size is 3')])
def test_bad_sizes_of_a_random_model(change, message, tmp_path, capsys):
    (tmp_path / 'config.json').write_text(json.dumps(sizes_of('bert') | change))
    assert align.main(['--random', str(tmp_path / 'config.json')]) == 2
    assert message in capsys.readouterr().err
