"""The recipes' numbers: schedules, layer-wise rates, optimizer steps, which knob wins."""

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
from helpers import make_knobs

import CoLA
import config
import snippets
from engine.arguments import parse_args
from engine.files import UserError
from engine.model.encoders import named_weights
from engine.model.families import encoder_shapes
from engine.training import optimizers
from lab.reference.random_model import SIZES
from snippets import keras, tf


@pytest.mark.parametrize('steps', [10, 137, 1000])
def test_schedules(steps):
    rising = int(0.1 * steps)      # of the linear one; ELECTRA's code leaves the fraction
    linear = optimizers.WarmupDecay(2e-5, steps, 0.1, 'linear')
    multiplied = optimizers.WarmupDecay(1e-4, steps, 0.1, 'multiplied')
    for t in range(steps + 1):
        # transformers, get_linear_schedule_with_warmup
        expected = 2e-5 * (t / rising if t < rising else (steps - t) / (steps - rising))
        assert float(linear(t)) == pytest.approx(expected, rel=1e-6, abs=1e-12)
        # google-research/electra, model/optimization.py: polynomial decay, then times the warm-up
        expected = 1e-4 * (1 - t / steps) * min(1, t / (0.1 * steps))
        assert float(multiplied(t)) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(('n_layers', 'decay'), [(12, 0.8), (24, 0.9)])
def test_layer_wise_rates_are_electras(monkeypatch, n_layers, decay):
    # google-research/electra, model/optimization.py, _get_layer_lrs
    key_to_depths = OrderedDict({'/embeddings/': 0, '/embeddings_project/': 0, 'task_specific/': n_layers + 2})
    for layer in range(n_layers):
        key_to_depths[f'encoder/layer_{layer}/'] = layer + 1
    expected = {key: decay ** (n_layers + 2 - depth) for key, depth in key_to_depths.items()}
    sizes = SIZES | {'num_hidden_layers': n_layers, 'embedding_size': 8}
    names = [*encoder_shapes('electra', sizes), 'task_specific/kernel', 'bert/pooler/dense/kernel']
    weights = {name: tf.Variable(0.0) for name in names}
    monkeypatch.setattr(optimizers, 'named_weights', lambda model: weights)
    rates = optimizers.build_optimizer(make_knobs('--layer-decay', decay), None, 100).rates
    scales = {name: rates[variable.ref()][0] for name, variable in weights.items()}
    assert scales.pop('bert/pooler/dense/kernel') == pytest.approx(decay)
    assert scales['electra/encoder/layer_11/output/dense/bias'] == pytest.approx(decay ** (n_layers - 10))
    for name, scale in scales.items():
        assert scale == next(v for k, v in expected.items() if k in name)


@pytest.mark.parametrize(('bias_correction', 'used'), [(True, 50), (False, 50), (True, 20), (False, 20)])
def test_twenty_steps_of_the_optimizer(bias_correction, used):
    """Against Adam (Kingma and Ba 2015, algorithm 1) with decoupled decay and a global clip, in float64.

    Where fewer than the 50 rows of the embedding are used, the others come out as if they had been part of every step.
    """
    random = np.random.default_rng(0)
    values = [random.normal(size=shape) for shape in ((50, 4), (4, 3), (3,))]
    variables = [tf.Variable(value, dtype=tf.float32) for value in values]
    scales, decays, clip = [0.25, 0.5, 1.0], [0.01, 0.01, 0.0], 1.0
    schedule = optimizers.WarmupDecay(0.1, 20, 0.1, 'linear')
    rates = {v.ref(): rate for v, *rate in zip(variables, scales, decays, strict=True)}
    optimizer = optimizers.AdamW(schedule, rates, bias_correction, 1e-6, clip, lookup=variables[0])
    trained = random.permutation(50)[:used]
    if used < 50:
        optimizer.restrict_lookup(trained)
    m, v = ([np.zeros_like(value) for value in values] for _ in range(2))
    for t in range(20):
        rows = random.choice(trained, 8)                # rows that occur twice must be added up before the clip
        slices, dense = random.normal(size=(8, 4)), [random.normal(size=(4, 3)), random.normal(size=3)]
        optimizer.apply_gradients(zip([tf.IndexedSlices(tf.constant(slices, tf.float32), rows, (50, 4)),
                                       *[tf.constant(g, tf.float32) for g in dense]], variables, strict=True))
        table = np.zeros((50, 4))
        np.add.at(table, rows, slices)
        gradients = [table, *dense]
        norm = np.sqrt(sum((g ** 2).sum() for g in gradients))
        rate = 0.1 * min(t / 2, (20 - t) / 18)
        for i, g in enumerate(gradients):
            g = g * min(1, clip / norm)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g ** 2
            m_hat, v_hat = (m[i] / (1 - 0.9 ** (t + 1)), v[i] / (1 - 0.999 ** (t + 1))) if bias_correction \
                else (m[i], v[i])
            values[i] = values[i] - rate * scales[i] * (m_hat / (np.sqrt(v_hat) + 1e-6) + decays[i] * values[i])
        if t in (7, 19):
            optimizer.apply_pending_decay()
    for variable, value in zip(variables, values, strict=True):
        assert np.abs(variable.numpy() - value).max() < 2e-5 * np.abs(value).max()


def test_a_tied_output_layer_is_refused_as_lookup():
    words = tf.Variable(tf.ones((5, 3)), name='words')
    optimizer = optimizers.AdamW(0.1, {words.ref(): (1.0, 0.0)}, True, 1e-6, 1.0, lookup=words)
    optimizer.restrict_lookup([1, 2])
    with tf.GradientTape() as tape:
        logits = tf.matmul(tf.gather(words, [1, 2]), words, transpose_b=True)
    with pytest.raises(UserError, match=r'words.*tied output layer.*Drop lookup='):
        optimizer.apply_gradients([(tape.gradient(logits, words), words)])


def test_published_numbers():
    electra = make_knobs('--model', 'electra-base')
    assert (electra.learning_rate, electra.layer_decay, electra.bias_correction, electra.epsilon, electra.weight_decay,
            electra.clip_norm, electra.warmup, electra.schedule, electra.batch_size, electra.dropout) == (
        1e-4, 0.8, False, 1e-6, 0.01, 1.0, 0.1, 'multiplied', 32, 0.1)
    large = make_knobs('--model', 'electra-large')
    assert (large.learning_rate, large.layer_decay) == (5e-5, 0.9)
    bert = make_knobs('--model', 'bert-base-uncased')
    assert (bert.learning_rate, bert.layer_decay, bert.bias_correction, bert.schedule) == (2e-5, 1.0, True, 'linear')
    for script in ('CoLA', 'SST2', 'MRPC', 'QQP', 'MNLI', 'QNLI', 'WNLI', 'RTE', 'STSB'):
        knobs = __import__(script).knobs.resolve(f'{script}.py', 'electra', {})
        assert (knobs.epochs, knobs.swap_pairs) == (10 if script in ('RTE', 'STSB') else 3, True)


def test_which_value_of_a_knob_wins():
    def settled(recipe, **given):
        return CoLA.knobs.resolve('CoLA.py', recipe, given)

    assert settled('bert').epochs == 10                     # the script's
    assert settled('electra-large').epochs == 3             # by the family
    assert settled('bert', epochs=2).epochs == 2            # the command line's
    assert settled('bert').batch_size == config.Knobs.batch_size
    assert settled('bert').layer_decay == 1.0               # the recipe's
    assert settled('bert', layer_decay=0.9).layer_decay == 0.9


@pytest.mark.parametrize('option', ['--batch-size=0', '--maxlen=7', '--maxlen=513', '--epochs=x', '--epochs=0',
                                    '--learning-rate=nan', '--dropout=1', '--schedule=cosine', '--no-such', '--ep=3'])
def test_bad_options_end_with_status_2(option, capsys):
    with pytest.raises(SystemExit) as end:
        parse_args(CoLA.knobs, '', '', [option])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()[-1]) < 200


def test_unknown_option_names_the_close_one(capsys):
    with pytest.raises(SystemExit):
        parse_args(CoLA.knobs, '', '', ['--learning-rat', '1'])
    assert 'did you mean --learning-rate?' in capsys.readouterr().err


def test_every_knob_is_an_option(capsys):
    with pytest.raises(SystemExit):
        parse_args(CoLA.knobs, '', '', ['--help'])
    shown = capsys.readouterr().out
    for field in dataclasses.fields(config.Knobs):
        if field.name not in ('script', 'recipe', 'found'):
            assert f'--{field.name.replace("_", "-")}' in shown


def test_every_variable_has_its_own_rate_also_in_an_edited_model(tiny_bert):
    """A recurrent head has several variables of one last name; a frozen layer trains none of its own."""
    knobs = make_knobs('--model', tiny_bert, '--layer-decay', 0.5)
    encoder = snippets.build_encoder(knobs)
    x = keras.layers.Bidirectional(keras.layers.LSTM(4), name='recurrent')(encoder.sequence)
    model = keras.Model(encoder.inputs, snippets.classifier(knobs, 2)(keras.layers.BatchNormalization()(x)))
    model.get_layer('Embedding-Token').trainable = False
    weights = named_weights(model)
    assert {variable.ref() for variable in weights.values()} == {variable.ref() for variable in model.weights}
    optimizer = snippets.build_optimizer(knobs, model, 100)
    optimizer.build(model.trainable_variables)
    rates = {v.ref(): rate for v, *rate in zip(model.trainable_variables, optimizer.scales, optimizer.decays,
                                                strict=True)}
    for name, (scale, decay) in {'bert/encoder/layer_0/output/dense/kernel': (0.5 ** 3, 0.01),
                                 'bert/encoder/layer_1/output/LayerNorm/gamma': (0.5 ** 2, 0.0),
                                 'recurrent/forward_lstm/lstm_cell/kernel': (1.0, 0.01),
                                 'classifier/bias': (1.0, 0.0)}.items():
        assert rates[weights[name].ref()] == [scale, decay]


def test_electra_head_and_bert_head_differ_as_published(tiny_bert):
    knobs = make_knobs('--model', tiny_bert, '--seed', 1)
    layers = [snippets.classifier(knobs, 3) for _ in range(2)]
    kernels = [layer(tf.ones((1, 64))) is not None and layer.kernel.numpy() for layer in layers]
    np.testing.assert_array_equal(*kernels)             # by the seed alone
    assert np.abs(kernels[0]).max() <= 0.04 + 1e-6      # truncated at two deviations of 0.02
    assert isinstance(layers[0].bias_initializer, keras.initializers.Zeros)
