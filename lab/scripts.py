"""A run folder as a model in memory, for the tools that use fine-tuned models."""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np

import config
import snippets
from engine.backend import keras, tf
from engine.cli import resolve_knobs
from engine.files import UserError, read_json, read_lines
from engine.model.checkpoints import Checkpoint, open_model
from engine.model.encoders import load_initial_weights
from engine.runs.identity import source_hashes
from engine.training.prediction import token_axis


def load_script(task):
    """The script that a run calls `task` ('CoLA', 'chinese/LCQMC'), as a module. Raises UserError."""
    path = (config.ROOT / f'{task}.py').resolve()
    if not path.is_relative_to(config.ROOT) or not path.is_file():
        raise UserError(f'{task}: there is no such script in {config.ROOT}.')
    sys.path.insert(0, str(path.parent))        # as when it is started; its family's own module may lie there
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
    finally:
        sys.path.remove(str(path.parent))
    if not hasattr(script, 'knobs'):
        raise UserError(f'{path}: no script that trains a model.')
    return script


def resolve_task(name):
    """What a run calls the script of this name, with its folder or without: 'WNUT17' is 'tagging/WNUT17'."""
    paths = sorted(config.ROOT.glob(f'*/{name}.py')) if name.isidentifier() else []
    if (config.ROOT / f'{name}.py').is_file() or not paths:
        return name
    return f'{paths[0].parent.name}/{name}'


def open_run(folder, **changed):
    """(script, knobs, model) of a folder in runs/: the task's script and its model with the weights of the best epoch.

    The model is built by the script as it is now; that it was edited since is said on standard error. `changed` are
    knobs that shall differ from the run's, such as precision='float32'. Raises UserError.
    """
    run = Checkpoint(folder)
    try:
        if not isinstance(run.task, str) or not isinstance(run.knobs, dict):
            raise UserError('its config.json names no script.')
        script = load_script(run.task)
    except UserError as error:
        raise UserError(f'{folder}: no run of one of the scripts. Choose a folder in runs/. ({error})') from error
    given = knobs_of_run(run, script)
    if given.get('jit') is not False:
        given.pop('jit', None)                  # that is for this device to say
    path = str(run.folder.resolve())            # a path, where a folder has the name of a model of the table
    given |= {'model': path, 'init': path, 'cache': False, 'pooling': 'auto'}    # its configuration has its own pooling
    knobs = resolve_knobs(script.knobs, script.__file__, given | changed, run.recipe)
    with contextlib.redirect_stdout(io.StringIO()):     # which variables were read
        model = script.build_model(knobs, 1)
        load_initial_weights(knobs, model)
    before, now = read_json(run.folder / 'config.json').get('source_sha256', {}), source_hashes(script.__file__)
    if edited := [name for name in now if before.get(name) != now[name]]:
        print(f'Note: edited since this run, whose model is built as they say now: {", ".join(edited)}.',
              file=sys.stderr)
    return script, knobs, model


def knobs_of_run(run, script):
    """{name: value} of the script's knobs in a run's configuration. Raises UserError."""
    return {field.name: knob_of_run(run, field) for field in config.option_fields(script.knobs) if field.name in run.knobs}


def knob_of_run(run, field):
    """The value of a knob in a run's configuration. Raises UserError for one of another type."""
    value = run.knobs[field.name]
    if field.type is tuple and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    kinds = (int, float) if field.type is float else field.type
    right_kind = isinstance(value, kinds) and isinstance(value, bool) == (field.type is bool)
    if field.name == 'jit' and value is None:       # by the device
        return value
    choices = field.metadata['choices']
    if not right_kind or choices and value not in choices:
        raise UserError(f'{run.folder / "config.json"}: the knob {field.name} is {value!r}. Was the file edited?')
    return value


def dev_examples(folder):
    """The dev texts of a run as Examples, from its dev_predictions.tsv; text_b is None where the task takes one text.

    That file is the run's own record of what its script's load_data() gave: a column text_b that is empty throughout
    means single texts. Raises UserError.
    """
    path = Path(folder) / 'dev_predictions.tsv'
    if not path.is_file():
        raise UserError(f'{path}: no such file. It shows whether the model takes one text or two: copy the whole '
                        'folder of the run.')
    header, *rows = [line.split('\t') for line in read_lines(path)]
    rows = [dict(zip(header, row, strict=False)) for row in rows]
    if not rows or any(not {'text_a', 'text_b'} <= set(row) for row in rows):
        raise UserError(f'{path}: not the file that the run wrote: it needs the columns text_a and text_b, and rows.')
    pair = any(row['text_b'] for row in rows)
    return [snippets.Example(str(path), i + 2, i, row['text_a'], row['text_b'] if pair else None, None)
            for i, row in enumerate(rows)]


def inference_settings(folder, knobs, model):
    """What it takes to turn texts into a run's token ids, and its outputs into answers; also kept in export.json.
    token_axis: which axis of the output is that of the tokens, None where there is none. probabilities: whether the
    softmax of the outputs gives those of the labels, by the loss that the script chose."""
    has_softmax = isinstance(model.loss, keras.losses.SparseCategoricalCrossentropy)
    axis = token_axis(model.outputs[0])
    return {'task': knobs.task, 'labels': list(knobs.labels), 'maxlen': knobs.maxlen, 'cut': knobs.cut,
            'pair': dev_examples(folder)[0].text_b is not None,
            'vocab_size': open_model(knobs.model, knobs.model_dir).config['vocab_size'],
            'token_axis': axis,
            'probabilities': has_softmax and model.loss.get_config()['from_logits'] and bool(knobs.labels)
            and axis is None}


def sample_batches(folder, knobs):
    """Batches (ids, segments) of 1, 2, 5 and the other of up to 32 dev texts of a run, to compare models with.

    They are of all lengths in random order, so that most are padded; an empty text and one that is too long are there.
    """
    examples = dev_examples(folder)[:500]
    first = examples[0]
    for count in (0, 2 * knobs.maxlen):      # words
        long_a, long_b = (' '.join((text.split() * count)[:count]) for text in (first.text_a, first.text_b or ''))
        examples.append(first._replace(text_a=long_a, text_b=None if first.text_b is None else long_b))
    data = snippets.tokenize(knobs, examples)
    rows = np.argsort(data.lengths, kind='stable')[np.linspace(0, len(data) - 1, min(len(data), 32)).astype(int)]
    return [data.batch(some) for some in np.split(np.random.default_rng(0).permutation(rows), [1, 3, 8]) if len(some)]


def disable_tf32():
    """Keep a GPU from computing float32 products in TF32, with 10 bits of mantissa: comparisons need all 23."""
    tf.config.experimental.enable_tensor_float_32_execution(False)


def require_packages(*packages):
    """Raises UserError unless they are installed, all of them of the extra `onnx`."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'ONNX needs {", ".join(missing)}: start this with `uv run --extra onnx -m tools...`, or '
                        f'pip install {" ".join(missing)}.')
