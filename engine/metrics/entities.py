"""F1 of named entities, as conlleval defines it and in strict IOB2."""


def entity_f1(gold, predicted):
    """Micro F1 of entities, each right where type, first and last word are, as conlleval of the CoNLL shared tasks
    counts: an I- that opens an entity is its beginning."""
    from seqeval.metrics import f1_score  # takes 1.5 s: not before training
    return f1_score(gold, predicted, zero_division=0)


def all_scores(gold, predicted):
    """{metric: value}: entity_f1(), the same in strict IOB2 (what opens with I- is no entity), and by type."""
    from seqeval.metrics import classification_report, f1_score
    from seqeval.scheme import IOB2
    strict = f1_score(gold, predicted, mode='strict', scheme=IOB2, zero_division=0)
    by_type = classification_report(gold, predicted, output_dict=True, zero_division=0)
    return {'f1': entity_f1(gold, predicted), 'f1_strict': strict} | {
        f'f1_{name}': float(values['f1-score']) for name, values in by_type.items() if not name.endswith(' avg')}
