"""XNLI (Conneau et al. 2018), in Chinese: does a premise entail or contradict a hypothesis? Scored by accuracy.

    uv run chinese/XNLI.py --demo              # a whole run on the small data set in demo/
    uv run chinese/XNLI.py                     # BERT-base
    uv run chinese/XNLI.py --model chinese-electra-180g-base --seed 3    # every knob is an option: --help

Expect on test (HFL, best of ten runs and their mean; not yet rerun here): BERT-base 77.8 (77.5),
ELECTRA-small 73.1 (72.6), ELECTRA-base 78.4 (77.8).
The training set is MNLI, translated by a machine.
"""

import dataclasses

import snippets
from chinese import pairs
from config import knob
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Knobs(pairs.Knobs):
    language: str = knob('zh', "of XNLI's fifteen; choose a --model that knows it, too", choices=(
        'ar', 'bg', 'de', 'el', 'en', 'es', 'fr', 'hi', 'ru', 'sw', 'th', 'tr', 'ur', 'vi', 'zh'))


knobs = Knobs(
    labels=('entailment', 'neutral', 'contradiction'),
    maxlen=128,                                         # Cui et al. 2019, arXiv 1906.08101, table 4
    epochs=2,                                           # the same table
    learning_rate={'bert': 3e-5, 'electra-small': 3e-4},        # the same; ymcui/Chinese-ELECTRA; 1e-4 base, 5e-5 large
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The pairs of 'train', 'dev' or 'test' as Examples: the training file has one language and writes contradictory,
    dev and test have all fifteen."""
    if split == 'train':
        name = f'multinli.train.{knobs.language}.tsv'
        path = snippets.data_file(knobs, f'XNLI/{name}', f'XNLI/XNLI-MT-1.0/multinli/{name}')
        examples = snippets.load_tsv(knobs, split, path, 'premise', 'hypo', 'label',
                                     labels=(*knobs.labels, 'contradictory'))
        contradiction = knobs.labels.index('contradiction')
        return [example if example.label < len(knobs.labels) else example._replace(label=contradiction)
                for example in examples]
    path = snippets.data_file(knobs, f'XNLI/xnli.{split}.tsv', f'XNLI/XNLI-1.0/xnli.{split}.tsv')
    return snippets.load_tsv(knobs, split, path, 'sentence1', 'sentence2', 'gold_label', labels=knobs.labels,
                             keep=lambda row: row['language'] == knobs.language)


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
    """From the files to the predictions of the test set, whose labels, where it has any, are used once, at the end."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        if data['test'].gold is not None:
            snippets.write_test_scores(knobs, data, score(outputs, data['test']))
        snippets.write_answers(knobs, 'XNLI.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
