"""A fine-tuned model for programs that have none of this code: as a TensorFlow SavedModel or in ONNX.

    uv run -m tools.export runs/CoLA/bert-base-uncased-seed42 --format savedmodel
    uv run --extra onnx -m tools.export runs/CoLA/bert-base-uncased-seed42 --format onnx
    uv run -m tools.export runs/... --format savedmodel --output models/cola/1      # as TensorFlow Serving wants it

The folder gets the model, vocab.txt and export.json: task, labels, maxlen, cut (how texts that are too long are cut:
what tokenize() in engine/data/tokens.py is told), the names of inputs and outputs, the run it was made from. It is written
only if a fresh process gets the run's logits from it. The model computes in float32, whatever --precision it was
trained with.

SavedModel: the signature serving_default takes input_ids and token_type_ids, int32 (batch, length), padded with 0, and
gives logits, float32 (batch, labels), of a tagging model (batch, length, labels). The signature rest is for TensorFlow
Serving's REST interface, where a request then is {"signature_name": "rest", "instances": [[101, 7592, 102], [101, 102,
0]]}: token ids alone, every row padded with 0 to the same length. It gives prediction (the label) and probabilities,
for a regression prediction alone.

ONNX (opset 17): model.onnx with the inputs and the output of serving_default.

A model of texts in windows takes all windows of a text in one row, each maxlen wide, as engine/model/windows.py says; it has
neither `rest` nor ONNX. A tagging model has no `rest` either.
"""

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

# The process that verifies an export imports this file as well, and shall have no more than a server has. So the rest
# is imported where it is used: TensorFlow, onnxruntime and everything of ours, which brings Keras along.

INPUTS = ('input_ids', 'token_type_ids')
TOLERANCE = 1e-5        # largest difference of a logit, relative to the largest logit

# ---- Using and verifying an export -----------------------------------------------------------------------------------


def load_export(folder):
    """(settings, compute, rest) of a folder that export() wrote: its export.json; a function from token ids and segment
    ids, (batch, length) int32, to logits (batch, units) float32; and the signature of that name or None."""
    settings = json.loads((folder / 'export.json').read_text(encoding='utf-8'))
    if settings['format'] == 'onnx':
        import onnxruntime
        session = onnxruntime.InferenceSession(folder / 'model.onnx', providers=['CPUExecutionProvider'])
        return settings, lambda *inputs: session.run(['logits'], dict(zip(INPUTS, inputs, strict=True)))[0], None
    import tensorflow as tf
    model = tf.saved_model.load(folder)

    def call(signature, *inputs):       # holds `model`, without which its signatures would lose their variables
        outputs = model.signatures[signature](
            **{name: tf.constant(value) for name, value in zip(INPUTS, inputs, strict=False)})
        return {name: value.numpy() for name, value in outputs.items()}
    rest = (lambda ids: call('rest', ids)) if 'rest' in model.signatures else None
    return settings, lambda *inputs: call('serving_default', *inputs)['logits'], rest


def verify(folder, samples):
    """The largest difference of the exported model's outputs from `samples`, an .npz with the training model's logits.

    Logits and scores are taken relative to the largest logit, probabilities as they are; a wrong label is infinite.
    """
    settings, compute, rest = load_export(Path(folder))
    with np.load(samples) as arrays:
        batches = [[arrays[f'{name}{i}'] for name in ('ids', 'segments', 'logits')] for i in range(len(arrays) // 3)]
    scale = max(np.abs(logits).max() for _, _, logits in batches)
    differences = [np.abs(compute(ids, segments) - logits).max() / scale for ids, segments, logits in batches]
    for ids, _, logits in batches if rest else ():
        answer = rest(ids)
        if not settings['labels']:
            differences.append(np.abs(answer['prediction'] - logits[:, 0]).max() / scale)
            continue
        chosen = [settings['labels'].index(label.decode()) for label in answer['prediction']]
        wrong = logits[np.arange(len(logits)), chosen] < logits.max(-1) - TOLERANCE * scale     # a tie has two answers
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        differences += [np.inf if wrong.any() else 0.0,
                        np.abs(answer['probabilities'] - odds / odds.sum(-1, keepdims=True)).max()]
    return np.max(differences)          # nan if one of them is


def verify_afresh(folder, samples):
    """verify() in a process of its own, on the CPU, with nothing but NumPy and TensorFlow or onnxruntime."""
    code = 'import sys; from tools.export import verify; print(verify(*sys.argv[1:]))'
    env = {name: value for name, value in os.environ.items() if name not in ('TF_KERAS', 'TF_USE_LEGACY_KERAS')}
    done = subprocess.run([sys.executable, '-c', code, folder, samples], cwd=Path(__file__).resolve().parents[1],
                          env=env | {'CUDA_VISIBLE_DEVICES': '-1'}, capture_output=True, text=True)
    if done.returncode:
        from engine.files import UserError
        raise UserError(f'the exported model does not work in a fresh process, so nothing was written: '
                        f'{(done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}')
    return float(done.stdout.split()[-1])


# ---- Making one ------------------------------------------------------------------------------------------------------


def signatures(model, settings, sep):
    """The functions of a SavedModel, {name: function}; settings: those of the run; `sep`: the id of [SEP]."""
    import tensorflow as tf
    labels = settings['labels']
    specs = [tf.TensorSpec((None, None), tf.int32, name=name) for name in INPUTS]

    @tf.function(input_signature=specs)
    def serving_default(input_ids, token_type_ids):
        return {'logits': model([input_ids, token_type_ids], training=False)}

    @tf.function(input_signature=specs[:1])
    def rest(input_ids):
        # Segment 0 up to and including the first [SEP], 1 behind it, 0 again for padding.
        behind = tf.cumsum(tf.cast(input_ids == sep, tf.int32), axis=1, exclusive=True) > 0
        logits = serving_default(input_ids, tf.cast(behind & (input_ids != 0), tf.int32))['logits']
        if not labels:
            return {'prediction': logits[:, 0]}
        return {'prediction': tf.gather(tf.constant(labels), tf.argmax(logits, -1)),
                'probabilities': tf.nn.softmax(logits)}

    functions = {'serving_default': serving_default}
    # Else what the outputs mean is the script's alone to say, or a row has several windows, each with its own [SEP].
    if (settings['probabilities'] or not labels) and not settings['cut'].get('joined'):
        functions['rest'] = rest
    return functions


def write_savedmodel(functions, variables, folder):
    import tensorflow as tf
    module = tf.Module()                # not the Keras model, which would be saved with its Python configuration
    module.weights = list(variables)    # saving wants to find every variable that the functions use
    try:
        tf.saved_model.save(module, folder, signatures=functions)
    except tf.errors.OpError as error:
        from engine.files import UserError
        reason = error.message.split('; ')[-1].split(' [Op')[0]
        raise UserError(f'the SavedModel cannot be written: {reason}.') from error


def write_onnx(function, path):
    from engine.backend import quiet
    with quiet():
        import tf2onnx
        logging.getLogger('tf2onnx').setLevel(logging.ERROR)
        tf2onnx.convert.from_function(function, function.input_signature, opset=17, output_path=str(path))


def export(folder, form, output, fresh=False):
    """Write the run in `folder` as 'savedmodel' or 'onnx' into the new folder `output`, whole or not at all. Raises
    UserError."""
    from engine.data.vocabulary import load_vocabulary
    from engine.files import UserError, atomic_folder, write_json
    from engine.training.prediction import token_axis
    from lab.scripts import disable_tf32, inference_settings, open_run, require_packages, sample_batches
    output = output.resolve()
    if os.path.lexists(output) and not fresh:
        raise UserError(f'{output} is there already. Write over it with --fresh, or choose another --output.')
    if os.path.lexists(output) and not (output / 'export.json').is_file():
        raise UserError(f'{output} is no exported model; --fresh writes over nothing else. Choose another --output.')
    if form == 'onnx':
        require_packages('onnx', 'onnxruntime', 'tf2onnx')
    _, knobs, model = open_run(folder, precision='float32', jit=False)
    if len(model.outputs) > 1 or len(model.inputs) > 2:
        raise UserError(f'{folder}: only models with one output, for texts alone, are exported so far.')
    if token_axis(model.output) not in (None, 0):
        raise UserError(f'{folder}: its answers are looked for among outputs for tokens, and the model gives these '
                        'alone. tools.convert makes a model for transformers of it.')
    if any(layer.name == 'crf' for layer in model.layers):
        raise UserError(f'{folder}: its answers are the best paths by its CRF, and the model gives logits alone. '
                        'Export a run without --crf.')
    if form == 'onnx' and knobs.cut.get('joined'):
        raise UserError(f'{folder}: its model takes texts in windows, which tf2onnx cannot convert. Export it with '
                        '--format savedmodel.')
    disable_tf32()
    settings = inference_settings(folder, knobs, model)
    functions = signatures(model, settings, load_vocabulary(folder, settings['vocab_size']).sep)
    names = {'inputs': INPUTS, 'outputs': ['logits']}
    if form == 'savedmodel' and 'rest' in functions:
        answers = ['prediction', 'probabilities'] if knobs.labels else ['prediction']
        names['rest'] = {'inputs': INPUTS[:1], 'outputs': answers}
    packages = ['tensorflow']
    if form == 'onnx':
        packages += ['tf2onnx', 'onnx', 'onnxruntime']
    settings = {
        'format': form, **settings, **names, 'run': f'{knobs.task}/{folder.resolve().name}',
        'model_sha256': hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest(),
        'versions': {'python': sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in packages}}
    samples = {}
    for i, (ids, segments) in enumerate(sample_batches(folder, knobs)):
        samples |= {f'ids{i}': ids, f'segments{i}': segments, f'logits{i}': model.predict_on_batch([ids, segments])}

    with atomic_folder(output, fresh) as new:
        samples_file = new.with_name('samples.npz')
        if form == 'onnx':
            write_onnx(functions['serving_default'], new / 'model.onnx')
        else:
            write_savedmodel(functions, model.variables, new)
        shutil.copyfile(folder / 'vocab.txt', new / 'vocab.txt')
        write_json(new / 'export.json', settings)
        np.savez(samples_file, **samples)
        difference = verify_afresh(new, samples_file)
        if not difference <= TOLERANCE:
            raise UserError(f'the exported model differs from the run by {difference:.1e} of the largest logit, more '
                            f'than {TOLERANCE:g}, so nothing was written.')
    print(f'{output}: verified in a fresh process, largest difference {difference:.1e} of the largest logit '
          f'({sum(map(len, samples.values())) // 3} texts in {len(samples) // 3} batches)')


def main(argv=None):
    """The command line. Returns 0 when the folder is written, else 2."""
    parser = argparse.ArgumentParser(prog='python -m tools.export', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, help='a folder in runs/')
    parser.add_argument('--format', choices=('savedmodel', 'onnx'), required=True)
    parser.add_argument('--output', type=Path, help='the folder to write (RUN/savedmodel or RUN/onnx)')
    parser.add_argument('--fresh', action='store_true', help='write over an earlier export')
    args = parser.parse_args(argv)
    from engine.files import exit_status
    return exit_status(export, args.run, args.format, args.output or args.run / args.format, args.fresh)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))     # through what cleans up
    sys.exit(main())
