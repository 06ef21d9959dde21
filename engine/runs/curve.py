"""The learning curve as a picture."""

import io

from engine.files import write_file
from engine.runs.layout import metric_names


def load_pyplot():
    """Takes a second, and only here."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    return pyplot


def plot(path, title, rows):
    """The learning curve: training loss and dev metrics by epoch."""
    pyplot = load_pyplot()
    figure, left = pyplot.subplots(figsize=(6, 4))
    epochs = [row['epoch'] for row in rows]
    left.plot(epochs, [row['loss'] for row in rows], 'k--', marker='.', label='training loss')
    left.set(xlabel='epoch', ylabel='loss', title=title)
    left.xaxis.get_major_locator().set_params(integer=True)
    right = left.twinx()
    for name in metric_names(rows[0]):
        right.plot(epochs, [100 * row[name] for row in rows], marker='o', label=f'dev {name}')
    right.set_ylabel('dev score')
    figure.legend(loc='lower center', ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save_figure(path, figure)


def plot_panels(path, title, rows, panels):
    """A curve by updates for each of {title: names of columns}, beside each other."""
    figure, axes = load_pyplot().subplots(1, len(panels), figsize=(3.6 * len(panels), 4.2), squeeze=False)
    updates = [row['update'] for row in rows]
    for panel, (heading, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            panel.plot(updates, [row[name] for row in rows], marker='.', label=name)
        panel.set(title=heading, xlabel='update')
        if len(names) > 1:
            panel.legend(frameon=False, fontsize='small', loc='upper center', bbox_to_anchor=(0.5, -0.24))
    figure.suptitle(title)
    figure.tight_layout()
    save_figure(path, figure)


def save_figure(path, figure):
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format='png')
    load_pyplot().close(figure)
    write_file(path, png.getvalue())
