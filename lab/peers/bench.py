"""The transformers side of checks.bench: needs torch and transformers, and nothing of this project.

    python bench.py REQUEST ANSWER         # two json files; checks.bench writes the first and reads the second

A training loop as run_glue.py's: random batches, padded to the longest example of each ('longest') or to 128 ('max',
its default), AdamW, clipping, a linear schedule, torch.autocast for 16 bits.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers

SKIP, MAX = 3, 128      # the first steps, which are not timed; run_glue.py's --max_seq_length
CUDA = torch.cuda.is_available()
VERSIONS = {'torch': torch.__version__, 'transformers': transformers.__version__}


def now():
    if CUDA:
        torch.cuda.synchronize()
    return time.time()


def fit(model, batches, loss, updates, request):
    """Train on these batches, the first of a run of so many updates: loss(batch) is the loss of one. Returns the
    figures."""
    optimizer = torch.optim.AdamW(model.parameters(), request['learning_rate'], eps=request['epsilon'],
                                  weight_decay=request['weight_decay'])
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(request['warmup'] * updates), updates)
    model.train()
    began = now()
    for number, batch in enumerate(batches):
        loss(batch).backward()
        if request['clip_norm']:
            torch.nn.utils.clip_grad_norm_(model.parameters(), request['clip_norm'])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if number == 0:
            first = now()
        if number + 1 == SKIP:
            warmed_up = now()
    unit = 1 if sys.platform == 'darwin' else 1024
    figures = {'seconds': now() - warmed_up, 'first_step': first - request['started'],
               'first_step_of_fit': first - began,
               'peak_gib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    return figures | ({'gpu_peak_gib': torch.cuda.max_memory_allocated() / 2**30} if CUDA else {})


def tokenize(tokenizer, rows, request):
    """One {'input_ids': ..., 'label': ...} an example."""
    if request['kind'] == 'words':
        return tokenize_words(tokenizer, rows, request)
    if request['kind'] == 'questions':
        return tokenize_questions(tokenizer, rows, request)
    pairs = [row[1] for row in rows] if rows[0][1] is not None else None
    longest = {'max_length': request['maxlen']} if request['pad'] == 'longest' else \
        {'max_length': max(MAX, request['maxlen']), 'padding': 'max_length'}
    columns = dict(tokenizer([row[0] for row in rows], pairs, truncation=True, **longest))
    return [dict(zip(columns, values, strict=True)) | {'label': row[2]}
            for row, *values in zip(rows, *columns.values(), strict=True)]


def tokenize_words(tokenizer, rows, request):
    """The same for a label a word, as run_ner.py: the first token of a word has its label, the others have none."""
    encoded = tokenizer([row[0].split(' ') for row in rows], truncation=True, max_length=request['maxlen'],
                        is_split_into_words=True)
    result = []
    for i, (_, _, labels) in enumerate(rows):
        words = encoded.word_ids(i)
        firsts = [word is not None and word != before for before, word in zip([None, *words], words, strict=False)]
        result.append({name: values[i] for name, values in encoded.items()} | {
            'label': [labels[word] if first else -100 for word, first in zip(words, firsts, strict=True)]})
    return result


def tokenize_questions(tokenizer, rows, request):
    """The same for windows over paragraphs, as run_qa.py: they overlap by 128 tokens. Where the answers are makes no
    difference in speed: all begin and end at [CLS]."""
    columns = tokenizer([row[0] for row in rows], [row[1] for row in rows], truncation='only_second',
                        max_length=request['maxlen'], stride=min(128, request['maxlen'] // 3),
                        return_overflowing_tokens=True)
    columns.pop('overflow_to_sample_mapping')
    return [dict(zip(columns, values, strict=True)) | {'label': [0, 0]}
            for values in zip(*columns.values(), strict=True)]


MODELS = {'texts': transformers.AutoModelForSequenceClassification,
          'words': transformers.AutoModelForTokenClassification,
          'questions': transformers.AutoModelForQuestionAnswering}


def main(request_path, answer_path):
    request = json.loads(Path(request_path).read_text())
    request |= json.loads(Path(request['file']).read_text())
    if CUDA and request['tf32']:
        torch.set_float32_matmul_precision('high')      # as TensorFlow does
    torch.manual_seed(request['repeat'])
    tokenizer = transformers.AutoTokenizer.from_pretrained(request['tokenizer'])
    if tokenizer(request['sentence'], add_special_tokens=False)['input_ids'] != request['sentence_ids']:
        raise SystemExit('this transformers cuts words into other tokens than the vocabulary says')
    began = time.time()
    train = tokenize(tokenizer, request['train'], request)
    seconds = time.time() - began
    answer = {'tokenization_examples_per_second': len(train) / seconds,
              'tokenization_tokens_per_second': sum(sum(row['attention_mask']) for row in train) / seconds}
    device = torch.device('cuda' if CUDA else 'cpu')
    labels = 2 if request['kind'] == 'questions' else request['labels']      # the beginning and the end
    settings = transformers.AutoConfig.from_pretrained(request['model'], num_labels=labels)
    for name in ('classifier_dropout', 'classifier_dropout_prob', 'seq_classif_dropout'):
        if hasattr(settings, name):
            setattr(settings, name, request['dropout'])
    kind = request['kind']
    model = MODELS[kind].from_pretrained(request['model'], config=settings, dtype=torch.float32).to(device)

    def collate(rows):
        batch = tokenizer.pad([{k: v for k, v in row.items() if k != 'label'} for row in rows], return_tensors='pt')
        if model.config.model_type == 'distilbert':
            batch.pop('token_type_ids')
        labels = [row['label'] for row in rows]
        if kind == 'words':
            width = batch['input_ids'].shape[1]
            labels = [of_row + [-100] * (width - len(of_row)) for of_row in labels]
        return {k: v.to(device) for k, v in batch.items()}, torch.tensor(labels, device=device)

    def forward(inputs, **labels):
        with torch.autocast(device.type, getattr(torch, request['precision']), request['precision'] != 'float32'):
            return model(**inputs, **labels)

    rows = np.random.default_rng(request['repeat']).permutation(len(train))
    batches = [rows[i:i + request['batch_size']] for i in range(0, len(rows), request['batch_size'])]
    if request['steps']:
        batches = batches[:SKIP + request['steps']]
    if len(batches) <= SKIP:
        raise SystemExit(f'{len(batches)} batches are too few: the first {SKIP} are not timed')
    sizes = []

    def loss(batch):
        inputs, labels = batch
        sizes.append(inputs['input_ids'].numel())
        if kind == 'questions':
            return forward(inputs, start_positions=labels[:, 0], end_positions=labels[:, 1]).loss
        return forward(inputs, labels=labels).loss

    steps = -(-request['examples'] // request['batch_size'])
    loader = torch.utils.data.DataLoader(train, batch_sampler=batches, collate_fn=collate)
    figures = fit(model, loader, loss, steps, request)
    timed, seconds = np.concatenate(batches[SKIP:]), figures['seconds']
    tokens = sum(sum(train[i]['attention_mask']) for i in timed)
    answer |= figures | {
        'examples_per_second': len(timed) / seconds, 'tokens_per_second': tokens / seconds,
        'steps_per_second': (len(batches) - SKIP) / seconds, 'steps': len(batches) - SKIP,
        'padding': 1 - tokens / sum(sizes[SKIP:])}

    model.eval()
    size, dev = request['eval_batch_size'], request['dev']
    starts = np.arange(0, len(dev), size)       # in the order of the file
    steps = -(-request['evaluation_examples'] // size)
    if 0 < steps < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, steps).astype(int)]
    dev = [tokenize(tokenizer, dev[i:i + size], request) for i in starts]
    with torch.no_grad():
        forward(collate(dev[0])[0])
        began = now()
        for rows in dev:
            forward(collate(rows)[0])[0].float().cpu().numpy()
        seconds = now() - began
    answer |= {'evaluation_examples_per_second': sum(map(len, dev)) / seconds,
               'evaluation_tokens_per_second': sum(sum(x['attention_mask']) for rows in dev for x in rows) / seconds,
               'versions': VERSIONS}
    Path(answer_path).write_text(json.dumps(answer))


if __name__ == '__main__':
    main(*sys.argv[1:])
