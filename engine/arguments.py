"""The command line: every knob as an option, with its range, its default and a suggestion for a misspelt name."""

import argparse
import difflib

from config import RECIPES, option_fields


def parse_args(knobs, program, description, argv=None):
    """The knobs that the command line sets, as {name: value}. Exits with status 2 on an unknown option or bad value."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in option_fields(knobs):
        if field.type is tuple and not getattr(knobs, field.name):
            continue            # a regression has no labels
        name, meta = f'--{field.name.replace("_", "-")}', field.metadata
        shown = shown_default(field.name, getattr(knobs, field.name))
        settings = {'default': argparse.SUPPRESS, 'help': f'{meta["help"]} ({shown})' if shown else meta['help']}
        if field.type is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, **settings)
        elif field.type is tuple:
            parser.add_argument(name, type=label_list, metavar='A,B,...', **settings)
        elif meta['choices']:
            parser.add_argument(name, type=field.type, choices=meta['choices'], **settings)
        else:
            parser.add_argument(name, type=number_in_range(field.type, meta['low'], meta['high']), metavar=field.name.upper(),
                                **settings)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        close = difflib.get_close_matches(unknown[0].split('=')[0], known, 1)
        parser.error(f'unknown option {unknown[0]}' + (f'; did you mean {close[0]}?' if close else ''))
    return (knobs.demo_settings if getattr(given, 'demo', False) else {}) | vars(given)


def shown_default(name, default):
    """What --help says about a knob's default; '' where there is nothing to say."""
    if default is None:
        return "the model's recipe" if name in RECIPES['bert'] else ''
    if isinstance(default, tuple):
        return ', '.join(map(str, default))
    if isinstance(default, dict):
        return ', '.join(f'{recipe} {value}' for recipe, value in default.items())
    return '' if default is False else str(default)


def label_list(text):
    """A type for argparse: two or more different names, separated by commas."""
    names = tuple(text.split(','))
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of different names')
    return names


def number_in_range(kind, low, high):
    """A type for argparse: a `kind` from low to high, where they are given."""
    def convert(text):
        value = kind(text)
        too_low, too_high = low is not None and not value >= low, high is not None and not value <= high     # or nan
        if too_low or too_high:
            limits = f'below {low}' if high is None else f'not within {low} and {high}'
            raise argparse.ArgumentTypeError(f'{text} is {limits}')
        return value
    convert.__name__ = kind.__name__    # argparse says "invalid int value"
    return convert
