"""QNLI, question answering as natural language inference: does a sentence answer a question? Scored by accuracy.

    uv run QNLI.py --demo                           # a whole run on the small data set in demo/
    uv run QNLI.py                                  # BERT-base on the real one
    uv run QNLI.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: BERT-base about 91, ELECTRA-base about 93 (published, not yet rerun here; the README has minilm trained
on a sample).
"""

from sklearn.metrics import accuracy_score

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    'QNLI',
    labels=('entailment', 'not_entailment'),
    maxlen=128,                                         # 0.4 % of the pairs are longer
    epochs=3,                                           # BERT, appendix A.3; ELECTRA, appendix B
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = snippets.data_file(knobs, f'QNLI/{split}.tsv')
    rows = len(snippets.read_lines(path)) - 1
    if rows > 104743 or split != 'train' and rows > 5463:
        raise snippets.UserError(f'{path}: {rows} rows. Version 2 has 104743, 5463 and 5463; version 1 had other rows, '
                        'and the leaderboard refuses it. Get QNLIv2.zip (uv run -m tools.download QNLI).')
    if split == 'test':
        return snippets.load_tsv(knobs, split, path, index='index', text_a='question', text_b='sentence')
    return snippets.load_tsv(knobs, split, path, text_a='question', text_b='sentence', label='label',
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
        snippets.write_answers(knobs, 'QNLI.tsv', data['test'].examples, answers)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
