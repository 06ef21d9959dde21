"""STS-B, the Semantic Textual Similarity Benchmark: how similar are two sentences, from 0 to 5? A regression, scored by
Pearson and Spearman correlation.

    uv run STSB.py --demo                           # a whole run on the small data set in demo/
    uv run STSB.py                                  # BERT-base on the real one
    uv run STSB.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm about 87/86 (measured, README); BERT-base about 89/89, ELECTRA-base Spearman about 91
(published, not yet rerun here).
"""

import numpy as np
from scipy.stats import pearsonr, spearmanr

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    'STSB',
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
    # The mean squared error of targets and outputs divided by 5 (google-research/electra, scales the targets).
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples), loss='mse', loss_weights=1 / 25,
                  jit_compile=knobs.jit, steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(logits, examples):
    """{metric: value} of logits (examples, 1) against the examples' labels."""
    scores, answers = [example.label for example in examples], logits[:, 0]
    if np.ptp(answers) == 0:        # the correlation with a constant is not defined
        return {'pearson': np.nan, 'spearman': np.nan}
    return {'pearson': pearsonr(scores, answers).statistic, 'spearman': spearmanr(scores, answers).statistic}


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    splits = ('train', 'dev', 'test') if knobs.predict else ('train', 'dev')
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in splits}
    model = build_model(knobs, len(data['train']))
    snippets.train(knobs, model, data['train'], data['dev'], score)      # the best epoch on dev
    if knobs.predict:
        answers = [f'{score:.3f}' for score in snippets.predict(knobs, model, data['test'])[:, 0].clip(0, 5)]
        snippets.write_answers(knobs, 'STS-B.tsv', data['test'].examples, answers)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
