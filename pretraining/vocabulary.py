"""A WordPiece vocabulary from your own texts, in BERT's format: FOLDER/vocab.txt, for --vocabulary.

    uv run pretraining/vocabulary.py my-vocabulary --text 'wiki/*.txt.gz' --size 30522
    uv run pretraining/vocabulary.py my-vocabulary --text reviews.tsv --columns title,text --size 8000
    uv run pretraining/vocabulary.py my-vocabulary --text news --cased

Texts are normalised and split as the scripts do it: lower case without accents (unless --cased), Chinese characters and
punctuation one by one. Pieces are learned as in byte pair encoding (Sennrich et al. 2016), by the library tokenizers.
"""

import argparse
import sys
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from engine.arguments import number_in_range
from engine.data.corpus import read_text, text_files
from engine.files import UserError, atomic_folder, exit_status, write_file

SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']


def make_vocabulary(lines, size, cased=False, alphabet=6000):
    """The tokens, in the order of their ids: the special ones, the characters, the pieces."""
    tokenizer = Tokenizer(WordPiece(unk_token='[UNK]'))
    tokenizer.normalizer = BertNormalizer(lowercase=not cased, strip_accents=not cased)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, limit_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)


def write_vocabulary(folder, text, columns, size, cased, alphabet):
    """Raises UserError; then FOLDER is not there."""
    folder = Path(folder)
    if folder.exists():
        raise UserError(f'{folder} exists already; nothing is overwritten. Choose another folder.')
    columns = columns.split(',') if columns else ()
    tokens = make_vocabulary((line.text for line in read_text(text_files(text), columns=columns)), size, cased,
                             alphabet)
    if len(tokens) <= len(SPECIAL):
        raise UserError(f'--text {text}: no text in these files.')
    with atomic_folder(folder) as new:
        write_file(new / 'vocab.txt', '\n'.join(tokens) + '\n')
    why = ''
    if len(tokens) < size:
        why = ': the texts have no more'
    elif len(tokens) > size:
        why = f', more than --size {size:,}: every character is one, and another inside words (--alphabet limits them)'
    print(f'{folder / "vocab.txt"}: {len(tokens):,} tokens{why}')


def main(argv=None):
    """The command line. Returns 0, or 2 where nothing was written."""
    parser = argparse.ArgumentParser(prog='pretraining/vocabulary.py', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', metavar='FOLDER', help='the folder to make')
    parser.add_argument('--text', required=True, help='files, folders or patterns, separated by commas')
    parser.add_argument('--columns', default='', help='of tables (.tsv) with a header, separated by commas')
    parser.add_argument('--size', type=number_in_range(int, 100, 10**6), default=30522, help='tokens (%(default)s)')
    parser.add_argument('--cased', action='store_true', help='keep upper case and accents')
    parser.add_argument('--alphabet', type=number_in_range(int, 10, 10**6), default=6000,
                        help='at most so many different characters, the most frequent (%(default)s)')
    args = parser.parse_args(argv)
    return exit_status(write_vocabulary, args.folder, args.text, args.columns, args.size, args.cased, args.alphabet)


if __name__ == '__main__':
    sys.exit(main())
