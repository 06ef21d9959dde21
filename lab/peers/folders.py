"""What the transformers side of checks.align and checks.bench is given: a model and a tokenizer as folders."""

import contextlib
import io

from engine.data.vocabulary import load_vocabulary
from engine.files import write_file, write_json
from engine.model.checkpoints import open_model
from tools.convert import convert


def peer_folders(model, model_dir, folder):
    """(model folder in Hugging Face's layout, tokenizer folder made of the vocabulary alone) for a model by name or
    folder. What has to be written for it goes into `folder`."""
    checkpoint = open_model(model, model_dir)
    source = checkpoint.folder
    if checkpoint.layout == 'Google' or checkpoint.task:
        source = folder / 'converted'
        with contextlib.redirect_stdout(io.StringIO()):     # what is mapped to what
            convert(model, source, model_dir)
    tokenizer = load_vocabulary(checkpoint.folder, checkpoint.config['vocab_size']).tokenizer
    (folder / 'tokenizer').mkdir()
    write_file(folder / 'tokenizer' / 'vocab.txt', (checkpoint.folder / 'vocab.txt').read_bytes())
    write_json(folder / 'tokenizer' / 'config.json', {'model_type': 'bert'})
    write_json(folder / 'tokenizer' / 'tokenizer_config.json', {
        'tokenizer_class': 'BertTokenizer', 'do_lower_case': tokenizer.normalizer.lowercase})
    return source.resolve(), folder / 'tokenizer'
