"""MSRA (Levow 2006, the third SIGHAN bakeoff): which characters of a Chinese sentence name a person, a place or an
organisation? Scored by the F1 of whole entities.

    uv run tagging/MSRA.py --demo              # a whole run on the small data set in demo/
    uv run tagging/MSRA.py                     # BERT-base
    uv run tagging/MSRA.py --crf --seed 3      # every knob is an option: --help

Expect on test (Cui et al. 2019, arXiv 1906.08101v1, best and mean; not yet rerun here): BERT-base 95.3 (94.9).
The copies in the wild have no dev set, and some call the test set dev: here a tenth of the training set is dev.
"""

import dataclasses

import snippets
from engine.metrics.entities import all_scores, entity_f1
from engine.model.crf import CRF
from snippets import keras
from tagging import ner

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = ner.ChineseKnobs(
    labels=ner.iob2('PER', 'LOC', 'ORG'),
    maxlen=128,                                         # mkavim/finetune_bert; sentences have up to 100 characters
    epochs=4,                                           # the same
    learning_rate={'bert': 3e-5, 'electra-small': 3e-4},        # the same; ymcui/Chinese-ELECTRA; 1e-4 base, 5e-5 large
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The sentences of 'train', 'dev' or 'test' as Examples, whose labels are the numbers of their characters' tags."""
    if split == 'test':
        return ner.load_conll(knobs, split, snippets.data_file(knobs, 'MSRA/test.txt', 'MSRA/dev.txt'))
    examples = ner.load_conll(dataclasses.replace(knobs, limit=0), split, snippets.data_file(knobs, 'MSRA/train.txt'))
    first = len(examples) - max(1, len(examples) // 10)         # the last tenth, so that a text is not in both
    if split == 'dev':
        return examples[first:]
    return examples[:first][:knobs.limit or None]


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
        ner.write_conll(knobs, 'MSRA.txt', test.examples, outputs, tags)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
