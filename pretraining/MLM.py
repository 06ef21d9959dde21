"""Masked language modelling (Devlin et al. 2019, section 3.1), without next sentences: from fresh values, or on from
any checkpoint, with texts of your own (Sun et al. 2019, section 5.2). Scored on held-out text.

    uv run pretraining/MLM.py --demo                                    # two minutes, on the made-up sentences of demo/
    uv run pretraining/MLM.py --model bert-base-uncased --text reviews --whole-words
    uv run pretraining/MLM.py --model mini --vocabulary my-vocabulary --text 'wiki/*.txt.gz'
    uv run CoLA.py --model runs/pretraining/MLM/bert-base-uncased-seed42

Expect: docs/pretraining.md.
"""

import dataclasses

import numpy as np

import snippets
from config import knob
from pretraining import corpus_knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Knobs(corpus_knobs.Knobs):
    new_models = {'tiny': 'bert-small', 'mini': 'bert-small', 'small': 'bert-small', 'base': 'bert'}
    family = 'bert'
    unused = *corpus_knobs.Knobs.unused, 'embedding_size'       # BERT's is that of its layers
    demo_settings = corpus_knobs.DEMO | {'model': 'minilm', 'updates': 100, 'score_every': 20, 'batch_size': 16,
                                 'learning_rate': 3e-4}
    whole_words: bool = knob(False, 'hide all pieces of a word together; where there are no spaces: --segmenter')
    line_by_line: bool = knob(False, 'every line is a row, cut to maxlen; else rows are filled with lines')

    def new_model_spec(self):
        """A fresh BERT, or the encoder of --model without its pooler, which has no part in this."""
        if self.model in self.new_models:
            made = super().new_model_spec()
            return made._replace(config=made.config | {'embedding_size': self.hidden_size})
        model = snippets.open_model(self.model, self.model_dir)
        if self.vocabulary != corpus_knobs.Knobs.vocabulary:
            own, given = ((folder / 'vocab.txt').read_bytes() for folder in (model.folder, self.vocabulary_folder))
            if own != given:
                raise snippets.UserError(f'--vocabulary {self.vocabulary}: not the one that --model {self.model} was '
                                         'trained with, whose word embeddings are no use for others. Leave it out.')
        return snippets.ModelSpec(model.family, model.config, 'mean' if model.pooling == 'mean' else 'cls', model.folder)


knobs = Knobs(
    model='bert-base-uncased',
    layers={'tiny': 2, 'mini': 4, 'small': 4, 'base': 12},      # Turc et al. 2019, table 1
    hidden_size={'tiny': 128, 'mini': 256, 'small': 512, 'base': 768},
    maxlen=128,                                                 # from here on: Sun et al. 2019, section 5.2
    batch_size=32,
    learning_rate=5e-5,
    updates=100000,
    warmup=0.1,
    score_every=1000,
    layer_decay=1.0,
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs):
    """Rows to train on and held-out rows. In every row 15 % of the tokens are hidden, other ones in every epoch: 80 %
    of these become [MASK], 10 % any word, 10 % stay."""
    def hide(rows):
        return rows.with_targets(
            snippets.MaskedTokens(rows, knobs.mask_share, knobs.slots, whole_words=knobs.whole_words))
    return {split: hide(rows) for split, rows in corpus_knobs.load_data(knobs, knobs.line_by_line).items()}


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, rows):
    """The logits of all words for the hidden tokens, (batch, slots, words)."""
    if knobs.model in knobs.new_models:
        model = knobs.new_model_spec()
        encoder = snippets.build_fresh_encoder(knobs, model.family, model.config, sines=knobs.sine_positions)
    else:
        encoder = snippets.build_encoder(knobs)
    places = keras.Input((knobs.slots,), dtype='int32', name='places')
    logits, head = snippets.mlm_head(knobs, encoder, places)
    if knobs.model not in knobs.new_models:
        snippets.load_mlm_head(knobs, head)
    model = keras.Model([*encoder.inputs, places], logits)
    model.compile(optimizer=snippets.build_optimizer(knobs, model, rows),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=snippets.use_xla(knobs, rows), steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def predict(predictor, data):
    """What is measured of held-out text, the outputs being too large to keep: for every hidden token (loss, the
    top_starts is right)."""
    hidden = [[] for _ in range(len(data))]
    for rows, (guesses,) in predictor.batches(data):
        ids, _ = data.batch(rows)
        _, _, words, is_hidden = data.targets.batch(ids, rows, ())
        losses = keras.losses.sparse_categorical_crossentropy(words, guesses, from_logits=True).numpy()
        of_words = np.stack([losses, guesses.argmax(-1) == words], -1)
        for i, row in enumerate(rows):
            hidden[row] = of_words[i][is_hidden[i] > 0]
    return hidden


def score(outputs, data):
    """{metric: value}."""
    losses, is_right = np.concatenate(outputs).T
    return {'masked_lm_loss': losses.mean(), 'perplexity': np.exp(losses.mean()), 'masked_lm_accuracy': is_right.mean()}


PANELS = {'training loss': ['loss'], 'loss': ['masked_lm_loss'], 'perplexity': ['perplexity'],
          'accuracy': ['masked_lm_accuracy']}


def check(knobs):
    """Refuse what a checkpoint decides, and say what others found to give a useless model."""
    if knobs.model in knobs.new_models:
        return
    for name in ('layers', 'hidden_size', 'positions', 'sine_positions'):
        if getattr(knobs, name) != getattr(corpus_knobs.Knobs, name):
            raise snippets.UserError(f'--{name.replace("_", "-")} is for models with fresh values '
                                     f'({", ".join(knobs.new_models)}); {knobs.model} has its own.')
    if knobs.learning_rate >= 4e-4:
        print(f'Note: --learning-rate {knobs.learning_rate:g}: at 4e-4 BERT forgot what it had learned (Sun et al. '
              '2019, section 5.3.3).')


def main(knobs):
    """From text files to a model that --model takes."""
    check(knobs)
    data = load_data(knobs)
    snippets.train(knobs, build_model(knobs, len(data['train'])), data['train'], data['dev'], score,
                   callbacks=[corpus_knobs.Checkpoints(knobs)], predict=predict, panels=PANELS)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
