"""STS-B, the Semantic Textual Similarity Benchmark: how similar are two sentences, from 0 to 5? A regression, scored by
Pearson and Spearman correlation.

    uv run STSB.py --demo                           # a whole run on the small data set in demo/
    uv run STSB.py                                  # BERT-base on the real one
    uv run STSB.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm about 87/86 (measured, README); BERT-base about 89/89, ELECTRA-base Spearman about 91
(published, not yet rerun here).
"""

import numpy as np

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    maxlen=128,                                         # no pair is longer
    epochs={'bert': 10, 'electra': 10, 'minilm': 3},     # small task: Mosbach et al. 2021; ELECTRA, appendix B; README
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = snippets.data_file(knobs, f'STS-B/{split}.tsv')
    if split == 'test':
        return snippets.load_tsv(knobs, split, path, index='index', text_a='sentence1', text_b='sentence2')
    examples = snippets.load_tsv(knobs, split, path, text_a='sentence1', text_b='sentence2', label='score',
                                 labels=(0.0, 5.0))
    return examples + snippets.swap_pairs(examples) if split == 'train' and knobs.swap_pairs else examples


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one output scaled to 0..5; `examples` sets the schedule's length."""
    encoder = snippets.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    scores = keras.layers.Rescaling(5.0)(snippets.classifier(knobs, 1)(x))
    model = keras.Model(encoder.inputs, scores)
    # The mean squared error of targets and outputs divided by 5 (google-research/electra, scales the targets). Every
    # batch brings weights, 0 for rows that only fill it up: a loss of your own multiplies by them, then takes the mean.
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples, lookup=encoder.words.embeddings),
                  loss='mse', loss_weights=1 / 25,
                  jit_compile=snippets.use_xla(knobs, examples), steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(outputs, data):
    """{metric: value} of the model's outputs for dev, (examples, 1), against its labels."""
    from scipy.stats import pearsonr, spearmanr  # takes 2 s: not before training
    scores = outputs[:, 0]
    if np.ptp(scores) == 0:         # the correlation with a constant is not defined
        return {'pearson': np.nan, 'spearman': np.nan}
    return {'pearson': pearsonr(data.gold, scores).statistic, 'spearman': spearmanr(data.gold, scores).statistic}


def answers(outputs, data):
    """What is written for every example, from the model's outputs for it: its score."""
    return [f'{score:.3f}' for score in outputs[:, 0].clip(0, 5)]


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        snippets.write_answers(knobs, 'STS-B.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
