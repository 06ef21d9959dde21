"""The training loop: leg by leg, an epoch or a number of updates, each scored on dev; the best weights are kept.

The run's files are in run.py and report.py, its state in state.py, how long it lasts in plan.py.
"""

import contextlib
import itertools
import time
from pathlib import Path

import numpy as np

import config
from engine.backend import keras, tf
from engine.console import progress_bar
from engine.data.batches import choose_widths, training_steps, training_stream
from engine.devices import peak_memory, several_machines
from engine.files import Diverged, UserError
from engine.model.encoders import load_initial_weights, named_weights
from engine.runs.folder import claim_folder, initialize_folder
from engine.runs.layout import STATE, WEIGHTS, run_folder
from engine.runs.metrics import best_epoch, print_epoch, print_final_scores, print_updates, write_metrics
from engine.runs.mistakes import constant_answer, example_losses, write_mistakes
from engine.runs.results import write_outputs
from engine.runs.status import is_resumable
from engine.training import signals, state
from engine.training.optimizers import apply_pending_decay, restrict_lookup
from engine.training.plan import Stage, make_plan
from engine.training.prediction import Predictor


def train(knobs, model, train_data, dev_data, score, answers=None, callbacks=(), predict=Predictor.predict,
          losses=None, panels=None):
    """Train, score on dev after every leg (an epoch, or --score-every updates), end with the weights of the best one.
    Returns a Predictor with these weights. What is left behind: run.py.

    score: takes (outputs, data) and returns {metric: value}; the best leg has the highest mean of these. A metric that
    is not defined (nan) counts as lower than any other, so that there always is a best one. answers: takes (outputs,
    data) and returns a text for each example, for the file of dev mistakes; without it the outputs on dev are not kept,
    either. predict: takes (predictor, data) and returns the outputs, where not all of what the model gives is needed.
    losses: takes (outputs, data) and returns how wrong they are for each example, by which that file is sorted; without
    it that is the loss by the function the model was compiled with.

    panels: of a pre-training, {title: names of metrics}, what its curve shows. The weights of the last leg are kept
    then, not those of a best one: its score is the number of updates.

    callbacks: Keras callbacks. on_epoch_begin and _end are called for legs, on_test_begin and _end around scoring on
    dev and saving the weights; of their attributes, variables and plain values (state.py) are saved and restored with
    the run. Where one sets model.stop_training, the run ends after the leg.
    """
    if (knobs.grad_accumulation - 1) * knobs.batch_size >= len(train_data):
        raise UserError(f'--grad-accumulation {knobs.grad_accumulation}: fewer steps of {knobs.batch_size} examples '
                        f'hold all {len(train_data)}.')
    if any(getattr(output, '_keras_mask', None) is not None for output in model.outputs):
        raise UserError('An output of the model carries a Keras mask, by which Keras would scale its loss beyond the '
                        'weights of the batch. Build outputs for tokens on encoder.sequence, which has none.')
    training = Training(knobs, model, train_data, dev_data, score, answers, callbacks, predict, losses, panels)
    training.begin()
    with signals.deferred():
        while training.stage() != Stage.DONE:
            if training.stage() != Stage.SCORING:
                training.train_interval()
            training.evaluate()
        training.end()
    return training.predictor


class Training:
    """A training under way. `progress` says how far it is."""

    def __init__(self, knobs, model, train_data, dev_data, score, answers, callbacks, predict, losses=None,
                 panels=None):
        self.knobs, self.model, self.train_data, self.dev_data = knobs, model, train_data, dev_data
        self.score, self.answers, self.predict, self.losses, self.panels = score, answers, predict, losses, panels
        self.folder, self.plan, self.progress = run_folder(knobs), make_plan(knobs, len(train_data)), state.Progress()
        most = config.XLA_LENGTHS if model.jit_compile else None
        batches = [rows for rows, _ in training_steps(knobs, train_data, 0)]
        widths = choose_widths(train_data.lengths, batches, most)
        self.predictor = Predictor(knobs, model, widths)
        self.callbacks = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=len(self.plan.interval_ends))
        self.widths = widths

    def stage(self):
        """What comes next."""
        step, scored = self.progress.step, len(self.progress.rows)
        if self.model.stop_training and scored and step == self.plan.interval_start(scored):
            return Stage.DONE
        return self.plan.stage(step, scored)

    # ---- Beginning and end ----

    def begin(self):
        """A new run, or one that goes on: weights, optimizer, state and stream of batches are ready after this."""
        init = self.knobs.init
        if init and Path(init).resolve() == self.folder.resolve():
            raise UserError(f'--init {init}: this run would write there itself. Give it a --name, another --seed or '
                            '--runs-dir.')
        goes_on = is_resumable(self.knobs)
        if init and not goes_on:
            load_initial_weights(self.knobs, self.model)
        claim_folder(self.knobs, goes_on)
        if not goes_on:
            initialize_folder(self.knobs)
        restrict_lookup(self.model, self.train_data)
        self.model.optimizer.build(self.model.trainable_variables)      # in the first step it would be traced twice
        self.model.stop_training = False
        self.callbacks.on_train_begin()
        self.state = state.StateFile(self.knobs, self.model, self.callbacks.callbacks,
                                     self.train_data.fingerprint() + self.dev_data.fingerprint())
        if goes_on:
            self.progress = self.state.load(self.plan)
            print(f'The run in {self.folder}/ goes on after {self.progress.step} of {self.plan.interval_ends[-1]} steps.')
        self.batches = iter(training_stream(self.knobs, self.train_data, self.widths, self.plan, self.progress.step))
        self.train_steps = self.model.make_train_function()     # takes the iterator, trains one step or several
        self.steps_at_once = int(self.model._steps_per_execution.numpy())       # Keras has no public name for it

    def end(self):
        """The weights of the best leg, and the scores."""
        self.callbacks.on_train_end()
        self.state.save(self.progress, done=True)
        signals.raise_if_pending()
        state.restore(self.folder / WEIGHTS, named_weights(self.model))
        if not self.panels:
            print_final_scores(self.progress.rows)
        traced = self.model.train_tf_function       # None where the step is not compiled
        traces = traced.experimental_get_tracing_count() if traced else 1
        if traces > 1:
            print(f'Note: the training step was traced {traces} times instead of once: something in it depends on '
                  'the shape or the Python value of its inputs.')

    # ---- Training ----

    def train_interval(self):
        """Train to the end of the leg, from wherever it is. A signal stops it after a step, with its state saved."""
        progress, leg = self.progress, len(self.progress.rows)
        start, end = self.plan.interval_start(leg), self.plan.interval_ends[leg]
        if progress.step == start:
            self.model.reset_metrics()      # the mean loss
            progress.start_interval()
            self.callbacks.on_epoch_begin(leg)
        name = 'leg' if self.knobs.score_every else 'epoch'
        bar = progress_bar(end - start, f'{name} {leg + 1}/{len(self.plan.interval_ends)}', 'steps', progress.step - start)
        with contextlib.closing(bar):
            while progress.step < end:
                began = time.monotonic()
                count = min(self.steps_at_once, end - progress.step)
                self.callbacks.on_train_batch_begin(progress.step - start)
                logs = self.train(count)
                progress.step += count
                progress.loss = float(logs['loss'])
                self.callbacks.on_train_batch_end(progress.step - start - 1, logs)
                progress.train_seconds += time.monotonic() - began
                bar.update(count)
                if not np.isfinite(progress.loss):
                    raise self.diverged(count)
                if signals.pending() or self.state.due():
                    self.state.save(progress)
                signals.raise_if_pending()

    def train(self, count):
        """Train so many steps. Returns {'loss': the mean of the leg so far}, and the model's other metrics."""
        if self.steps_at_once > 1:
            self.model._steps_per_execution.assign(count)
        try:
            logs = self.train_steps(self.batches)
            # Keras adds up what the steps of several machines return.
            return self.model.get_metrics_result() if several_machines() else logs
        except UserError as error:      # AutoGraph puts all that it went through in front of the message
            raise UserError(str(error).split('UserError: ', 1)[-1].strip()) from error
        except tf.errors.ResourceExhaustedError as error:
            length = max(self.train_data.lengths[rows].max() for rows in self.rows_of(self.progress.step, count))
            raise UserError(f'{self.where(self.progress.step)}: out of memory with {self.knobs.batch_size} examples of '
                            f'{length} tokens. Lower --batch-size (with --grad-accumulation for the same updates) or '
                            f'{self.knobs.out_of_memory_hint}.') from error

    def where(self, step):
        epoch, number = divmod(step, self.plan.steps_per_epoch)
        return f'epoch {epoch + 1}, step {number + 1} of {self.plan.steps_per_epoch}'

    def rows_of(self, step, count):
        """The rows of so many steps from this one on."""
        for number in range(step, step + count):
            epoch, place = divmod(number, self.plan.steps_per_epoch)
            rows, *_ = next(itertools.islice(training_steps(self.knobs, self.train_data, epoch), place, None))
            yield rows

    def diverged(self, count):
        """What to say where the loss is not finite after the last `count` steps."""
        first = self.progress.step - count
        rows = np.unique(np.concatenate(list(self.rows_of(first, count))))
        examples = [self.train_data.examples[i] for i in np.unique(self.train_data.example[rows])]
        files = sorted({example.file for example in examples})
        if len(files) == 1:
            lines = ', '.join(str(example.line) for example in sorted(examples, key=lambda example: example.line))
            rows = f'{files[0]}, lines {lines}'
        else:
            rows = ', '.join(files)
        kept = ''
        if (self.folder / STATE).is_file():
            kept = f' The state of an earlier step is kept in {self.folder}/.'
        rate = float(self.model.optimizer.learning_rate)
        where, loss = self.where(self.progress.step - 1), self.progress.loss
        return Diverged(f'{where}, learning rate {rate:g}: the loss is {loss}. Its rows: {rows}. '
                        f'Lower --learning-rate, or mend the data, and start over with --fresh.{kept}')

    # ---- Scoring ----

    def evaluate(self):
        """Score the leg that is trained, and keep its weights where it is the best. A signal stops the prediction, with
        the state saved, but not the writing of files."""
        progress, leg = self.progress, len(self.progress.rows)
        apply_pending_decay(self.model)
        began = time.monotonic()
        self.callbacks.on_test_begin()
        try:
            with signals.immediate():
                outputs = self.predict(self.predictor, self.dev_data)
        except signals.Stopped:
            self.callbacks.on_test_end()
            self.state.save(progress)
            raise
        answers = self.answers(outputs, self.dev_data) if self.answers else []
        row = self.make_row(outputs, answers, time.monotonic() - began)
        progress.rows.append(row)
        self.keep(outputs, answers)
        self.callbacks.on_test_end(row)
        self.callbacks.on_epoch_end(leg, row)
        steps_left = self.plan.interval_ends[-1] - progress.step
        steps = progress.step - self.plan.interval_start(leg)
        seconds_left = steps_left / steps * (row['train_seconds'] + time.monotonic() - began)
        if self.panels:
            print_updates(row, self.plan.interval_ends[-1] // self.knobs.grad_accumulation, seconds_left)
        else:
            print_epoch(progress.rows, self.epochs(self.plan.interval_ends[-1]), seconds_left)
        if signals.pending() or self.state.due():
            self.state.save(progress)
        signals.raise_if_pending()

    def make_row(self, outputs, answers, dev_seconds):
        """What metrics.json says of a leg."""
        progress, leg = self.progress, len(self.progress.rows)
        where = self.epochs(progress.step)
        if not all(np.isfinite(output).all() for output in tf.nest.flatten(outputs)):
            raise Diverged(f'epoch {where}: the outputs on dev are not finite, the training has diverged. Lower '
                           f'--learning-rate (now {self.knobs.learning_rate:g}).')
        metrics = {name: float(value) for name, value in self.score(outputs, self.dev_data).items()}
        steps = progress.step - self.plan.interval_start(leg)
        examples = len(self.train_data) * steps / self.plan.steps_per_epoch
        update = progress.step // self.knobs.grad_accumulation
        return {
            'epoch': where, 'update': update, 'loss': progress.loss, **metrics,
            'score': update if self.panels else sum(metrics.values()) / len(metrics),
            'train_seconds': progress.train_seconds,
            'dev_seconds': dev_seconds, 'save_seconds': progress.save_seconds,
            'examples_per_second': examples / progress.train_seconds, 'peak_gib': peak_memory(),
            'same_answer': constant_answer(self.dev_data, answers)}

    def epochs(self, step):
        """The epochs that so many steps are: 3, or 0.25."""
        epochs = step / self.plan.steps_per_epoch
        return int(epochs) if epochs.is_integer() else round(epochs, 4)

    def keep(self, outputs, answers):
        """Write what is left of the leg just scored: the weights and answers where it is the best, and the metrics."""
        rows = self.progress.rows
        if best_epoch(rows) is rows[-1]:
            weights = {name: variable.numpy() for name, variable in named_weights(self.model).items()}
            before = best_epoch(rows[:-1])['update'] if rows[1:] else None
            earlier_needed = before is not None and self.state.needs(before)
            state.keep_weights(self.folder, weights, rows[-1]['update'], earlier_needed)
            if self.answers:
                write_outputs(self.folder / 'dev_outputs.npz', outputs, self.dev_data.examples)
                write_mistakes(self.folder / 'dev_predictions.tsv', self.dev_data, answers,
                                      self.losses_of(outputs))
        write_metrics(self.folder, self.knobs, rows, self.panels)

    def losses_of(self, outputs):
        """How wrong the outputs on dev are for each example, (examples,); 0 where that is not known."""
        if self.losses:
            return self.losses(outputs, self.dev_data)
        if self.predict is Predictor.predict:       # else the outputs may be no longer the model's
            return example_losses(self.model, self.dev_data, outputs)
        return np.zeros(len(self.dev_data.examples))
