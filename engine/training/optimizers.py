"""The optimizer: Adam as BERT and ELECTRA were published with it, its schedule and its learning rates by layer."""

import re

import numpy as np

from engine.backend import keras, tf
from engine.files import UserError
from engine.model.encoders import named_weights
from engine.training.plan import total_updates


class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate at step t of T, with W = warmup * T steps of warm-up.

    linear: peak * t / W, then peak * (T - t) / (T - W) (Devlin et al. 2019, as in transformers).
    multiplied: peak * (1 - t / T) * min(1, t / W) (google-research/electra, optimization.py).
    """

    def __init__(self, peak, steps, warmup, schedule):
        self.peak, self.steps, self.warmup, self.schedule = peak, steps, warmup, schedule

    def __call__(self, step):
        t = tf.cast(step, tf.float64)       # so that the rate is right to the last digit of float32
        left = tf.maximum(self.steps - t, 0)
        if self.schedule == 'multiplied':
            rate = self.rise(t, self.steps * self.warmup) * left / self.steps
        else:
            rising = int(self.steps * self.warmup)
            rate = tf.minimum(self.rise(t, rising), left / max(self.steps - rising, 1))
        return tf.cast(self.peak * rate, tf.float32)

    def rise(self, t, rising):
        """From 0 to 1 over so many steps."""
        return tf.minimum(t / rising, 1) if rising else tf.ones_like(t)

    def get_config(self):
        return {'peak': self.peak, 'steps': self.steps, 'warmup': self.warmup, 'schedule': self.schedule}


class AdamW(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) and a learning rate for every variable.

    bias_correction False: Google's AdamWeightDecayOptimizer, which BERT and ELECTRA were published with.
    rates: {variable.ref(): (factor on the learning rate, weight decay)}. accumulation: the means of so many gradients
    make one update. lookup: a variable that the model only looks rows up in, for restrict_lookup(), or None.
    """

    def __init__(self, learning_rate, rates, bias_correction, epsilon, clip_norm, accumulation=1, lookup=None):
        # weight_decay None: Keras's own, 0 by default, would still pass over every variable in every step.
        # jit_compile False: an update is one kernel as it is.
        super().__init__(name='AdamW', weight_decay=None, global_clipnorm=clip_norm or None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.rates, self.bias_correction, self.epsilon, self.lookup = rates, bias_correction, epsilon, lookup
        self.accumulation = GradientAccumulator(self, accumulation) if accumulation > 1 else None
        self.rows = None

    def restrict_lookup(self, rows):
        """Tell it, before it is built, which rows of `lookup` the training looks up: no others will get a gradient.

        Their means and squares stay 0, so that all that Adam does to them is weight decay. It is added up, and done in
        apply_pending_decay(); a step then costs the rows alone. A gradient of the whole variable, as where a tied output
        layer uses it too, is refused.
        """
        if self.lookup is not None:
            self.rows = LookupRows(self, self.lookup, np.asarray(rows, np.int32))

    def apply_pending_decay(self):
        """To be called before the variables are used for anything but training."""
        if self.rows:
            self.rows.decay_other_rows()

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, '_built', False):
            return
        self._built = True
        if not any(variable is self.lookup for variable in var_list):       # it is frozen
            self.rows = None
        self.scales, self.decays = zip(*(self.rates[variable.ref()] for variable in var_list), strict=True)
        self.means, self.squares = [], []
        for variable in var_list:
            shape = self.rows.build().shape if self.is_lookup(variable) else variable.shape
            self.means.append(self.add_variable_from_reference(variable, 'm', shape))
            self.squares.append(self.add_variable_from_reference(variable, 'v', shape))
            if self.accumulation:
                self.accumulation.add(variable, shape)

    def is_lookup(self, variable):
        """Whether only rows of this variable are trained. (On several devices each has a variable of its own.)"""
        return self.rows is not None and self._var_key(variable) == self._var_key(self.lookup)

    def aggregate_gradients(self, grads_and_vars):
        # Gradients of embeddings become dense before their norm is taken for clipping: where a word occurs more than
        # once, the norm of its parts is another one.
        grads_and_vars = list(grads_and_vars)
        with tf.init_scope():
            self.build([variable for _, variable in grads_and_vars])
        dense = [(self.dense(gradient, variable), variable) for gradient, variable in grads_and_vars]
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return dense        # the sum over one device, which would only be copied
        return super().aggregate_gradients(dense)

    def dense(self, gradient, variable):
        return self.rows.gradient(gradient) if self.is_lookup(variable) else tf.convert_to_tensor(gradient)

    def apply_gradients(self, grads_and_vars, name=None, skip_gradients_aggregation=False, **options):
        if not self.accumulation:
            return super().apply_gradients(grads_and_vars, name, skip_gradients_aggregation, **options)
        if not skip_gradients_aggregation:      # float16's LossScaleOptimizer has done so
            grads_and_vars = self.aggregate_gradients(grads_and_vars)
        gradients, variables = zip(*grads_and_vars, strict=True)

        def update(means):
            super(AdamW, self).apply_gradients(zip(means, variables, strict=True), name,
                                               skip_gradients_aggregation=True)
        return self.accumulation.add_up(gradients, update)

    def _distributed_apply_gradients_fn(self, distribution, grads_and_vars, **options):
        self.now = StepValues(self)
        return super()._distributed_apply_gradients_fn(distribution, grads_and_vars, **options)

    def update_step(self, gradient, variable):
        i = self._index_dict[self._var_key(variable)]
        rate, decay = self.now.rates[self.scales[i]], self.decays[i]
        trained = self.rows.take(rate, decay) if self.is_lookup(variable) else variable
        if decay:
            trained.assign_sub(self.now.decays[self.scales[i], decay] * trained, read_value=False)
        # TensorFlow's kernel: one pass over the memory.
        tf.raw_ops.ResourceApplyAdam(var=trained.handle, m=self.means[i].handle, v=self.squares[i].handle, lr=rate,
                                     grad=gradient, **self.now.kernel)
        if self.is_lookup(variable):
            self.rows.write_back()


class StepValues:
    """What all variables have in common in a step, computed once: the fewer operations a step has, the sooner it is
    traced."""

    def __init__(self, optimizer):
        step = tf.cast(optimizer.iterations + 1, tf.float32)
        power_1, power_2 = (0.9 ** step, 0.999 ** step) if optimizer.bias_correction else (0.0, 0.0)
        # The kernel's epsilon stands beside sqrt(v), the algorithm's beside the corrected one; the factor makes them
        # the same.
        values = {'beta1_power': power_1, 'beta2_power': power_2, 'beta1': 0.9, 'beta2': 0.999,
                  'epsilon': optimizer.epsilon * tf.sqrt(1.0 - power_2)}
        self.kernel = {name: tf.convert_to_tensor(value) for name, value in values.items()}
        rate = tf.convert_to_tensor(optimizer.learning_rate)
        self.rates = {scale: rate * scale for scale in set(optimizer.scales)}
        self.decays = {(scale, decay): self.rates[scale] * decay
                       for scale, decay in set(zip(optimizer.scales, optimizer.decays, strict=True))}


class LookupRows:
    """The rows of an embedding that training looks up, as a variable of their own: `part`."""

    def __init__(self, optimizer, variable, rows):
        self.optimizer, self.variable, self.rows = optimizer, variable, rows

    def build(self):
        """Make the optimizer's variables for it. Returns the part."""
        shape = (len(self.rows), self.variable.shape[1])
        self.part = self.optimizer.add_variable_from_reference(self.variable, 'part', shape)
        # What weight decay has left of the other rows since they were decayed, 1 at first.
        self.kept = self.optimizer.add_variable((), tf.float64, 'ones', 'kept')
        return self.part

    def gradient(self, gradient):
        """The gradient of the part, dense. Raises UserError for one of the whole variable."""
        if not isinstance(gradient, tf.IndexedSlices):
            raise UserError(
                f'{self.variable.name}: build_optimizer(lookup=...) says that the model only looks rows up in this '
                'variable, but its gradient is one of all rows. Something else uses it, too (a tied output layer?), or '
                'the training step made its gradient dense. Drop lookup= in build_model().')
        place = np.full(self.variable.shape[0], -1, np.int32)       # in the part; -1: dropped
        place[self.rows] = np.arange(len(self.rows))
        return tf.math.unsorted_segment_sum(gradient.values, tf.gather(place, gradient.indices), len(self.rows))

    def take(self, rate, decay):
        """The part, with the variable's values; the other rows are due this decay."""
        self.part.assign(tf.gather(self.variable, self.rows))
        self.kept.assign(self.kept * (1.0 - tf.cast(rate, tf.float64) * decay))
        return self.part

    def write_back(self):
        self.variable.scatter_update(tf.IndexedSlices(self.part, self.rows))

    def decay_other_rows(self):
        factors = np.full((self.variable.shape[0], 1), self.kept.numpy(), np.float32)
        factors[self.rows] = 1.0
        self.variable.assign(self.variable * factors)
        self.kept.assign(1.0)


class GradientAccumulator:
    """The sums of gradients of the steps that make one update.

    In float16 a step may overflow. LossScaleOptimizer then does not call us but counts an iteration; the batch that has
    such a step makes no update, but counts as one, as where a batch is a step.
        3 steps a batch, x overflows:   g g g | g x g | x g g       one update, after the first batch; 3 iterations
    """

    def __init__(self, optimizer, steps):
        self.optimizer, self.steps, self.sums = optimizer, steps, []

    def add(self, variable, shape):
        """To be called for every variable before add_up()."""
        if not self.sums:
            self.place = self.optimizer.add_variable((), tf.int64, 'zeros', 'place')       # of the step in its batch
            self.spoiled = self.optimizer.add_variable((), tf.int64, 'zeros', 'spoiled')   # 1: that has an overflow
            self.batches = self.optimizer.add_variable((), tf.int64, 'zeros', 'batches')   # iterations as we left them
        self.sums.append(self.optimizer.add_variable_from_reference(variable, 'sum', shape))

    def add_up(self, gradients, update):
        """Take the gradients of a step; after the last step of a batch call update() with their means. Returns the
        iterations."""
        iterations = self.optimizer.iterations
        overflows = iterations - self.batches           # steps since the last call
        place = self.place + overflows
        ended, place = place // self.steps, place % self.steps      # batches that ended with them
        spoiled = tf.where(ended > 0, place > 0, (self.spoiled > 0) | (overflows > 0))      # the batch under way
        iterations.assign(self.batches + ended)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign(tf.where(place > 0, total, 0.0) + gradient / self.steps)

        is_last = place + 1 == self.steps

        def with_update():
            update([tf.convert_to_tensor(total) for total in self.sums])
            return tf.identity(iterations)

        def without():
            return tf.identity(iterations.assign_add(tf.cast(is_last, tf.int64)))

        tf.cond(is_last & ~spoiled, with_update, without)
        self.place.assign((place + 1) % self.steps)
        self.spoiled.assign(tf.cast(spoiled & ~is_last, tf.int64))
        self.batches.assign(iterations)
        return iterations


def build_optimizer(knobs, model, rows, lookup=None, exponents='electra', peaks=None):
    """The recipe's optimizer for `model`, trained on so many rows. lookup: the variable of the word embeddings where
    the model only looks words up in it: rows that no training text uses then cost nothing (AdamW.restrict_lookup).
    exponents: a key of EXPONENTS, by which the learning rate decays from layer to layer. peaks: {name of a layer: the
    peak of a learning rate of its own}; such a layer has no weight decay."""
    weights = named_weights(model)
    layers = max(layer_number(name) or 0 for name in weights)
    rates = {}
    for name, variable in weights.items():
        layer = name.split('/')[0]
        if layer in (peaks or {}):
            rates[variable.ref()] = peaks[layer] / knobs.learning_rate, 0.0
            continue
        scale = knobs.layer_decay ** DECAY_EXPONENTS[exponents](depth(name, layers), layers)
        is_exempt = re.search(r'(bias|beta|gamma)$', name)
        rates[variable.ref()] = scale, 0.0 if is_exempt else knobs.weight_decay
    schedule = WarmupDecay(knobs.learning_rate, total_updates(knobs, rows), knobs.warmup, knobs.schedule)
    optimizer = AdamW(schedule, rates, knobs.bias_correction, knobs.epsilon, knobs.clip_norm, knobs.grad_accumulation,
                      lookup)
    return keras.mixed_precision.LossScaleOptimizer(optimizer) if knobs.precision == 'float16' else optimizer


def restrict_lookup(model, data):
    """AdamW.restrict_lookup() of the model's optimizer, where it is ours and has a lookup, for the words of this data."""
    optimizer = inner_optimizer(model)
    if isinstance(optimizer, AdamW) and optimizer.lookup is not None:
        optimizer.restrict_lookup(data.words())


def apply_pending_decay(model):
    """AdamW.apply_pending_decay() of the model's optimizer, where it is ours."""
    optimizer = inner_optimizer(model)
    if isinstance(optimizer, AdamW):
        optimizer.apply_pending_decay()


def inner_optimizer(model):
    """The model's optimizer without float16's LossScaleOptimizer around it."""
    return getattr(model.optimizer, 'inner_optimizer', model.optimizer)


def layer_number(name):
    """The layer that a variable of this name is of, from 1; None for others. All layers of an ALBERT are one."""
    match = re.match(r'(?:bert|electra)/encoder/(?:layer_(\d+)|layer_shared|transformer)/', name)
    return match and int(match[1] or 0) + 1


def depth(name, layers):
    """0 for the embeddings, i + 1 for layer i, layers + 1 for BERT's pooler, layers + 2 for the new layers on top."""
    if re.match(r'(bert|electra)/(embeddings|encoder/embedding_hidden_mapping_in)', name):
        return 0
    if name.startswith('bert/pooler/'):
        return layers + 1
    return layer_number(name) or layers + 2


# The learning rate of a variable is layer_decay to the power of this, by its depth() and the number of layers.
DECAY_EXPONENTS = {
    # One more than it was meant to be below the new layers, as in google-research/electra (_get_layer_lrs), whose
    # published scores include it: 2 for the last layer.
    'electra': lambda depth, layers: layers + 2 - depth,
    # Sun et al. 2019, section 5.3.4: 0 for the last layer and what is on top, 1 for the layer below, ... The
    # embeddings, of which the paper says nothing, follow the first layer.
    'sun': lambda depth, layers: max(layers - depth, 0),
}
