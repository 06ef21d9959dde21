"""Compare a run of pre-training, its heads and its losses, with an independent implementation, number by number.

    uv run -m checks.align_pretraining runs/pretraining/ELECTRA/small-seed42   # with lab/reference/numpy_model.py, float64 numpy
    uv run -m checks.align_pretraining RUN --reference PYTHON                   # transformers, where PYTHON has it
    uv run -m checks.align_pretraining RUN --data-dir datasets --markdown table.md

RUN is a run of pretraining/ELECTRA.py or MLM.py, or a folder update-... in one. The other side reads the folders that
tools.convert makes of it: ElectraForPreTraining and ElectraForMaskedLM, BertForMaskedLM and so on. Both get the same
texts, the dev sets of RTE and STS-B in demo/ (--data-dir: real ones), with the same tokens hidden; the discriminator
those that were drawn from our generator's distribution. Dropout is off.

Compared are the logits for all words and those of the discriminator on 32 rows, and of a training step on 8 rows the
losses and the gradient of every variable. Differences are as in checks.align; so is the exit status.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from checks.align import (
    BACKWARD,
    EXACT,
    FORWARD,
    Row,
    add_options,
    ask,
    check_options,
    compare,
    compare_variables,
    part,
    report,
)
from engine.backend import tf
from engine.data.batches import split_batches
from engine.files import UserError, exit_status
from engine.model.checkpoints import Checkpoint
from engine.model.encoders import named_weights
from engine.model.families import MLM_HEADS
from lab.reference import numpy_model
from lab.scripts import disable_tf32, open_run
from tools.convert import Generator, convert, key_of, pretraining_head

BATCH, BATCHES = 8, 4
GENERATOR, DISCRIMINATOR = 'generator', 'discriminator'     # an MLM.py's model counts as the first


class Batch(NamedTuple):
    """Of rows of text, arrays (batch, length), of their hidden tokens (batch, slots)."""
    ids: np.ndarray             # with what the hidden ones became
    segments: np.ndarray
    places: np.ndarray
    words: np.ndarray           # the hidden tokens
    used: np.ndarray            # bool: the slots that are
    is_real: np.ndarray         # bool: no padding
    corrupted: np.ndarray       # of ELECTRA.py: what the discriminator gets,
    is_replaced: np.ndarray     # and where that is another token than before


class Output(NamedTuple):
    words: np.ndarray           # (batch, slots, words): logits
    replaced: np.ndarray        # (batch, length): the discriminator's; None of MLM.py


class Step(NamedTuple):
    losses: dict                # {what: loss}; 'total': of which the gradients are
    gradients: dict             # {name of the run's variable: array}


# ---- Ours -----------------------------------------------------------------------------------------------------------


class Setup:
    """A run's model in its own script, and the batches that both sides are given."""

    def __init__(self, folder, data_dir, scratch):
        checkpoint = Checkpoint(folder)
        kind, _ = pretraining_head(checkpoint) if checkpoint.task else (None, {})
        if kind is None:
            raise UserError(f'{folder}: no run of pretraining/ELECTRA.py or MLM.py. checks.align takes other models.')
        texts = [Path(data_dir) / task / 'dev.tsv' for task in ('RTE', 'STS-B')]
        if missing := [path for path in texts if not path.is_file()]:
            raise UserError(f'--data-dir {data_dir}: no {missing[0]}.')
        self.parts = converted_parts(folder, kind == 'ForPreTraining', scratch)
        disable_tf32()
        script, knobs, self.model = open_run(
            folder, precision='float32', jit=False, text=','.join(map(str, texts)), columns='sentence1,sentence2',
            documents='blank', cache_dir=str(scratch / 'cache'), batch_size=BATCH, grad_accumulation=1, limit=0)
        self.replaced_weight = knobs.discriminator_weight if DISCRIMINATOR in self.parts else 0.0
        data = script.load_data(knobs)['train']
        rows = np.arange(min(len(data), BATCH * BATCHES))
        batches = [rows for rows in split_batches(rows, BATCH) if len(rows) == BATCH]
        if not batches:
            raise UserError(f'--data-dir {data_dir}: fewer than {BATCH} rows of text.')
        self.given = [given_to(knobs, data, rows) for rows in batches]
        self.outputs, self.batches = zip(*map(self.forward, self.given), strict=True)

    def forward(self, given):
        """(Output, Batch) of a batch as the script's training has it."""
        (ids, segments, places), targets, weights = given
        outputs = self.model([ids, segments, places], training=False)
        if DISCRIMINATOR not in self.parts:
            no_token = np.zeros(ids.shape, bool)
            return Output(outputs.numpy(), None), Batch(ids, segments, places, targets, weights > 0, ids != 0, ids,
                                                        no_token)
        guesses, seen = (output.numpy() for output in outputs)
        (words, originals), (used, is_real) = targets, weights
        corrupted = seen[:, :, 1].astype(np.int32)
        return Output(guesses, seen[:, :, 0]), Batch(ids, segments, places, words, used > 0, is_real > 0, corrupted,
                                                     corrupted != originals)

    def step(self):
        """The Step of the first batch, by the script's own losses."""
        inputs, targets, weights = self.given[0]
        variables = {name: v for name, v in named_weights(self.model).items() if v.trainable}
        losses = self.model.compiled_loss
        losses.reset_state()
        with tf.GradientTape() as tape:
            outputs = self.model(inputs, training=False)
            total = losses(*tf.nest.map_structure(tf.convert_to_tensor, (targets, outputs, weights)))
        gradients = tape.gradient(total, list(variables.values()))
        values = [float(metric.result()) for metric in losses.metrics]
        names = ['total', 'words', 'replaced'] if len(values) > 1 else ['words']      # as Keras lists them
        return Step(dict(zip(names, values, strict=True)), {
            name: tf.convert_to_tensor(g).numpy() for name, g in zip(variables, gradients, strict=True)})


def given_to(knobs, data, rows):
    """(inputs, targets, weights) of these rows with the tokens hidden that epoch 0 hides; the weights make Keras's
    means those over the tokens of this batch."""
    ids, segments = data.batch(rows)
    ids, places, targets, used = data.targets.batch(ids, rows, (knobs.seed, 0))
    return (ids, segments, *places), targets, tf.nest.map_structure(lambda used: used * (used.size / used.sum()), used)


def converted_parts(folder, is_electra, scratch):
    """What tools.convert makes of a run: {GENERATOR or DISCRIMINATOR: (folder, {name there by Google's code: the
    run's})}."""
    names = {GENERATOR: {name: name for name in Checkpoint(folder).shapes}}
    if is_electra:
        of_generator = Generator(folder).keys
        others = [name for name in names[GENERATOR] if not name.startswith(('generator/', 'generator_predictions/'))]
        names = {GENERATOR: of_generator, DISCRIMINATOR: {name: name for name in others}}
    for which in names:
        with contextlib.redirect_stdout(io.StringIO()):     # what is mapped to what
            convert(folder, scratch / which, generator=is_electra and which == GENERATOR)
    return {which: (scratch / which, of_part) for which, of_part in names.items()}


# ---- The references -------------------------------------------------------------------------------------------------


class Numpy:
    """lab/reference/numpy_model.py, on what was converted."""
    name = 'numpy, float64'

    def __init__(self, setup):
        self.setup, self.models, self.unlike = setup, {}, 0
        for which, (folder, names) in setup.parts.items():
            checkpoint = Checkpoint(folder)
            self.unlike += len(set(names) ^ set(checkpoint.shapes))
            self.models[which] = numpy_model.ReferenceModel(checkpoint.family, checkpoint.config, 'cls',
                                                 dict(checkpoint.read(checkpoint.shapes)))
            self.head = MLM_HEADS[checkpoint.family][0]

    def outputs(self):
        """The Output of every batch."""
        return [self.output(batch) for batch in self.setup.batches]

    def output(self, batch):
        generator, discriminator = self.models[GENERATOR], self.models.get(DISCRIMINATOR)
        states, _ = generator.encode(batch.ids, batch.segments)
        words, _ = generator.hidden_words(states[-1], batch.places, self.head)
        if not discriminator:
            return Output(words, None)
        states, _ = discriminator.encode(batch.corrupted, batch.segments, batch.is_real)
        return Output(words, discriminator.replaced_tokens(states[-1])[0])

    def step(self):
        """The Step of the first batch."""
        generator, discriminator = self.models[GENERATOR], self.models.get(DISCRIMINATOR)
        batch, weight = self.setup.batches[0], self.setup.replaced_weight
        states, backward = generator.encode(batch.ids, batch.segments)
        loss, gradient = generator.hidden_words_loss(states[-1], batch.places, batch.words, batch.used, self.head)
        backward(gradient)
        losses = {'words': loss}
        if discriminator:
            states, backward = discriminator.encode(batch.corrupted, batch.segments, batch.is_real)
            loss, gradient = discriminator.replaced_loss(states[-1], batch.is_replaced, batch.is_real, weight)
            backward(gradient)
            losses |= {'replaced': loss, 'total': losses['words'] + weight * loss}
        return Step(losses, sum_gradients(self.setup, {which: model.gradients for which, model in self.models.items()}))


class Peer:
    """transformers, in another interpreter: lab/peers/align_pretraining.py does all of it in one go."""

    def __init__(self, python, setup, folder):
        self.setup, self.folder = setup, folder
        families = {which: Checkpoint(path).family for which, (path, _) in setup.parts.items()}
        (folder / 'request.json').write_text(json.dumps({
            'replaced_weight': setup.replaced_weight, 'batches': len(setup.batches),
            'folders': {which: str(path) for which, (path, _) in setup.parts.items()},
            'names': {which: {name: key_of(name, families[which], f'{families[which]}.') for name in names}
                      for which, (_, names) in setup.parts.items()}}))
        np.savez(folder / 'request.npz', **{f'{i}/{what}': value for i, batch in enumerate(setup.batches)
                                            for what, value in batch._asdict().items()})
        answer = ask(python, 'align_pretraining.py', folder)
        self.name, self.unlike, self.losses = answer['name'], answer['unlike'], answer['losses']

    def outputs(self):
        answer = np.load(self.folder / 'answer.npz')
        return [Output(answer[f'{i}/words'], answer.get(f'{i}/replaced')) for i in range(len(self.setup.batches))]

    def step(self):
        answer = np.load(self.folder / 'answer.npz')
        return Step(self.losses, sum_gradients(self.setup, {
            which: part(answer, f'gradients/{which}/') for which in self.setup.parts}))


def sum_gradients(setup, gradients):
    """{the run's name: gradient} from those of each part's variables: of what both have, the sum of two."""
    total = {}
    for which, of_part in gradients.items():
        for name, value in of_part.items():
            own = setup.parts[which][1][name]
            total[own] = total.get(own, 0.0) + value
    return total


# ---- The comparison -------------------------------------------------------------------------------------------------


def align(setup, other):
    """Yield the rows."""
    def of_all(outputs, kind, chosen):
        """The `kind` of logits of all batches where what is `chosen` of a batch says so."""
        return np.concatenate([getattr(output, kind)[getattr(batch, chosen)]
                               for output, batch in zip(outputs, setup.batches, strict=True)])

    yield Row('variables that one of the two lacks', '0', str(other.unlike), other.unlike, EXACT)
    theirs = other.outputs()
    words = of_all(setup.outputs, 'words', 'used')
    yield compare(f'logits of all words for {len(words)} hidden tokens', words, of_all(theirs, 'words', 'used'),
                  FORWARD)
    if DISCRIMINATOR in setup.parts:
        logits = of_all(setup.outputs, 'replaced', 'is_real')
        replaced = sum(batch.is_replaced.sum() for batch in setup.batches)
        yield compare(f"discriminator's logits for {len(logits)} tokens, {replaced} of them replaced", logits,
                      of_all(theirs, 'replaced', 'is_real'), FORWARD)
    own, step = setup.step(), other.step()
    for name, what in (('words', "hidden tokens' cross-entropy"), ('replaced', "discriminator's binary cross-entropy"),
                       ('total', f'the first and {setup.replaced_weight:g} times the second')):
        if name in own.losses:
            yield compare(f'loss, {what}', own.losses[name], step.losses[name], FORWARD)
    yield compare_variables('gradients', own.gradients, step.gradients, BACKWARD)


def run(args):
    """Do what the command line says. Returns 0, or 1 where a row fails. Raises UserError."""
    check_options(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        setup = Setup(args.run, args.data_dir, folder)
        other = Peer(args.reference, setup, folder) if args.reference else Numpy(setup)
        rows = list(align(setup, other))
    return report(other.name, rows, args.markdown)


def main(argv=None):
    """The command line. Returns 0 where all rows pass, 1 where one fails, 2 for bad input."""
    parser = argparse.ArgumentParser(prog='python -m checks.align_pretraining', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', metavar='RUN', help='a run of pretraining/ELECTRA.py or MLM.py')
    add_options(parser)
    return exit_status(run, parser.parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
