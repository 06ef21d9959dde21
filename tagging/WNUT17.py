"""WNUT17 (Derczynski et al. 2017): which words of a message name a person, a place, a group, a company, a work or a
product, most of them never seen before? Scored by the F1 of whole entities.

    uv run tagging/WNUT17.py --demo            # a whole run on the small data set in demo/
    uv run tagging/WNUT17.py                   # BERT-base
    uv run tagging/WNUT17.py --crf --seed 3    # every knob is an option: --help

Expect on test: minilm 44.0 (mean of eight seeds), with --crf 46.2 (three; docs/tagging.md). No published score of
BERT-base is known to us.
"""

import snippets
from engine.metrics.entities import all_scores, entity_f1
from engine.model.crf import CRF
from snippets import keras
from tagging import ner

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = ner.Knobs(
    labels=ner.iob2('corporation', 'creative-work', 'group', 'location', 'person', 'product'),
    maxlen=128,                                         # with minilm two test sentences are longer, no others
    epochs=5,                                           # minilm's best on dev is the fourth or the fifth
)

# ---- Data -----------------------------------------------------------------------------------------------------------

FILES = {'train': 'wnut17train.conll', 'dev': 'emerging.dev.conll', 'test': 'emerging.test.annotated'}


def load_data(knobs, split):
    """The sentences of 'train', 'dev' or 'test' as Examples, whose labels are the numbers of their words' tags."""
    return ner.load_conll(knobs, split, snippets.data_file(knobs, f'WNUT17/{FILES[split]}'))


def prepare(knobs, examples):
    """Their rows of tokens, of which the first of every word has its label."""
    return ner.prepare(knobs, examples)


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, rows):
    """The encoder's vector of each token, dropout, one dense layer, with --crf a CRF; `rows` sets the schedule's
    length."""
    encoder = snippets.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.sequence)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if knobs.crf:
        crf = CRF(name='crf')
        logits, loss = crf(logits), crf.loss
    model = keras.Model(encoder.inputs, logits)
    # Every batch brings weights, 0 for tokens that are no first token of a word: a loss of your own multiplies by them,
    # then takes the mean.
    optimizer = snippets.build_optimizer(knobs, model, rows, lookup=encoder.words.embeddings,
                                         peaks={'crf': knobs.crf_learning_rate})
    model.compile(optimizer=optimizer, loss=loss, jit_compile=snippets.use_xla(knobs, rows),
                  steps_per_execution=knobs.steps_per_execution)
    return model


def predict(predictor, data):
    """The outputs: a (words, labels) array for every sentence, from those for the tokens of its windows."""
    return ner.predict(predictor, data)


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(outputs, data):
    """{metric: value} of the outputs for dev against its labels."""
    return {'f1': entity_f1(ner.gold_tags(data), ner.tags_of(outputs, data))}


def answers(outputs, data):
    """What is written for every sentence: its tags."""
    return [' '.join(tags) for tags in ner.tags_of(outputs, data)]


def losses(outputs, data):
    """How wrong the outputs for every sentence are: the mean cross-entropy of its words."""
    return ner.cross_entropy(outputs, data)


def score_files(gold, predictions):
    """{metric: value} of a file of predictions against a labelled one, for tools.score."""
    return ner.score_files(gold, predictions)


def main(knobs):
    """From the files to the predictions of the test set, whose labels, where it has any, are used once, at the end."""
    data = {split: prepare(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers, predict=predict, losses=losses)
    if knobs.predict:
        outputs, test = predict(best, data['test']), data['test']
        tags = ner.tags_of(outputs, test)
        if test.targets is not None:
            snippets.write_test_scores(knobs, data, all_scores(ner.gold_tags(test), tags))
        ner.write_conll(knobs, 'WNUT17.conll', test.examples, outputs, tags)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
