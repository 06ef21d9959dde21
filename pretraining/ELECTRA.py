"""ELECTRA (Clark et al. 2020): a small generator puts words of its own into a text, a discriminator finds them. The
discriminator is the model. Scored on held-out text, by the names of google-research/electra.

    uv run pretraining/ELECTRA.py --demo                                # two minutes, on the made-up sentences of demo/
    uv run pretraining/ELECTRA.py --text 'wiki/*.txt.gz'                # ELECTRA-small, a million updates: for a GPU
    uv run pretraining/ELECTRA.py --text books --layers 4 --embedding-size 256 --vocabulary my-vocabulary \\
        --init runs/pretraining/MLM/mini-seed42                         # for hours, not days: docs/pretraining.md
    uv run CoLA.py --model runs/pretraining/ELECTRA/small-seed42        # while it trains, or afterwards

Expect: docs/pretraining.md has a curve.
"""

import dataclasses
from pathlib import Path

import numpy as np

import snippets
from config import knob
from pretraining import corpus_knobs
from snippets import keras, tf

# ---- Knobs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Knobs(corpus_knobs.Knobs):
    new_models = {'small': 'electra-small', 'base': 'electra', 'large': 'electra-large'}
    family = 'electra'
    demo_settings = corpus_knobs.DEMO | {'layers': 2, 'hidden_size': 128, 'generator_size': 0.5, 'updates': 500, 'warmup': 0.1,
                                 'score_every': 100, 'batch_size': 32, 'learning_rate': 1e-3}
    generator_size: float = knob(0.25, 'width of the generator over that of the discriminator', 0.01, 1.0)
    discriminator_weight: float = knob(50.0, "of the discriminator's loss, beside the generator's", 0.0, 1e6)


knobs = Knobs(      # ELECTRA's appendix A, and google-research/electra, configure_pretraining.py
    model='small',
    layers={'small': 12, 'base': 12, 'large': 24},
    hidden_size={'small': 256, 'base': 768, 'large': 1024},
    embedding_size={'small': 128, 'base': 768, 'large': 1024},
    generator_size={'small': 1 / 4, 'base': 1 / 3, 'large': 1 / 4},
    maxlen={'small': 128, 'base': 512, 'large': 512},
    batch_size={'small': 128, 'base': 256, 'large': 2048},
    mask_share={'small': 0.15, 'base': 0.15, 'large': 0.25},
    learning_rate={'small': 5e-4, 'base': 2e-4, 'large': 2e-4},
    updates={'small': 1000000, 'base': 766000, 'large': 400000},
    warmup={'small': 0.01, 'base': 0.013, 'large': 0.025},      # 10,000 updates
    score_every=1000,
    layer_decay=1.0,
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs):
    """Rows to train on and held-out rows. In every row 15 % of the tokens are hidden, other ones in every epoch: 85 %
    of these become [MASK], the others stay."""
    return {split: rows.with_targets(snippets.ReplacedTokens(rows, knobs.mask_share, knobs.slots))
            for split, rows in corpus_knobs.load_data(knobs).items()}


# ---- Model ----------------------------------------------------------------------------------------------------------


def generator_sizes(knobs):
    """What the generator has different from the discriminator."""
    return corpus_knobs.encoder_sizes(knobs.layers, round(knobs.generator_size * knobs.hidden_size))


def build_model(knobs, rows):
    """The generator's logits for the hidden tokens, (batch, slots, words); and of the text with what was drawn from
    them (batch, length, 2): the discriminator's logits that a token is not the original, and the token."""
    sizes = snippets.model_spec(knobs).config
    smaller = sizes | generator_sizes(knobs)
    places = keras.Input((knobs.slots,), dtype='int32', name='places')

    # Both have the same embeddings of words, positions and segments: the same variables.
    generator = snippets.build_fresh_encoder(knobs, 'electra', smaller, prefix='generator/', sines=knobs.sine_positions)
    ids, segments = generator.inputs
    guesses, _ = snippets.mlm_head(knobs, generator, places, prefix='generator/')
    corrupted = snippets.SampleReplacements(knobs.seed, name='corrupt')([ids, places, guesses])
    discriminator = snippets.build_fresh_encoder(knobs, 'electra', sizes, inputs=[corrupted, segments],
                                                 embeddings=generator.embeddings)
    suspicion = snippets.rtd_head(knobs, discriminator)

    seen = tf.stack([suspicion, tf.cast(corrupted, tf.float32)], -1)
    model = keras.Model([ids, segments, places], [guesses, seen])
    model.compile(optimizer=snippets.build_optimizer(knobs, model, rows),
                  loss=[keras.losses.SparseCategoricalCrossentropy(from_logits=True), replaced_loss],
                  loss_weights=[1.0, knobs.discriminator_weight],
                  jit_compile=snippets.use_xla(knobs, rows), steps_per_execution=knobs.steps_per_execution)
    return model


def replaced_loss(originals, seen):
    """The discriminator's loss for every token, (batch, length). A token that the generator happened to draw as it was
    counts as original."""
    suspicion, tokens = tf.unstack(seen, axis=-1)
    is_replaced = tf.cast(tokens != tf.cast(originals, tokens.dtype), tf.float32)
    return tf.nn.sigmoid_cross_entropy_with_logits(is_replaced, suspicion)


# ---- Score and run --------------------------------------------------------------------------------------------------


def predict(predictor, data):
    """What is measured of held-out text, the outputs for words being too large to keep: for every hidden token (loss,
    the top_starts is right, the drawn one is), for every token (loss, logit, is replaced)."""
    hidden, tokens = [[] for _ in range(len(data))], [[] for _ in range(len(data))]
    for rows, (guesses, seen) in predictor.batches(data):
        ids, _ = data.batch(rows)
        _, (places,), (words, _), (is_hidden, _) = data.targets.batch(ids, rows, ())
        losses = keras.losses.sparse_categorical_crossentropy(words, guesses, from_logits=True).numpy()
        drawn = np.take_along_axis(seen[:, :, 1], places, 1)
        of_words = np.stack([losses, guesses.argmax(-1) == words, drawn == words], -1)
        seen = seen[:, :ids.shape[1]]
        of_tokens = np.stack([replaced_loss(ids, seen).numpy(), seen[:, :, 0], seen[:, :, 1] != ids], -1)
        for i, row in enumerate(rows):
            hidden[row], tokens[row] = of_words[i][is_hidden[i] > 0], of_tokens[i][:data.lengths[row]]
    return hidden, tokens


def score(outputs, data):
    """{metric: value}. Most tokens are original: disc_accuracy means something only beside that of who says so of
    all."""
    from sklearn.metrics import roc_auc_score
    hidden, tokens = map(np.concatenate, outputs)
    losses, suspicion, is_replaced = tokens.T
    is_replaced, is_found = is_replaced > 0, suspicion > 0
    hits = (is_found & is_replaced).sum()
    return {'masked_lm_loss': hidden[:, 0].mean(), 'masked_lm_accuracy': hidden[:, 1].mean(),
            'sampled_masked_lm_accuracy': hidden[:, 2].mean(), 'disc_loss': losses.mean(),
            'disc_auc': roc_auc_score(is_replaced, suspicion), 'disc_accuracy': (is_found == is_replaced).mean(),
            'all_original_accuracy': 1.0 - is_replaced.mean(),
            'disc_precision': hits / max(is_found.sum(), 1), 'disc_recall': hits / max(is_replaced.sum(), 1)}


PANELS = {'training loss': ['loss'], "generator's loss": ['masked_lm_loss'],
          "generator's accuracy": ['masked_lm_accuracy', 'sampled_masked_lm_accuracy'],
          "discriminator's loss": ['disc_loss'],
          'discriminator': ['disc_auc', 'disc_accuracy', 'all_original_accuracy', 'disc_precision', 'disc_recall']}


def check(knobs):
    """Refuse other models; say what others found to give a useless one."""
    if knobs.model not in knobs.new_models:
        raise snippets.UserError(f'--model {knobs.model}: a model with fresh values is made here, of the sizes '
                                 f'{", ".join(knobs.new_models)}.')
    if knobs.init and Path(knobs.init).is_dir():        # a run that goes on does not need it any more
        check_sizes(knobs, snippets.open_model(knobs.init, knobs.model_dir).config)
    batch = knobs.batch_size * knobs.grad_accumulation
    if batch < 16:
        print(f'Note: --batch-size {batch}: KoELECTRA learned nothing with 4 (its issue 13). ELECTRA-small has 128.')
    if knobs.learning_rate > 2e-4 and knobs.hidden_size >= 768:
        print(f'Note: --learning-rate {knobs.learning_rate:g}: with 5e-4 a discriminator of these sizes found nothing '
              '(Chinese-ELECTRA, issue 66). ELECTRA-base and large have 2e-4.')


def check_sizes(knobs, found):
    """Refuse a run to start from whose encoder, of the sizes `found`, is not the discriminator."""
    sizes = {'--layers': found['num_hidden_layers'], '--hidden-size': found['hidden_size'],
             '--embedding-size': found.get('embedding_size', found['hidden_size'])}
    if tuple(sizes.values()) != (knobs.layers, knobs.hidden_size, knobs.embedding_size):
        options = ' '.join(f'{option} {size}' for option, size in sizes.items())
        raise snippets.UserError(f'--init {knobs.init}: its encoder has other sizes than the discriminator, which is '
                                 f'to start from it. Give these: {options}')


def main(knobs):
    """From text files to a discriminator that --model takes."""
    check(knobs)
    data = load_data(knobs)
    snippets.train(knobs, build_model(knobs, len(data['train'])), data['train'], data['dev'], score,
                   callbacks=[corpus_knobs.Checkpoints(knobs)], predict=predict, panels=PANELS)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
