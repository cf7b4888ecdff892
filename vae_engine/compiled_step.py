"""A step of an MLP's ELBO on black and white pixels, compiled, for several threads.

Every thread runs the same lines, in three pieces of work:

    rows      some rows go through both networks and back
    layers    each share of a layer's outputs gets its gradient, over all rows
    update    and each piece of the weights is moved by whoever comes first

Rows are either in shares, each for one thread, or all threads take all rows together: a product
is then parted by the columns of its result, or by its rows where there are few columns, what
follows entry by entry is done by the thread that has the entries in its cache, and they meet
before the next product. That is quicker where the cores are idle, and slower where a thread must
wait for one. Shares are a function of the number of rows: with them, no number of threads changes
a bit. Numbers are float32; sums over rows are float64.

Arrays are told by address, layer by layer in the rows of a table, so that the code is one for all
models, and is compiled once.
"""

# ruff: noqa: ANN001, ANN201, FBT003, PLR0913  # Numba finds types, and compiles objects for long

from typing import no_type_check

import numpy as np
from numba import njit

from vae_engine.crew import meet, ordered, taken
from vae_engine.native import COMPILED, multiply, vector
from vae_engine.pointwise import NONE, activate, exponential, log_of_one_and

# Columns of a network's table: sizes, and where a layer's arrays are. With y = f(W x + b):
LAYER = OUTPUTS, INPUTS, WEIGHT, BIAS, Y, BEND, SLOPE, BY_WEIGHT, BY_BIAS = range(9)
# y, f' and the slopes of the loss by W x + b are (rows, outputs), as are those by W and b

# Of the table of what Adam moves, piece by piece: how many numbers, and where they, their
# gradients and their moments are.
MOVED = LENGTH, NUMBERS, GRADIENT, FIRST, SECOND = range(5)

# Of an order: noise is (samples, rows, latents); z and the slopes by it are (draws, latents), share
# by share; stddev is (rows, latents), and so is shrink, whose square is d log stddev / d raw. No
# shares: all threads take all rows.
ORDER = (
    KIND, SHARES, ROWS, SAMPLES, X, NOISE, Z, BY_Z, STDDEV, SHRINK, LATENTS, ACTIVATION, SGEMM,
) = range(13)  # fmt: skip
DIFFERENTIATE, UPDATE = 1, 2

# Of an order's real numbers, and of those of an update.
BETA, SCALE, LOW, HIGH = range(4)
REALS = FACTOR, RATE, CORRECTION, ONE_DECAY, TWO_DECAY, EPSILON, SHRINKAGE = range(7)

# What is found, by share or thread: the bound in nats, summed over draws, and the gradient's
# squared length.
FOUND = NATS, SQUARES = range(2)

FEW = 64  # columns of a thread's part, below which rows are parted
VECTOR = 8  # numbers: parts of columns begin where one begins
BYTES = 4  # of a number
ONE, HALF, ZERO = np.float32(1), np.float32(0.5), np.float32(0)


@njit(**COMPILED)
@no_type_check
def between(count, part, parts):
    """The first place of a part of `count`, and the first of the next one's."""
    return count * part // parts, count * (part + 1) // parts


@njit(**COMPILED)
@no_type_check
def row_of(address, number, columns):
    """One row of an array with so many columns, by its address."""
    return vector(address + BYTES * number * columns, columns)


@njit(**COMPILED)
@no_type_check
def block(first, end, columns, part, parts):
    """Rows and columns of a product that are a part of it; all, if there is one."""
    if columns < FEW * parts:
        above, below = between(end - first, part, parts)
        return first + above, first + below, 0, columns
    left, right = between(columns // VECTOR, part, parts)
    return first, end, left * VECTOR, columns if part + 1 == parts else right * VECTOR


@njit(**COMPILED)
@no_type_check
def forward(layer, x, kind, first, end, sgemm, part, parts):
    """Write y = f(W x + b), and f' there, of some rows or a part of them."""
    outputs, inputs = layer[OUTPUTS], layer[INPUTS]
    first, end, left, right = block(first, end, outputs, part, parts)
    if end > first:
        a = x + BYTES * first * inputs, inputs
        b = layer[WEIGHT] + BYTES * left * inputs, inputs
        c = layer[Y] + BYTES * (first * outputs + left), outputs
        multiply(sgemm, (end - first, right - left, inputs), a, b, c, False, True)
    bias = vector(layer[BIAS] + BYTES * left, right - left)
    for i in range(first, end):
        place = BYTES * (i * outputs + left)
        row = vector(layer[Y] + place, right - left)
        for j in range(len(row)):
            row[j] += bias[j]
        activate(kind, row, vector(layer[BEND] + place, right - left))


@njit(**COMPILED)
@no_type_check
def back(layer, found, bends, first, end, sgemm, part, parts):
    """Write the slopes by a layer's inputs, times the `bends` of what made them if there are."""
    outputs, inputs = layer[OUTPUTS], layer[INPUTS]
    first, end, left, right = block(first, end, inputs, part, parts)
    if end > first:
        a = layer[SLOPE] + BYTES * first * outputs, outputs
        b = layer[WEIGHT] + BYTES * left, inputs
        c = found + BYTES * (first * inputs + left), inputs
        multiply(sgemm, (end - first, right - left, outputs), a, b, c, False, False)
    if bends == 0:
        return
    for i in range(first, end):
        place = BYTES * (i * inputs + left)
        row, bend = vector(found + place, right - left), vector(bends + place, right - left)
        for j in range(len(row)):
            row[j] *= bend[j]


@njit(**COMPILED)
@no_type_check
def gradient(layer, x, rows, share, shares, sgemm):
    """Write this share's rows of the gradient of W, and of b; return their squared length."""
    outputs, inputs = layer[OUTPUTS], layer[INPUTS]
    first, end = between(outputs, share, shares)
    if end == first:
        return 0.0
    a = layer[SLOPE] + BYTES * first, outputs
    by_weight = layer[BY_WEIGHT] + BYTES * first * inputs
    sizes = (end - first, inputs, rows)
    multiply(sgemm, sizes, a, (x, inputs), (by_weight, inputs), True, False)
    total = vector(layer[BY_BIAS] + BYTES * first, end - first)
    total[:] = ZERO
    for i in range(rows):
        row = vector(layer[SLOPE] + BYTES * (i * outputs + first), end - first)
        for j in range(len(row)):
            total[j] += row[j]
    squares = 0.0
    for i in range(end - first):
        row, of_row = row_of(by_weight, i, inputs), total[i] * total[i]
        for j in range(len(row)):
            of_row += row[j] * row[j]
        squares += of_row
    return squares


@njit(**COMPILED)
@no_type_check
def draw(order, outputs, low, high, first, end, part, parts):
    """Write z = mean + stddev noise; return KL(q || N(0, I)) in nats, summed over this part."""
    rows, samples, width = order[ROWS], order[SAMPLES], order[LATENTS]
    above, below = between(end - first, part, parts)
    kl = 0.0
    for i in range(first + above, first + below):
        mean, raw = row_of(outputs, 2 * i, width), row_of(outputs, 2 * i + 1, width)
        stddev, shrink = row_of(order[STDDEV], i, width), row_of(order[SHRINK], i, width)
        of_row = ZERO
        for j in range(width):
            limit = low if raw[j] < ZERO else high
            shrink[j] = ONE / (ONE + raw[j] / limit)  # `limits.squashed`
            log_stddev = raw[j] * shrink[j]
            stddev[j] = exponential(log_stddev)
            of_row += HALF * (mean[j] * mean[j] + stddev[j] * stddev[j] - ONE) - log_stddev
        kl += of_row
        for s in range(samples):
            noise = row_of(order[NOISE], s * rows + i, width)
            z = row_of(order[Z], samples * first + s * (end - first) + i - first, width)
            for j in range(width):
                z[j] = mean[j] + stddev[j] * noise[j]
    return kl


@njit(**COMPILED)
@no_type_check
def undraw(order, outputs, slopes, pull, first, end, part, parts):
    """Write the slopes by mean and raw log stddev; the KL of a row costs `pull` times itself."""
    rows, samples, width = order[ROWS], order[SAMPLES], order[LATENTS]
    above, below = between(end - first, part, parts)
    for i in range(first + above, first + below):
        mean, by_mean = row_of(outputs, 2 * i, width), row_of(slopes, 2 * i, width)
        by_raw = row_of(slopes, 2 * i + 1, width)
        stddev, shrink = row_of(order[STDDEV], i, width), row_of(order[SHRINK], i, width)
        for j in range(width):
            by_mean[j], by_raw[j] = pull * mean[j], pull * stddev[j]
        for s in range(samples):
            noise = row_of(order[NOISE], s * rows + i, width)
            by_z = row_of(order[BY_Z], samples * first + s * (end - first) + i - first, width)
            for j in range(width):
                by_mean[j] += by_z[j]
                by_raw[j] += by_z[j] * noise[j]
        for j in range(width):
            by_raw[j] = (by_raw[j] * stddev[j] - pull) * shrink[j] * shrink[j]


@njit(**COMPILED)
@no_type_check
def likelihood(layer, white, samples, scale, first, end, part, parts):
    """Write `scale` times sigmoid(logits) - x; return log p(x | z) in nats, of this part."""
    cells, rows, begin = layer[OUTPUTS], end - first, samples * first
    above, below, left, right = block(begin, samples * end, cells, part, parts)
    nats = 0.0
    for k in range(above, below):
        place = BYTES * (k * cells + left)
        x = vector(white + BYTES * ((first + (k - begin) % rows) * cells + left), right - left)
        t, slope = (
            vector(layer[Y] + place, right - left),
            vector(layer[SLOPE] + place, right - left),
        )
        of_row = ZERO
        for j in range(len(t)):
            e = exponential(-abs(t[j]))
            over = ONE / (ONE + e)
            of_row += t[j] * x[j] - max(t[j], ZERO) - log_of_one_and(e)
            slope[j] = scale * ((over if t[j] > ZERO else e * over) - x[j])
        nats += of_row
    return nats


@njit(**COMPILED)
@no_type_check
def there_and_back(encoder, decoder, order, reals, first, end, cells, part, parts):
    """Take some rows through both networks and back, alone or with other threads.

    Writes the slopes of -scale (log p(x | z) - beta KL), summed over draws, by what each layer has
    before its activation. Returns this part of the sum in brackets, in nats.
    """
    samples, sgemm, white = order[SAMPLES], order[SGEMM], order[X]
    scale, weight = reals[SCALE], reals[BETA] * np.float32(samples)  # of the KL
    begin, stop = samples * first, samples * end  # of the draws
    last, below = encoder[-1], white
    for k in range(len(encoder)):
        kind = order[ACTIVATION] if k + 1 < len(encoder) else NONE
        forward(encoder[k], below, kind, first, end, sgemm, part, parts)
        meet(cells, part, parts)
        below = encoder[k, Y]
    kl = draw(order, last[Y], reals[LOW], reals[HIGH], first, end, part, parts)
    meet(cells, part, parts)
    below = order[Z]
    for k in range(len(decoder)):
        if k:
            meet(cells, part, parts)
        kind = order[ACTIVATION] if k + 1 < len(decoder) else NONE
        forward(decoder[k], below, kind, begin, stop, sgemm, part, parts)
        below = decoder[k, Y]
    nats = likelihood(decoder[-1], white, samples, scale, first, end, part, parts)
    meet(cells, part, parts)

    for k in range(len(decoder) - 1, -1, -1):
        found, bends = (decoder[k - 1, SLOPE], decoder[k - 1, BEND]) if k else (order[BY_Z], 0)
        back(decoder[k], found, bends, begin, stop, sgemm, part, parts)
        meet(cells, part, parts)
    undraw(order, last[Y], last[SLOPE], weight * scale, first, end, part, parts)
    for k in range(len(encoder) - 1, 0, -1):
        meet(cells, part, parts)
        found, bends = encoder[k - 1, SLOPE], encoder[k - 1, BEND]
        back(encoder[k], found, bends, first, end, sgemm, part, parts)
    return nats - weight * kl


@njit(**COMPILED)
@no_type_check
def gradients(network, below, rows, share, shares, sgemm):
    """Write this share of the gradients of all layers; return their squared length."""
    squares = 0.0
    for k in range(len(network)):
        squares += gradient(network[k], below, rows, share, shares, sgemm)
        below = network[k, Y]
    return squares


@njit(**COMPILED)
@no_type_check
def differentiate(encoder, decoder, order, reals, found, cells, thread, threads):
    """Do what is this thread's of a gradient."""
    rows, draws, together = order[ROWS], order[ROWS] * order[SAMPLES], order[SHARES] == 0
    shares = threads if together else order[SHARES]
    for share in range(thread, shares, threads):
        first, end = between(rows, share, shares)
        part, parts = thread, threads
        if together:
            first, end = 0, rows
        else:
            part, parts = 0, 1
        found[share, NATS] = there_and_back(
            encoder, decoder, order, reals, first, end, cells, part, parts
        )
    meet(cells, thread, threads)
    for share in range(thread, shares, threads):
        squares = gradients(decoder, order[Z], draws, share, shares, order[SGEMM])
        squares += gradients(encoder, order[X], rows, share, shares, order[SGEMM])
        found[share, SQUARES] = squares


@njit(**COMPILED)
@no_type_check
def adam(moved, reals):
    """Move some weights: Kingma & Ba 2015, algorithm 1.

    RATE is over 1 - beta_1^t, CORRECTION 1 / sqrt(1 - beta_2^t). SHRINKAGE is the weights' share
    that AdamW takes off them (Loshchilov & Hutter 2019, algorithm 2).
    """
    w, g = vector(moved[NUMBERS], moved[LENGTH]), vector(moved[GRADIENT], moved[LENGTH])
    m, v = vector(moved[FIRST], moved[LENGTH]), vector(moved[SECOND], moved[LENGTH])
    factor, rate, correction = reals[FACTOR], reals[RATE], reals[CORRECTION]
    one, two, kept = reals[ONE_DECAY], reals[TWO_DECAY], ONE - reals[SHRINKAGE]
    new, newest, epsilon = ONE - one, ONE - two, reals[EPSILON]
    for i in range(len(w)):
        slope = factor * g[i]
        m[i] += new * (slope - m[i])
        v[i] = two * v[i] + newest * slope * slope
        w[i] = kept * w[i] - rate * m[i] / (np.sqrt(v[i]) * correction + epsilon)


@njit(**COMPILED)
@no_type_check
def update(moved, reals, cells):
    """Move what no thread has taken yet, piece by piece: one that comes late finds less to do."""
    while True:
        piece = taken(cells)
        if piece >= len(moved):
            return
        adam(moved[piece], reals)


@njit(**COMPILED)
@no_type_check
def serve(encoder, decoder, moved, order, reals, found, cells, thread, threads, once):
    """Take orders until none comes, or `once`."""
    while ordered(cells, thread):
        if order[KIND] == DIFFERENTIATE:
            differentiate(encoder, decoder, order, reals, found, cells, thread, threads)
        else:
            update(moved, reals, cells)
        meet(cells, thread, threads)
        if once:
            return
