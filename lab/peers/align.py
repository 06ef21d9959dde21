"""The transformers side of checks.align: needs torch and transformers, and nothing of this project.

    python align.py FOLDER         # with request.json and request.npz, which checks.align writes; adds answer*.npz

All in float64. The head is one dense layer on the text vector, as in the authors' fine-tuning code.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
import transformers


def load(request):
    """The encoder; every variable it needs must come from the folder."""
    model, info = transformers.AutoModel.from_pretrained(
        request['folder'], output_loading_info=True, attn_implementation='eager')
    missing = [key for key in info['missing_keys'] if request['pooling'] == 'pooler' or 'pooler' not in key]
    if missing or info['mismatched_keys']:
        raise SystemExit(f'transformers finds no value for {missing or info["mismatched_keys"]}')
    return model.double().eval()


def forward(model, head, request, ids, segments, scale):
    """The hidden states, the text vector and the logits of token ids and segment ids, id 0 being padding."""
    ids, segments = torch.tensor(ids).long(), torch.tensor(segments).long()
    mask = (ids != 0).long()
    inputs = {'input_ids': ids, 'attention_mask': mask}
    if model.config.model_type != 'distilbert':
        inputs['token_type_ids'] = segments
    output = model(**inputs, output_hidden_states=True)
    last = output.last_hidden_state
    if request['pooling'] == 'pooler':
        vector = output.pooler_output
    elif request['pooling'] == 'mean':
        weights = mask[:, :, None].double()
        vector = (last * weights).sum(1) / weights.sum(1)
    else:
        vector = last[:, 0]
    return output.hidden_states, vector, head(vector) * scale


def loss_of(logits, labels, scale):
    if logits.shape[1] == 1:
        return torch.nn.functional.mse_loss(logits[:, 0], torch.tensor(labels).double()) / scale ** 2
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels).long())


def parameters(model, head, request):
    """{Google's name: (parameter, whether it is transposed)}."""
    own = dict(model.named_parameters())
    encoder = {name: (own[key], name.endswith('/kernel')) for name, key in request['names'].items() if key in own}
    return encoder | {'classifier/kernel': (head.weight, True), 'classifier/bias': (head.bias, False)}


def arrays(values):
    return {name: (value.T if transposed else value).detach().numpy().astype(np.float32)
            for name, (value, transposed) in values.items()}


class GoogleAdam(torch.optim.Optimizer):
    """AdamWeightDecayOptimizer of google-research/bert and electra, model/optimization.py: no bias correction."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                state = self.state[p]
                if not state:
                    state['m'], state['v'] = torch.zeros_like(p), torch.zeros_like(p)
                state['m'].mul_(0.9).add_(p.grad, alpha=0.1)
                state['v'].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                update = state['m'] / (state['v'].sqrt() + group['eps']) + group['weight_decay'] * p
                p.sub_(group['lr'] * update)


def depth_of(name, layers):
    """How far above the embeddings a variable lies (google-research/electra: _get_layer_lrs)."""
    if layer := re.search(r'(?:^|\.)layer\.(\d+)\.', name):
        return int(layer[1]) + 1
    if 'albert_layer_groups' in name:
        return 1
    if name.startswith('head.'):
        return layers + 2
    if name.startswith('pooler'):
        return layers + 1
    return 0


def optimizer_of(model, head, recipe):
    """The optimizer and its schedule, one group a variable."""
    layers = 1 if model.config.model_type == 'albert' else model.config.num_hidden_layers
    groups = []
    for name, p in [*model.named_parameters(), *((f'head.{name}', p) for name, p in head.named_parameters())]:
        if p.grad is None:
            continue
        depth = depth_of(name, layers)
        exempt = name.endswith('bias') or re.search(r'layer_?norm', name, re.I)
        groups.append({'params': [p], 'lr': recipe['learning_rate'] * recipe['layer_decay'] ** (layers + 2 - depth),
                       'weight_decay': 0.0 if exempt else recipe['weight_decay']})
    kind = torch.optim.AdamW if recipe['bias_correction'] else GoogleAdam
    optimizer = kind(groups, {'eps': recipe['epsilon']}) if kind is GoogleAdam else kind(groups, eps=recipe['epsilon'])
    if recipe['schedule'] == 'linear':
        return optimizer, transformers.get_linear_schedule_with_warmup(
            optimizer, int(recipe['warmup'] * recipe['total']), recipe['total'])
    rising = recipe['warmup'] * recipe['total']
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: (1 - t / recipe['total']) * (min(1.0, t / rising) if rising else 1.0))


def main(folder):
    request, data = json.loads((folder / 'request.json').read_text()), np.load(folder / 'request.npz')
    model = load(request)
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def fresh(task):
        """The head, and all weights as at the beginning."""
        kernel = torch.tensor(data[f'{task}/kernel']).double()
        head = torch.nn.Linear(*kernel.shape).double()
        head.load_state_dict({'weight': kernel.T, 'bias': torch.tensor(data[f'{task}/bias']).double()})
        model.load_state_dict(start)
        model.zero_grad(set_to_none=True)
        return head

    def batch(task, i):
        return [data[f'{task}/{i % request["batches"]}/{what}'] for what in ('ids', 'segments', 'labels')]

    for task, scale in request['tasks'].items():
        head = fresh(task)
        ids, segments, labels = batch(task, 0)
        states, vector, logits = forward(model, head, request, ids, segments, scale)
        loss = loss_of(logits, labels, scale)
        loss.backward()
        gradients = arrays({name: (value.grad, transposed) for name, (value, transposed) in parameters(
            model, head, request).items() if value.grad is not None})
        np.savez(folder / f'answer.{task}.npz', vector=vector.detach(), logits=logits.detach(), loss=loss.detach(),
                 **{f'states/{i}': state.detach() for i, state in enumerate(states)},
                 **{f'gradients/{name}': value for name, value in gradients.items()})
    for number, run in enumerate(request['runs']):
        task, recipe, answers, rates = run['task'], run['recipe'], {}, []
        head = fresh(task)
        loss_of(forward(model, head, request, *batch(task, 0)[:2], request['tasks'][task])[2], batch(task, 0)[2],
                request['tasks'][task]).backward()      # which variables have a gradient
        optimizer, schedule = optimizer_of(model, head, recipe)
        everything = [*model.parameters(), *head.parameters()]
        for t in range(max(run['steps'])):
            ids, segments, labels = batch(task, t)
            optimizer.zero_grad()
            loss_of(forward(model, head, request, ids, segments, request['tasks'][task])[2], labels,
                    request['tasks'][task]).backward()
            torch.nn.utils.clip_grad_norm_([p for p in everything if p.grad is not None], recipe['clip_norm'])
            rates.append(optimizer.param_groups[-1]['lr'])      # of the head, which is the recipe's own
            optimizer.step()
            schedule.step()
            if t + 1 in run['steps']:
                answers |= {f'{t + 1}/{name}': value for name, value in arrays(
                    parameters(model, head, request)).items()}
        np.savez(folder / f'answer.run{number}.npz', rates=rates, **answers)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / 'tokenizer')
    (folder / 'answer.json').write_text(json.dumps({
        'ids': tokenizer(request['texts'], add_special_tokens=False)['input_ids'],
        'name': f'transformers {transformers.__version__}, torch {torch.__version__}, float64',
        'variables': [name for name, _ in model.named_parameters()]}))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
