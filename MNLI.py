"""MNLI, Multi-Genre Natural Language Inference: does a premise entail or contradict a hypothesis? Scored by accuracy,
on the genres of the training set (matched) and on others (mismatched); also predicts AX, the diagnostic set.

    uv run MNLI.py --demo                           # a whole run on the small data set in demo/
    uv run MNLI.py                                  # BERT-base on the real one
    uv run MNLI.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev, m/mm: BERT-base about 84/84, ELECTRA-base m about 88.8 (published, not yet rerun here).
"""

import numpy as np

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    labels=('entailment', 'neutral', 'contradiction'),
    maxlen=128,                                         # 0.3 % of the pairs are longer
    epochs=3,                                           # BERT, appendix A.3; ELECTRA, appendix B
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' (matched, then mismatched), 'test_matched', 'test_mismatched' or 'AX' as Examples."""
    columns = {'text_a': 'sentence1', 'text_b': 'sentence2'}
    if split == 'AX':
        path = snippets.data_file(knobs, 'diagnostic/diagnostic.tsv', 'diagnostic/AX.tsv', 'AX/AX.tsv', 'AX.tsv')
        return snippets.load_tsv(knobs, split, path, index='index', **columns)
    if split == 'dev':
        return load_data(knobs, 'dev_matched') + load_data(knobs, 'dev_mismatched')
    path = snippets.data_file(knobs, f'MNLI/{split}.tsv')
    if split.startswith('test'):
        return snippets.load_tsv(knobs, split, path, index='index', **columns)
    return snippets.load_tsv(knobs, split, path, label='gold_label', labels=knobs.labels, **columns)


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
    right = data.gold == outputs.argmax(-1)
    mismatched = np.array([example.file.endswith('dev_mismatched.tsv') for example in data.examples])
    return {'accuracy_m': np.mean(right[~mismatched]), 'accuracy_mm': np.mean(right[mismatched])}


def answers(outputs, data):
    """What is written for every example, from the model's outputs for it: its label."""
    return [data.labels[i] for i in outputs.argmax(-1)]


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    files = {'test_matched': 'MNLI-m.tsv', 'test_mismatched': 'MNLI-mm.tsv', 'AX': 'AX.tsv'}
    splits = ('train', 'dev', *files) if knobs.predict else ('train', 'dev')
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in splits}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        for split, file in files.items():
            outputs = best.predict(data[split])
            snippets.write_answers(knobs, file, data[split].examples, outputs, answers(outputs, data[split]))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
