"""TREC, questions (Li and Roth 2002): what kind of answer does a question ask for? Scored by accuracy.

    uv run documents/TREC.py --demo                 # a whole run on the small data set in demo/
    uv run documents/TREC.py                        # BERT-base on the real one: 6 coarse labels
    uv run documents/TREC.py --fine --name fine     # 50 fine ones

Expect on test: docs/documents.md for minilm; BERT-base 97.2 (Sun et al. 2019, table 5; not yet rerun here).
Of the 500 official test questions 10 stand in the official training file, too.
"""

import dataclasses

import snippets
from config import knob
from documents import texts
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

COARSE = 'ABBR', 'DESC', 'ENTY', 'HUM', 'LOC', 'NUM'
FINE = (
    'ABBR:abb', 'ABBR:exp', 'DESC:def', 'DESC:desc', 'DESC:manner', 'DESC:reason', 'ENTY:animal', 'ENTY:body',
    'ENTY:color', 'ENTY:cremat', 'ENTY:currency', 'ENTY:dismed', 'ENTY:event', 'ENTY:food', 'ENTY:instru', 'ENTY:lang',
    'ENTY:letter', 'ENTY:other', 'ENTY:plant', 'ENTY:product', 'ENTY:religion', 'ENTY:sport', 'ENTY:substance',
    'ENTY:symbol', 'ENTY:techmeth', 'ENTY:termeq', 'ENTY:veh', 'ENTY:word', 'HUM:desc', 'HUM:gr', 'HUM:ind',
    'HUM:title', 'LOC:city', 'LOC:country', 'LOC:mount', 'LOC:other', 'LOC:state', 'NUM:code', 'NUM:count', 'NUM:date',
    'NUM:dist', 'NUM:money', 'NUM:ord', 'NUM:other', 'NUM:perc', 'NUM:period', 'NUM:speed', 'NUM:temp', 'NUM:volsize',
    'NUM:weight')


@dataclasses.dataclass
class Knobs(texts.Knobs):
    fine: bool = knob(False, 'the 50 fine labels, such as HUM:ind, in place of the 6 coarse ones')

    def settle(self, script, recipe, given):
        knobs = super().settle(script, recipe, given)
        return dataclasses.replace(knobs, labels=FINE) if knobs.fine else knobs


knobs = Knobs(
    labels=COARSE,
    maxlen=64,                                              # the longest question has 41 tokens
    batch_size=24,                                          # Sun et al. 2019, section 5.2
    epochs={'bert': 4, 'electra': 10, 'minilm': 6},         # "up to 4"; a small task for the others
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The questions of 'train', 'dev' or 'test' as Examples: dev is a part of the training set. A line is
    'HUM:ind Who was Galileo ?', in Latin-1."""
    name = 'TREC_10.label' if split == 'test' else 'train_5500.label'
    path = snippets.data_file(knobs, f'TREC/{name}', name)
    examples = []
    for number, line in enumerate(path.read_text('latin-1').rstrip('\n').split('\n'), 1):
        label, _, text = line.partition(' ')
        if not knobs.fine:
            label = label.partition(':')[0]
        if label not in knobs.labels or not text.strip():
            raise snippets.UserError(f'{path}, line {number}: {line[:40]!r} is not a label, a space and a question.')
        examples.append(snippets.Example(str(path), number, number - 1, text, None, knobs.labels.index(label)))
    return texts.part(knobs, examples, split)


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` sets the schedule's length."""
    encoder = texts.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    # Every batch brings weights, 0 for rows that only fill it up: a loss of your own multiplies by them, then takes the
    # mean.
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples, lookup=encoder.words.embeddings,
                                                     exponents=knobs.decay_rule),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=texts.use_xla(knobs, examples), steps_per_execution=knobs.steps_per_execution)
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
    """From the texts to the predictions of the test set, whose labels are used once, at the end."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        texts.keep_test_scores(knobs, data, score(outputs, data['test']))
        snippets.write_answers(knobs, 'TREC.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
