"""SST-2, the Stanford Sentiment Treebank: is a phrase from a film review positive? Scored by accuracy.

    uv run SST2.py --demo                           # a whole run on the small data set in demo/
    uv run SST2.py                                  # BERT-base on the real one
    uv run SST2.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm about 90 (measured, README); BERT-base about 92.5, ELECTRA-base about 95
(published, not yet rerun here).
"""

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    labels=('0', '1'),                                  # negative, positive
    maxlen=64,                                          # 4 of 67349 phrases are longer
    epochs={'bert': 3, 'electra': 3, 'minilm': 2},      # BERT, appendix A.3; ELECTRA, appendix B; README
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = snippets.data_file(knobs, f'SST-2/{split}.tsv')
    if split == 'test':
        return snippets.load_tsv(knobs, split, path, index='index', text_a='sentence')
    return snippets.load_tsv(knobs, split, path, text_a='sentence', label='label', labels=knobs.labels)


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` sets the schedule's length."""
    encoder = snippets.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    # Every batch brings weights, 0 for rows that only fill it up: a loss of your own multiplies by them, then takes the
    # mean.
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples, lookup=encoder.words.embeddings),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=snippets.use_xla(knobs, examples), steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(outputs, data):
    """{metric: value} of the model's outputs for dev, (examples, labels), against its labels."""
    from sklearn.metrics import accuracy_score  # takes 2 s: not before training
    return {'accuracy': accuracy_score(data.gold, outputs.argmax(-1))}


def answers(outputs, data):
    """What is written for every example, from the model's outputs for it: its label."""
    return [data.labels[i] for i in outputs.argmax(-1)]


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        snippets.write_answers(knobs, 'SST-2.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
