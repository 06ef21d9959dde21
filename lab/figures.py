"""Figures as SVG, made of text: a few kilobytes each, with real letters, to be put into a page as they are.

A figure has a field with two axes. Every function returns the text of one, and takes groups: [(number, ...)], whose
number gives the colour and the dashes. `alt` says the same in words, for those who do not see it.
"""

from html import escape
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, FIELD = 420, 210                 # of a figure, and the height of its field
LEFT, RIGHT, TOP = 62, 16, 10           # around the field
LINE = 15                               # from one line of text to the next
# Okabe and Ito 2008, "Color Universal Design": told apart with every kind of colour vision; without yellow, on white.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#000000')
DASHES = ('none', '7 4', '2 3', '9 3 2 3', '4 4', '12 4')


class Axes(NamedTuple):
    """The values at the edges of the field, and its height in units of the figure."""
    left: float
    right: float
    bottom: float
    top: float
    height: float = FIELD

    def x(self, value):
        return LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        return TOP + (self.top - value) / (self.top - self.bottom) * self.height


def colour(number):
    return COLOURS[number % len(COLOURS)]


def dashes(number):
    return DASHES[number % len(DASHES)]


# ---- Figures --------------------------------------------------------------------------------------------------------


def curves(lines, x_label, y_label, alt):
    """lines: [(number, title, xs, ys, index of the larger dot)], a line with dots each; a y may be nan."""
    known = [y for line in lines for y in line[3]]
    all_x = [x for line in lines for x in line[2]]
    axes = Axes(*widened(min(all_x), max(all_x), 0.03), *widened(*limits(known)))
    content = []
    for number, title, xs, ys, large in lines:
        points = [(axes.x(x), axes.y(y)) for x, y in zip(xs, ys, strict=True) if np.isfinite(y)]
        path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
        content.append(f'<g><title>{escape(title)}</title><polyline points="{path}" fill="none" '
                       f'stroke="{colour(number)}" stroke-width="1.5" stroke-dasharray="{dashes(number)}"/>')
        content += [dot(axes, x, y, number, 4.5 if i == large else 2)
                    for i, (x, y) in enumerate(zip(xs, ys, strict=True))]
        content.append('</g>')
    whole = all(float(x).is_integer() for x in all_x)
    x_ticks = {x: [f'{x:g}'] for x in ticks(min(all_x), max(all_x), whole)}
    return svg(axes, content, x_ticks, x_label, y_label, alt)


def by_category(names, groups, y_label, alt, x_label=''):
    """A column for each category: the dots of the runs, side by side, and a bar at their mean where there are several.
    names: of each category its lines of text; groups: [(number, of each category the values)]; nan is left out."""
    known = [value for _, values in groups for of_category in values for value in of_category]
    axes = Axes(-0.5, len(names) - 0.5, *widened(*limits(known)))
    content, width = [], 0.7 / len(groups)
    for place, (number, values) in enumerate(groups):
        for i, of_category in enumerate(values):
            middle = i - 0.35 + width * (place + 0.5)
            for j, value in enumerate(of_category):
                x = middle + 0.7 * width * ((j + 0.5) / len(of_category) - 0.5)
                content.append(dot(axes, x, value, number, 3))
            if len(of_category) > 1 and np.isfinite(of_category).all():
                left, right, y = axes.x(middle - 0.45 * width), axes.x(middle + 0.45 * width), np.mean(of_category)
                content.append(f'<path d="M{left:.1f} {axes.y(y):.1f}H{right:.1f}" stroke="{colour(number)}" '
                               'stroke-width="2.5"/>')
    return svg(axes, content, dict(enumerate(names)), x_label, y_label, alt)


def reliability_diagram(groups, alt):
    """groups: [(number, bins)], the bins of lab.analysis.reliability."""
    axes = Axes(0, 100, 0, 100)
    content = [diagonal(axes, 0, 100)]
    for number, bins in groups:
        path = ' '.join(f'{axes.x(100 * each.confidence):.1f},{axes.y(100 * each.accuracy):.1f}' for each in bins)
        content.append(f'<polyline points="{path}" fill="none" stroke="{colour(number)}" stroke-width="1.5" '
                       f'stroke-dasharray="{dashes(number)}"/>')
        content += [dot(axes, 100 * each.confidence, 100 * each.accuracy, number, 3.5) for each in bins]
    return svg(axes, content, tens(), 'confidence, %', 'accuracy, %', alt)


def confidence_histogram(groups, bin_count, alt):
    """How many answers have which confidence, in percent of all. groups as in reliability_diagram()."""
    shares = [[(each.low, 100 * each.count / sum(one.count for one in bins)) for each in bins] for _, bins in groups]
    top = max(share for of_group in shares for _, share in of_group)
    axes = Axes(0, 100, 0, 1.05 * top, 90)
    content, width = [], 100 / bin_count / len(groups)
    for place, ((number, _), of_group) in enumerate(zip(groups, shares, strict=True)):
        for low, share in of_group:
            left, y = axes.x(100 * low + width * place), axes.y(share)
            right, bottom = axes.x(100 * low + width * (place + 1)), axes.y(0)
            content.append(f'<rect x="{left + 0.5:.1f}" y="{y:.1f}" width="{right - left - 1:.1f}" '
                           f'height="{bottom - y:.1f}" fill="{colour(number)}"/>')
    return svg(axes, content, tens(), 'confidence, %', 'answers, %', alt, 3)


def scatter(number, xs, ys, x_label, y_label, alt):
    """Both axes have the same range, with the diagonal in it."""
    low, high = min(0.0, *xs, *ys), max(5.0, *xs, *ys)
    axes = Axes(*widened(low, high), *widened(low, high))
    path = ''.join(f'M{axes.x(x):.1f} {axes.y(y):.1f}h0' for x, y in zip(xs, ys, strict=True))
    content = [diagonal(axes, low, high),
               f'<path d="{path}" stroke="{colour(number)}" stroke-width="4" stroke-linecap="round" opacity="0.4"/>']
    return svg(axes, content, {x: [f'{x:g}'] for x in ticks(low, high)}, x_label, y_label, alt)


def swatch(number):
    """The sign of a group in a legend."""
    return (f'<svg class="swatch" viewBox="0 0 34 10" aria-hidden="true"><path d="M0 5H34" stroke="{colour(number)}" '
            f'stroke-width="2" stroke-dasharray="{dashes(number)}"/><circle cx="17" cy="5" r="4" '
            f'fill="{colour(number)}"/></svg>')


# ---- Their parts ----------------------------------------------------------------------------------------------------


def svg(axes, content, x_ticks, x_label, y_label, alt, most_y_ticks=6):
    """The text of a figure. x_ticks: {place: lines of text}; content: elements in the field."""
    bottom, middle = TOP + axes.height, LEFT + (WIDTH - LEFT - RIGHT) / 2
    height = bottom + 10 + LINE * (1 + max(map(len, x_ticks.values()), default=1))
    frame = []
    for y in ticks(axes.bottom, axes.top, most=most_y_ticks):
        frame.append(f'<path d="M{LEFT} {axes.y(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 6}" y="{axes.y(y) + 4:.1f}" text-anchor="end">{minus(y)}</text>')
    for x, lines in x_ticks.items():
        frame.append(f'<path d="M{axes.x(x):.1f} {bottom}v4" stroke="#555"/>')
        frame += [f'<text x="{axes.x(x):.1f}" y="{bottom + 2 + LINE * i}" text-anchor="middle">{escape(line)}</text>'
                  for i, line in enumerate(lines, 1)]
    frame.append(f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="#555"/>')
    frame.append(f'<text x="{middle}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>')
    frame.append(f'<text transform="translate(12 {TOP + axes.height / 2}) rotate(-90)" text-anchor="middle">'
                 f'{escape(y_label)}</text>')
    return (f'<svg class="figure" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(alt)}">'
            f'{"".join(frame)}{"".join(content)}</svg>')


def dot(axes, x, y, number, radius):
    if not np.isfinite(y):
        return ''
    return (f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="{radius}" fill="{colour(number)}" stroke="#fff" '
            'stroke-width="0.7"/>')


def diagonal(axes, low, high):
    return (f'<path d="M{axes.x(low):.1f} {axes.y(low):.1f}L{axes.x(high):.1f} {axes.y(high):.1f}" stroke="#777" '
            'stroke-dasharray="3 3"/>')


def limits(values):
    """(lowest, highest) of the finite values; (0, 1) where there is none."""
    finite = [value for value in values if np.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def widened(low, high, share=0.08):
    """A range with room at both ends."""
    room = share * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def ticks(low, high, whole=False, most=6):
    """Round numbers within a range, at most about so many."""
    values = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    room = 1e-9 * (high - low)
    return [round(float(value), 10) for value in values if low - room <= value <= high + room]


def tens():
    return {x: [str(x)] for x in range(0, 101, 20)}


def minus(value):
    return f'{value:g}'.replace('-', '\N{MINUS SIGN}')
