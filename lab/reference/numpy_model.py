"""The encoders and their fine-tuning a second time, in float64 numpy: forward pass, backward pass, optimizer.

Written from the papers and the authors' code, with nothing of TensorFlow, Keras or the project's own builder, so that
checks.align and the tests have something to compare with on any machine. Slow and exact. Dropout is off.
"""

import re

import numpy as np
from scipy.special import erf, expit, log_softmax, softmax


def reversed_steps(backs):
    """The backward pass through several operations, given in the order of the forward pass."""
    def backward(d):
        for back in reversed(backs):
            d = back(d)
        return d
    return backward


class ReferenceModel:
    """An encoder with one dense layer on its text vector.

    family, settings, pooling, variables: as of a Checkpoint, with classifier/kernel and classifier/bias. scale: what
    the dense layer's output is multiplied by (a regression's; its loss is divided by the square). All float64.
    """

    def __init__(self, family, settings, pooling, variables, scale=1.0):
        self.family, self.settings, self.pooling, self.scale = family, settings, pooling, scale
        self.variables = {name: np.asarray(value, np.float64) for name, value in variables.items()}
        self.root = 'electra' if family == 'electra' else 'bert'
        self.gradients = {}

    # Every operation returns its output and a function from the gradient of the output to that of its input; the
    # gradients of the variables are added up on the way.

    def add(self, name, gradient):
        self.gradients[name] = self.gradients.get(name, 0.0) + gradient

    def dense(self, x, name, bias=True):
        """name: of a kernel (inputs, outputs) and a bias, or of a kernel alone."""
        kernel = f'{name}/kernel' if bias else name
        y = x @ self.variables[kernel] + (self.variables[f'{name}/bias'] if bias else 0.0)

        def backward(dy):
            rows = dy.reshape(-1, dy.shape[-1])
            self.add(kernel, x.reshape(-1, x.shape[-1]).T @ rows)
            if bias:
                self.add(f'{name}/bias', rows.sum(0))
            return dy @ self.variables[kernel].T
        return y, backward

    def norm(self, x, name):
        """LayerNorm (Ba et al. 2016)."""
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred ** 2).mean(-1, keepdims=True) + self.settings['layer_norm_eps'])
        y = centred / deviation
        gamma, beta = self.variables[f'{name}/gamma'], self.variables[f'{name}/beta']

        def backward(dy):
            self.add(f'{name}/gamma', (dy * y).reshape(-1, y.shape[-1]).sum(0))
            self.add(f'{name}/beta', dy.reshape(-1, y.shape[-1]).sum(0))
            g = dy * gamma
            return (g - g.mean(-1, keepdims=True) - y * (g * y).mean(-1, keepdims=True)) / deviation
        return y * gamma + beta, backward

    def activation(self, x):
        """gelu with erf, gelu with tanh (Hendrycks and Gimpel 2016), or relu."""
        kind = self.settings['hidden_act']
        if kind == 'relu':
            return np.maximum(x, 0), lambda dy: dy * (x > 0)
        if kind == 'gelu_erf':
            cdf = (1 + erf(x / np.sqrt(2))) / 2
            slope = cdf + x * np.exp(-x ** 2 / 2) / np.sqrt(2 * np.pi)
        else:
            tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3))
            cdf = (1 + tanh) / 2
            slope = cdf + x * (1 - tanh ** 2) / 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x ** 2)
        return x * cdf, lambda dy: dy * slope

    def attention(self, x, mask, names):
        """Multi-head self-attention (Vaswani et al. 2017, section 3.2); mask (batch, length): the real tokens."""
        batch, length, hidden = x.shape
        heads = self.settings['num_attention_heads']

        def split(y):
            return y.reshape(batch, length, heads, -1).swapaxes(1, 2)

        def join(y):
            return y.swapaxes(1, 2).reshape(batch, length, hidden)

        (q, back_q), (k, back_k), (v, back_v) = (self.dense(x, name) for name in names[:3])
        q, k, v = split(q), split(k), split(v)
        root = np.sqrt(hidden // heads)
        weights = softmax(np.where(mask[:, None, None], q @ k.swapaxes(-1, -2) / root, -np.inf), -1)
        y, back = self.dense(join(weights @ v), names[3])

        def backward(dy):
            mixed = split(back(dy))
            dw = mixed @ v.swapaxes(-1, -2)
            ds = weights * (dw - (dw * weights).sum(-1, keepdims=True)) / root
            return back_q(join(ds @ k)) + back_k(join(ds.swapaxes(-1, -2) @ q)) + \
                back_v(join(weights.swapaxes(-1, -2) @ mixed))
        return y, backward

    def layer(self, x, mask, i):
        """Attention, sum and norm, two dense layers, sum and norm (Devlin et al. 2019; Lan et al. 2020)."""
        prefix = f'{self.root}/encoder/layer_{i}'
        parts = ['attention/self/query', 'attention/self/key', 'attention/self/value', 'attention/output/dense',
                 'attention/output/LayerNorm', 'intermediate/dense', 'output/dense', 'output/LayerNorm']
        if self.family == 'albert_zh':
            prefix = 'bert/encoder/layer_shared'
        if self.family == 'albert':
            prefix = 'bert/encoder/transformer/group_0/inner_group_0'
            parts = ['attention_1/self/query', 'attention_1/self/key', 'attention_1/self/value',
                     'attention_1/output/dense', 'LayerNorm', 'ffn_1/intermediate/dense',
                     'ffn_1/intermediate/output/dense', 'LayerNorm_1']
        names = [f'{prefix}/{part}' for part in parts]
        mixed, back_attention = self.attention(x, mask, names[:4])
        middle, back_first = self.norm(x + mixed, names[4])
        inner, back_inner = self.dense(middle, names[5])
        active, back_active = self.activation(inner)
        outer, back_outer = self.dense(active, names[6])
        y, back_second = self.norm(middle + outer, names[7])

        def backward(dy):
            d = back_second(dy)
            d = back_first(d + back_inner(back_active(back_outer(d))))
            return d + back_attention(d)
        return y, backward

    def embeddings(self, ids, segments):
        """The sum of word, position and segment vectors, normalized; ELECTRA and ALBERT project it, brightmart's ALBERT
        the word vectors before the sum; DistilBERT has no segments."""
        root, backs = f'{self.root}/embeddings', []
        word_name, segment_name = f'{root}/word_embeddings', f'{root}/token_type_embeddings'
        x, back_words = self.variables[word_name][ids], None
        if self.family == 'albert_zh':
            x, back_words = self.dense(x, f'{root}/word_embeddings_2', bias=False)
        x = x + self.variables[f'{root}/position_embeddings'][:ids.shape[1]]
        if segment_name in self.variables:
            x = x + self.variables[segment_name][segments]
        x, back = self.norm(x, f'{root}/LayerNorm')
        backs.append(back)
        for name in ('electra/embeddings_project', 'bert/encoder/embedding_hidden_mapping_in'):
            if f'{name}/kernel' in self.variables:
                x, back = self.dense(x, name)
                backs.append(back)

        def backward(d):
            d = reversed_steps(backs)(d)
            positions = np.zeros_like(self.variables[f'{root}/position_embeddings'])
            positions[:ids.shape[1]] = d.sum(0)
            self.add(f'{root}/position_embeddings', positions)
            for name, rows, dy in ((segment_name, segments, d),
                                   (word_name, ids, back_words(d) if back_words else d)):
                if name in self.variables:
                    table = np.zeros_like(self.variables[name])
                    np.add.at(table, rows, dy)
                    self.add(name, table)
        return x, backward

    def text_vector(self, x, mask):
        if self.pooling == 'mean':
            weights = mask[:, :, None] / mask.sum(1)[:, None, None]
            return (x * weights).sum(1), lambda dy: dy[:, None] * weights

        def first(dy):
            return np.concatenate([dy[:, None], np.zeros_like(x[:, 1:])], 1)
        if self.pooling == 'cls':
            return x[:, 0], first
        y, back = self.dense(x[:, 0], 'bert/pooler/dense')
        y = np.tanh(y)
        return y, lambda dy: first(back(dy * (1 - y ** 2)))

    def encode(self, ids, segments, mask=None):
        """Token ids and segment ids (batch, length) -> the hidden states, embeddings first, each (batch, length,
        hidden), and the backward pass from the last. mask: the real tokens; without it those whose id is not 0."""
        mask = ids != 0 if mask is None else mask
        x, back = self.embeddings(ids, segments)
        states, backs = [x], [back]
        for i in range(self.settings['num_hidden_layers']):
            x, back = self.layer(x, mask, i)
            states.append(x)
            backs.append(back)
        return states, reversed_steps(backs)

    def forward(self, ids, segments):
        """The same -> the hidden states, the text vector (batch, hidden), the logits (batch, units), the backward
        pass."""
        states, *backs = self.encode(ids, segments)
        vector, back = self.text_vector(states[-1], ids != 0)
        backs.append(back)
        logits, back = self.dense(vector, 'classifier')
        backs.append(back)
        return states, vector, logits * self.scale, lambda d: reversed_steps(backs)(d * self.scale)

    def loss(self, ids, segments, labels):
        """The mean cross-entropy, or the mean squared error over scale**2 where there is one logit. Its gradients by
        every variable are in `gradients` afterwards."""
        *_, logits, backward = self.forward(ids, segments)
        self.gradients = {}
        if logits.shape[1] == 1:
            difference = logits[:, 0] - labels
            backward(2 * difference[:, None] / len(labels) / self.scale ** 2)
            return (difference ** 2).mean() / self.scale ** 2
        rows = np.arange(len(labels))
        gradient = softmax(logits, -1)
        gradient[rows, labels] -= 1
        backward(gradient / len(labels))
        return -log_softmax(logits, -1)[rows, labels].mean()

    # ---- Pre-training

    def hidden_words(self, x, places, head):
        """The last layer's states (batch, length, hidden) and places (batch, slots) -> the logits of all words, (batch,
        slots, words), and the backward pass. head: 'cls/predictions/transform' or 'generator_predictions'."""
        rows = np.arange(len(x))[:, None]
        table, bias = f'{self.root}/embeddings/word_embeddings', f'{head.removesuffix("/transform")}/output_bias'
        y, back_dense = self.dense(x[rows, places], f'{head}/dense')
        y, back_active = self.activation(y)
        y, back_norm = self.norm(y, f'{head}/LayerNorm')
        logits = y @ self.variables[table].T + self.variables[bias]

        def backward(d):
            words = d.reshape(-1, d.shape[-1])
            self.add(bias, words.sum(0))
            self.add(table, words.T @ y.reshape(-1, y.shape[-1]))
            states = np.zeros_like(x)
            np.add.at(states, (rows, places), back_dense(back_active(back_norm(d @ self.variables[table]))))
            return states
        return logits, backward

    def hidden_words_loss(self, x, places, words, used, head):
        """The mean cross-entropy over the slots that are used (batch, slots), and its gradient by x."""
        logits, backward = self.hidden_words(x, places, head)
        share = used / used.sum()
        gradient = softmax(logits, -1)
        losses = -np.take_along_axis(log_softmax(logits, -1), words[:, :, None], -1)[:, :, 0]
        np.put_along_axis(gradient, words[:, :, None], np.take_along_axis(gradient, words[:, :, None], -1) - 1, -1)
        return (losses * share).sum(), backward(gradient * share[:, :, None])

    def replaced_tokens(self, x):
        """The last layer's states (batch, length, hidden) -> the discriminator's logits (batch, length), and the
        backward pass."""
        y, back_dense = self.dense(x, 'discriminator_predictions/dense')
        y, back_active = self.activation(y)
        logits, back_logit = self.dense(y, 'discriminator_predictions/dense_1')
        return logits[:, :, 0], lambda d: back_dense(back_active(back_logit(d[:, :, None])))

    def replaced_loss(self, x, is_replaced, is_real, weight):
        """The binary cross-entropy for every token, its mean over the real ones (batch, length), and its gradient by x
        times `weight`."""
        logits, backward = self.replaced_tokens(x)
        share = is_real / is_real.sum()
        losses = np.logaddexp(0, logits) - logits * is_replaced
        return (losses * share).sum(), backward((expit(logits) - is_replaced) * share * weight)

    # ---- Fine-tuning

    def depth(self, name):
        """(depth, number of layers): ELECTRA's key_to_depths (google-research/electra, model/optimization.py). BERT's
        pooler counts as a layer above the last; all layers of an ALBERT are one."""
        layers = 1 if self.family.startswith('albert') else self.settings['num_hidden_layers']
        found = re.search(r'/encoder/layer_(\d+)/', name)
        if found:
            return int(found[1]) + 1, layers
        if 'layer_shared' in name or 'inner_group_0' in name:
            return 1, layers
        if '/pooler/' in name:
            return layers + 1, layers
        return (layers + 2 if name.startswith('classifier') else 0), layers

    def rate(self, name, recipe, t):
        """A variable's learning rate at step t from 0."""
        depth, layers = self.depth(name)
        return learning_rate(recipe, t) * recipe['layer_decay'] ** (layers + 2 - depth)

    def reach(self, name, recipe, steps):
        """How far `steps` steps of Adam move a value of a variable whose gradient never changes: with the bias
        correction by the learning rates' sum, without it by several times as much. Weight decay apart."""
        way = 0.0
        for t in range(steps):
            one, two = corrections(recipe, t)
            way += self.rate(name, recipe, t) * (1 - 0.9 ** (t + 1)) / one / np.sqrt((1 - 0.999 ** (t + 1)) / two)
        return way

    def train(self, batches, recipe, steps):
        """Yield the variables after every number of `steps`. batches: (ids, segments, labels) in turn; recipe: as in
        config.RECIPES, with `total`, the number of steps the schedule is made for.

        Adam (Kingma and Ba 2015, algorithm 1), with or without its bias correction, decoupled weight decay (Loshchilov
        and Hutter 2019, algorithm 2), the global norm of the gradient clipped (Pascanu et al. 2013).
        """
        m = {name: np.zeros_like(value) for name, value in self.variables.items()}
        v = {name: np.zeros_like(value) for name, value in self.variables.items()}
        for t in range(max(steps)):
            self.loss(*batches[t % len(batches)])
            norm = np.sqrt(sum((g ** 2).sum() for g in self.gradients.values()))
            one, two = corrections(recipe, t)
            for name, g in self.gradients.items():
                g = g * min(1.0, recipe['clip_norm'] / norm)
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g ** 2
                update = m[name] / one / (np.sqrt(v[name] / two) + recipe['epsilon'])
                if not re.search('bias|LayerNorm', name):
                    update = update + recipe['weight_decay'] * self.variables[name]
                self.variables[name] = self.variables[name] - self.rate(name, recipe, t) * update
            if t + 1 in steps:
                yield dict(self.variables)


def corrections(recipe, t):
    """What Adam's two averages are divided by at step t from 0."""
    if recipe['bias_correction']:
        return 1 - 0.9 ** (t + 1), 1 - 0.999 ** (t + 1)
    return 1.0, 1.0


def learning_rate(recipe, t):
    """At step t from 0 of recipe['total']. linear: as in transformers' get_linear_schedule_with_warmup; multiplied: as
    in google-research/electra, model/optimization.py, where the warm-up keeps its fraction of a step."""
    total, peak = recipe['total'], recipe['learning_rate']
    if recipe['schedule'] == 'linear':
        rising = int(recipe['warmup'] * total)
        return peak * (t / rising if t < rising else (total - t) / (total - rising))
    rising = recipe['warmup'] * total
    return peak * (1 - t / total) * (min(1.0, t / rising) if rising else 1.0)
