"""WNLI, the Winograd schemas as natural language inference: does a pronoun stand for what sentence 2 puts in its place?
Scored by accuracy. The dev sentences are those of the training set with the other answer, so that most models stay at
the majority class, 56.34, or fall below it.

    uv run WNLI.py --demo                           # a whole run on the small data set in demo/
    uv run WNLI.py                                  # BERT-base on the real one
    uv run WNLI.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm 45.1 (measured, README); BERT-base 56.34 (published).
"""

from sklearn.metrics import accuracy_score

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    'WNLI',
    labels=('0', '1'),                                  # does not follow, follows
    maxlen=128,                                         # no pair is longer
    epochs={'bert': 5, 'electra': 3, 'minilm': 3},      # more only learns the training set by heart; README
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = snippets.data_file(knobs, f'WNLI/{split}.tsv')
    if split == 'test':
        return snippets.load_tsv(knobs, split, path, index='index', text_a='sentence1', text_b='sentence2')
    return snippets.load_tsv(knobs, split, path, text_a='sentence1', text_b='sentence2', label='label',
                             labels=knobs.labels)


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` sets the schedule's length."""
    encoder = snippets.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=knobs.jit, steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(logits, examples):
    """{metric: value} of logits (examples, labels) against the examples' labels."""
    return {'accuracy': accuracy_score([example.label for example in examples], logits.argmax(-1))}


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    splits = ('train', 'dev', 'test') if knobs.predict else ('train', 'dev')
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in splits}
    model = build_model(knobs, len(data['train']))
    snippets.train(knobs, model, data['train'], data['dev'], score)      # the best epoch on dev
    if knobs.predict:
        answers = [knobs.labels[i] for i in snippets.predict(knobs, model, data['test']).argmax(-1)]
        snippets.write_answers(knobs, 'WNLI.tsv', data['test'].examples, answers)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
