"""Measure the speed and memory of pre-training steps, alone or beside transformers on the same machine.

    uv run -m checks.bench_pretraining                                  # ELECTRA and MLM, sizes small
    uv run -m checks.bench_pretraining --peer PYTHON                    # an interpreter with torch and transformers
    uv run -m checks.bench_pretraining ELECTRA --lengths 128,256,512 --batch-size 32 --layers 4 --hidden-size 256
    uv run -m checks.bench_pretraining --tokenize wiki.txt --lengths 128,512

Scripts of pretraining/ come first; the options of all of them work here too (--model, --layers, --vocabulary, --jit,
...), --lengths in place of --maxlen. A step is the script's own: its model, its targets, the engine's stream of batches
and training step. Its rows are random words and exactly as long as --lengths says, so that nothing is padding. Each
measurement is a process of its own; one step goes ahead and is not timed.

utilisation: FLOP of the matrix products of the encoders and heads (the head for hidden words at the hidden places
alone; forward 1, backward 2), over the rate of large matrix products on the same device in the same precision, just
before and after and in between. making batches: the time that it takes by itself, over that of the steps, beside which
it is done. first step, s: from the start of the process. peak GiB: of the process; on a GPU of its memory.

--peer: ElectraForMaskedLM and ElectraForPreTraining with the same embeddings, as richarddwang/electra_pytorch trains
them, or BertForMaskedLM; the same sizes, batch size, length, dropout, clipping. 'as usual' computes the logits of all
words for the whole text, 'gathered' for the hidden tokens alone. Ours and the peer's alternate --repeats times; a
figure is the median of them, a ratio (ours over the peer's) the median of the ratios within each alternation.

--tokenize: in place of steps, tokens/s of cutting a text into tokens, as the scripts do it once, and of packing these
into rows of --lengths.

Exit status 0, 1 where a measurement failed, 2 for bad input.
"""

import argparse
import difflib
import itertools
import shlex
import sys
import tempfile
from pathlib import Path

from checks import bench
from engine.arguments import number_in_range
from engine.console import markdown_table, split_arguments
from engine.files import UserError

SCRIPTS = ('ELECTRA', 'MLM')
MODES = ('as usual', 'gathered')        # of the peer
FIGURES = [         # heading, figure, how it is written
    ('steps/s', 'steps_per_second', bench.number), ('tokens/s', 'tokens_per_second', bench.number),
    ('utilisation', 'utilisation', bench.share), ('making batches', 'making_batches', bench.share),
    ('traces', 'traces', bench.number), ('first step, s', 'first_step', bench.number),
    ('of fit', 'first_step_of_fit', bench.number), ('peak GiB', bench.peak, bench.number)]
BOTH = [('tokens/s', 'tokens_per_second'), ('first step, s', 'first_step'), ('peak GiB', bench.peak)]


def ours(request, folder):
    return bench.ours(request, folder, 'lab.bench.pretraining')


def peer(python, request, folder):
    return bench.peer(python, request, folder, 'bench_pretraining.py')


# ---- The measurements -----------------------------------------------------------------------------------------------


def measure_steps(options, results):
    """Prepare, and add the measurements to `results`."""
    request = {'arguments': options.rest, 'peer': bool(options.peer), 'steps': options.steps}
    with tempfile.TemporaryDirectory() as folder:
        folder, of_peer = Path(folder), {}
        for script in options.scripts:
            of_peer[script] = prepare(request | {'script': script, 'length': options.lengths[0]}, folder)
            if bench.has_failed(of_peer[script], results):
                return

        def measure_one(item, precision, repeat, who):
            wanted = request | item | {'precision': precision, 'repeat': repeat}
            if who == 'ours':
                return ours(wanted | {'what': 'measure'}, folder)
            return peer(options.peer, wanted | of_peer[item['script']] | {'mode': who}, folder)

        work = [{'name': f'{script}, {length} tokens', 'script': script, 'length': length}
                for script, length in itertools.product(options.scripts, options.lengths)]
        bench.alternate(options, work, MODES if options.peer else (), measure_one, results)


def prepare(request, folder):
    try:
        return ours(request | {'what': 'prepare', 'precision': 'float32'}, folder)
    except UserError as error:
        raise UserError(f'{request["script"]}: {error}') from error


def tokenize(options, results):
    """Add to `results` one row for each repeat."""
    request = {'what': 'tokenize', 'script': options.scripts[0], 'arguments': options.rest, 'text': options.tokenize,
               'length': options.lengths[0], 'lengths': options.lengths, 'precision': 'float32'}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            row = {'name': options.tokenize, 'precision': '', 'repeat': repeat, 'who': 'ours'}
            results.append(row | ours(request, Path(folder)))
            shown = results[-1].get('failed') or f'{bench.number(results[-1]["cutting_tokens_per_second"])} tokens/s'
            print(f'{options.tokenize} {repeat + 1}/{options.repeats}: {shown}{bench.warning(results[-1])}', flush=True)


def tables(options, results):
    if not options.tokenize:
        return bench.tables(results, [FIGURES], BOTH, MODES)
    columns = {'tokens': 'tokens', 'cutting, tokens/s': 'cutting_tokens_per_second'} | {
        f'packing into {length}, tokens/s': f'packing_{length}_tokens_per_second' for length in options.lengths}
    values = [bench.number(bench.median(results, figure)) for figure in columns.values()]
    return '\n'.join([markdown_table(['text', *columns], [[options.tokenize, *values]]), *bench.doubts(results)])


# ---- The command line -----------------------------------------------------------------------------------------------


def settle(arguments):
    """The tool's own options; `scripts`, `rest`: the scripts, and the options that are theirs."""
    scripts, rest = split_arguments(arguments)
    parser = argparse.ArgumentParser(prog='python -m checks.bench_pretraining', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    count = number_in_range(int, 1, None)
    parser.add_argument('--lengths', default='128', help='of rows, in tokens, separated by commas (128)')
    parser.add_argument('--precision', default='float32,bfloat16', help=f'some of {", ".join(bench.PRECISIONS)} '
                        '(float32,bfloat16)')
    parser.add_argument('--steps', type=count, default=20, help='that are timed (20)')
    parser.add_argument('--repeats', type=count, default=3, help='how often everything is measured (3)')
    parser.add_argument('--peer', help='a Python that has torch and transformers, to be measured in alternation')
    parser.add_argument('--tokenize', metavar='FILE', help='measure this, in place of steps: a text as --text takes it')
    parser.add_argument('--json', help='write everything into this file')
    parser.add_argument('--markdown', help='write the tables into this file')
    options, options.rest = parser.parse_known_args(rest)

    options.scripts = list(dict.fromkeys(scripts or SCRIPTS))
    for script in options.scripts:
        if script not in SCRIPTS:
            close = difflib.get_close_matches(script, SCRIPTS, 1)
            hint = f' Did you mean {close[0]}?' if close else ''
            raise UserError(f'{script}: none of the scripts {", ".join(SCRIPTS)}.{hint}')
    options.precision = bench.some_of('--precision', options.precision, bench.PRECISIONS)
    options.lengths = bench.lengths_of('--lengths', options.lengths)
    bench.check_files(options)
    if options.peer:
        bench.check_peer(options.peer)
    return options


def run(arguments):
    options, results = settle(arguments), []
    try:
        (tokenize if options.tokenize else measure_steps)(options, results)
    finally:        # what there is, also after ctrl-C
        if results:
            command = shlex.join(['-m', 'checks.bench_pretraining', *arguments])
            bench.write(options, results, tables(options, results), command)
    return int(any('failed' in row for row in results))


def main(argv=None):
    """The command line. Returns 0, 1 where a measurement failed, 2 for bad input."""
    return bench.command_line(run, argv)


if __name__ == '__main__':
    sys.exit(main())
