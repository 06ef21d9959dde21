"""The optimizer: Adam as BERT and ELECTRA were published with it, its schedule and its learning rates by layer."""

import re

from engine.checkpoints import quiet
from engine.encoders import named_weights

with quiet():
    import numpy as np
    import tensorflow as tf
    from bert4keras.backend import keras


class WarmUpDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate at step t of T, with W = warmup * T steps of warm-up.

    linear: peak * t / W, then peak * (T - t) / (T - W) (Devlin et al. 2019, as in transformers).
    multiplied: peak * (1 - t / T) * min(1, t / W) (google-research/electra, optimization.py).
    """

    def __init__(self, peak, steps, warmup, schedule):
        self.peak, self.steps, self.warmup, self.schedule = peak, steps, warmup, schedule

    def __call__(self, step):
        # In float64, so that the rate is right to the last digit of float32.
        t, rising = tf.cast(step, tf.float64), self.steps * self.warmup
        if self.schedule == 'linear':
            rising = int(rising)
        rise = tf.minimum(t / rising, 1) if rising else tf.ones_like(t)
        left = tf.maximum(self.steps - t, 0)
        rate = rise * left / self.steps if self.schedule == 'multiplied' else \
            tf.minimum(rise, left / max(self.steps - rising, 1))
        return tf.cast(self.peak * rate, tf.float32)

    def get_config(self):
        return {'peak': self.peak, 'steps': self.steps, 'warmup': self.warmup, 'schedule': self.schedule}


class AdamW(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) and a learning rate for every variable.

    bias_correction False: Google's AdamWeightDecayOptimizer, which BERT and ELECTRA were published with.
    rates: {variable.ref(): (factor on the learning rate, weight decay)}. accumulation: the means of so many gradients
    make one update.
    """

    def __init__(self, learning_rate, rates, bias_correction, epsilon, clip_norm, accumulation=1):
        super().__init__(name='AdamW', global_clipnorm=clip_norm or None, jit_compile=False)     # one kernel as it is
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.rates, self.bias_correction, self.epsilon, self.rows = rates, bias_correction, epsilon, {}
        self.accumulation = accumulation

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, '_built', False):
            return
        self._built = True
        self.scales, self.decays = zip(*(self.rates[variable.ref()] for variable in var_list), strict=True)
        self.rows = {i: self.rows[variable.ref()] for i, variable in enumerate(var_list) if variable.ref() in self.rows}
        self.means, self.squares, self.parts, self.kept, self.sums = [], [], {}, {}, []
        for i, variable in enumerate(var_list):
            shape = variable.shape
            if i in self.rows:
                shape = (len(self.rows[i]), shape[1])
                self.parts[str(i)] = self.add_variable_from_reference(variable, 'part', shape)
                self.kept[str(i)] = self.add_variable((), tf.float64, 'ones', 'kept')
            self.means.append(self.add_variable_from_reference(variable, 'm', shape))
            self.squares.append(self.add_variable_from_reference(variable, 'v', shape))
            if self.accumulation > 1:
                self.sums.append(self.add_variable_from_reference(variable, 'sum', shape))
        if self.sums:       # of the next step in its batch; that batch's steps that overflowed; iterations until now
            self.place, self.lost, self.updates = (
                self.add_variable((), tf.int64, 'zeros', name) for name in ('place', 'lost', 'updates'))

    def train_rows(self, variable, rows):
        """Tell it, before it is built, that no gradient will ever reach other rows of this embedding.

        Their means and squares stay 0, so that all that Adam does to them is weight decay. It is added up, and done in
        decay_other_rows(); the other rows alone are what a step costs.
        """
        self.rows[variable.ref()] = np.asarray(rows, np.int32)

    def decay_other_rows(self, var_list):
        """To be called before the variables (those of build()) are used for anything but training."""
        for i, rows in self.rows.items():
            factors = np.full((var_list[i].shape[0], 1), self.kept[str(i)].numpy(), np.float32)
            factors[rows] = 1.0
            var_list[i].assign(var_list[i] * factors)
            self.kept[str(i)].assign(1.0)

    def aggregate_gradients(self, grads_and_vars):
        # Gradients of embeddings become dense before their norm is taken for clipping: where a word occurs more than
        # once, the norm of its parts is another one.
        grads_and_vars = list(grads_and_vars)
        with tf.init_scope():
            self.build([variable for _, variable in grads_and_vars])
        return super().aggregate_gradients([(self.dense(*pair), pair[1]) for pair in grads_and_vars])

    def apply_gradients(self, grads_and_vars, name=None, skip_gradients_aggregation=False, **options):
        if self.accumulation == 1:
            return super().apply_gradients(grads_and_vars, name, skip_gradients_aggregation, **options)
        if not skip_gradients_aggregation:      # float16's LossScaleOptimizer has done so
            grads_and_vars = self.aggregate_gradients(grads_and_vars)
        gradients, variables = zip(*grads_and_vars, strict=True)
        # Steps that overflow in float16 do not come here: LossScaleOptimizer counts each as an iteration. A batch with
        # such a step makes no update and is an iteration, as where a batch is a step.
        place = self.place + self.iterations - self.updates
        ended = place // self.accumulation      # batches, with such steps
        place %= self.accumulation
        self.lost.assign(tf.where(ended > 0, place, self.lost + self.iterations - self.updates))
        self.iterations.assign(self.updates + ended)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign(tf.where(place > 0, total, 0.0) + gradient / self.accumulation)

        def update():
            super(AdamW, self).apply_gradients(zip(map(tf.convert_to_tensor, self.sums), variables, strict=True), name,
                                               skip_gradients_aggregation=True)
            return tf.identity(self.iterations)

        def none():
            return tf.identity(self.iterations.assign_add(tf.cast(last, tf.int64)))

        last = place + 1 == self.accumulation
        tf.cond(last & (self.lost == 0), update, none)
        self.place.assign((place + 1) % self.accumulation)
        self.lost.assign(tf.where(last, tf.zeros_like(self.lost), self.lost))
        self.updates.assign(self.iterations)
        return self.iterations

    def dense(self, gradient, variable):
        """The gradient as one tensor, of the rows of train_rows() alone."""
        rows = self.rows.get(self._index_dict[self._var_key(variable)])
        if rows is None:
            return tf.convert_to_tensor(gradient)
        if not isinstance(gradient, tf.IndexedSlices):
            return tf.gather(gradient, rows)
        place = np.full(variable.shape[0], -1, np.int32)        # unsorted_segment_sum drops what is at -1
        place[rows] = np.arange(len(rows))
        return tf.math.unsorted_segment_sum(gradient.values, tf.gather(place, gradient.indices), len(rows))

    def update_step(self, gradient, variable):
        i = self._index_dict[self._var_key(variable)]
        rate = self.learning_rate * self.scales[i]
        step = tf.cast(self.iterations + 1, tf.float32)
        power_1, power_2 = (0.9 ** step, 0.999 ** step) if self.bias_correction else (0.0, 0.0)
        part = variable
        if i in self.rows:
            part = self.parts[str(i)]
            part.assign(tf.gather(variable, self.rows[i]))
            self.kept[str(i)].assign(self.kept[str(i)] * (1.0 - tf.cast(rate, tf.float64) * self.decays[i]))
        if self.decays[i]:
            part.assign_sub(rate * self.decays[i] * part)
        # TensorFlow's fused kernel: one pass. Its epsilon stands beside sqrt(v), the algorithm's beside the corrected
        # one; the factor makes them the same.
        tf.raw_ops.ResourceApplyAdam(
            var=part.handle, m=self.means[i].handle, v=self.squares[i].handle, beta1_power=power_1,
            beta2_power=power_2, lr=rate, beta1=0.9, beta2=0.999, epsilon=self.epsilon * tf.sqrt(1.0 - power_2),
            grad=gradient)
        if i in self.rows:
            variable.scatter_update(tf.IndexedSlices(part, self.rows[i]))


def build_optimizer(knobs, model, examples):
    """The recipe's optimizer for `model`, trained for `epochs` passes over this number of examples."""
    weights = named_weights(model)
    rates = {variable.ref(): (layer_scale(name, knobs.layer_decay, weights),
                              0.0 if re.search(r'(bias|beta|gamma)$', name) else knobs.weight_decay)
             for name, variable in weights.items()}
    schedule = WarmUpDecay(knobs.learning_rate, knobs.epochs * steps_per_epoch(knobs, examples), knobs.warmup,
                           knobs.schedule)
    optimizer = AdamW(schedule, rates, knobs.bias_correction, knobs.epsilon, knobs.clip_norm, knobs.grad_accumulation)
    return keras.mixed_precision.LossScaleOptimizer(optimizer) if knobs.precision == 'float16' else optimizer


def inner_optimizer(model):
    """The model's optimizer without float16's LossScaleOptimizer around it."""
    return getattr(model.optimizer, 'inner_optimizer', model.optimizer)


def layer_scale(name, decay, names):
    """decay ** (n + 2 - depth): depth 0 for the embeddings, i + 1 for layer i, n + 2 for the new layers on top.

    One more than it was meant to be, as in google-research/electra (_get_layer_lrs), whose published scores include it.
    BERT's pooler lies between its last layer and the new ones; all layers of an ALBERT are one.
    """
    def layer(one):
        found = re.match(r'(?:bert|electra)/encoder/(?:layer_(\d+)|layer_shared|transformer)/', one)
        return found and int(found[1] or 0) + 1

    layers = max(layer(one) or 0 for one in names)
    depth = layer(name) or (
        0 if re.match(r'(bert|electra)/(embeddings|encoder/embedding_hidden_mapping_in)', name) else
        layers + 1 if name.startswith('bert/pooler/') else layers + 2)
    return decay ** (layers + 2 - depth)


def steps_per_epoch(knobs, examples):
    """Updates, each of grad_accumulation steps."""
    return -(-examples // (knobs.batch_size * knobs.grad_accumulation))
