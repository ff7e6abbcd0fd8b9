"""The compiled loops under the inverted index: top k of a batch of queries, and scores of given candidates.

Every query is read term by term over windows of consecutive documents, small enough that their scores stay in the
nearest cache. A document's parts are always added in the same order (the term with the greatest bound first), so its
score depends on nothing but the query and the document.

Candidates are 64-bit keys, score above and tie below, so that one integer comparison is the whole order: positive
float32 numbers sort like the integers that have their bits.

Nothing read from a file can make a loop write outside its arrays: a document's number is compared with its window
before it is used, and codes index a table as long as their type's range (checked on opening where that is not so).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

WINDOW = 1 << 14  # documents; their float32 scores fill 64 KiB
BLOCK = 16  # documents whose scores are compared with the floor at once
SMALL = 64  # keys that are sorted by counting, which beats every sort that branches
LOW = (1 << 32) - 1
INFINITE = 0xFF << 23  # the bits of infinity; those of nan are above
OCTAVE = 1 << 23  # what halving a float32 takes from its bits

DONE, DAMAGED = 0, 1


class Queries(NamedTuple):
    """A batch: query q owns offsets[q]:offsets[q + 1] of terms, weights and factors (its terms' idf)."""

    offsets: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float32]
    factors: NDArray[np.float32]


class Postings(NamedTuple):
    """Term t owns starts[t]:starts[t + 1] of documents (rising) and payload (codes into the table, or impacts)."""

    starts: NDArray[np.int64]
    documents: NDArray[np.int32]
    payload: NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.float32]
    table: NDArray[np.float32]


class Order(NamedTuple):
    """How many are kept, the tie of each row, and the row of each tie."""

    k: int
    ties: NDArray[np.int32]
    rows: NDArray[np.int32]


class Answer(NamedTuple):
    """Query q writes counts[q] candidates from offsets[q] on."""

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    documents: NDArray[np.int32]
    scores: NDArray[np.float32]


class Lists(NamedTuple):
    """The posting lists of one query: where each begins in the window, stands and ends, and its term's weight."""

    begins: NDArray[np.int64]
    cursors: NDArray[np.int64]
    ends: NDArray[np.int64]
    weights: NDArray[np.float32]
    terms: NDArray[np.int32]
    boosts: NDArray[np.float32]
    factors: NDArray[np.float32]
    keys: NDArray[np.int64]
    spare: NDArray[np.int64]


@njit(cache=True, nogil=True)
def new_lists(size):
    """Room for the lists of a query of this many terms."""
    return Lists(
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.float32),
        np.empty(size, np.int32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
    )


def _part(payload, table):
    """A posting's part of the score before its term's weight: its entry of the table, or the payload itself."""
    raise NotImplementedError  # compiled code only


@overload(_part, inline="always")
def _part_of_type(payload, table):
    if isinstance(payload, types.Float):
        return lambda payload, table: payload
    return lambda payload, table: table[payload]


@njit(cache=True, nogil=True)
def _sort_small(part, keys):
    """Write part, all different, to keys, the greatest first: a key's place is the number of greater ones."""
    for i in range(part.size):
        key = part[i]
        place = 0
        for j in range(part.size):
            place += part[j] > key
        keys[place] = key


@njit(cache=True, nogil=True)
def _split(keys, spare):
    """Move the keys above a pivot to the front; return their number, at least 1 and less than all.

    Three keys or more, all different. Writes both ends and moves one: no branch to guess wrong.
    """
    a, b, c = keys[0], keys[keys.size >> 1], keys[keys.size - 1]
    pivot = max(min(a, b), min(max(a, b), c))
    front, back = np.uint64(0), np.uint64(keys.size - 1)
    for i in range(keys.size):
        key = keys[i]
        spare[front] = key
        spare[back] = key
        front += np.uint64(key > pivot)
        back -= np.uint64(key <= pivot)
    keys[:] = spare[: keys.size]
    return np.int64(front)


@njit(cache=True, nogil=True)
def sort_falling(keys, spare, size):
    """Sort keys[:size], all different, in place, the greatest first; spare is as long as keys.

    Quicksort down to parts of SMALL keys, which are sorted by counting.
    """
    if size <= SMALL:
        spare[:size] = keys[:size]
        _sort_small(spare[:size], keys[:size])
        return
    stack = np.empty(128, np.int64)  # the greater part waits, the smaller is sorted at once: depth is log2 of the size
    first, last, depth = 0, size, 0
    while True:
        while last - first > SMALL:
            middle = first + _split(keys[first:last], spare[first:last])
            if middle - first < last - middle:
                stack[depth], stack[depth + 1] = middle, last
                last = middle
            else:
                stack[depth], stack[depth + 1] = first, middle
                first = middle
            depth += 2
        spare[first:last] = keys[first:last]
        _sort_small(spare[first:last], keys[first:last])
        if depth == 0:
            return
        depth -= 2
        first, last = stack[depth], stack[depth + 1]


@njit(cache=True, nogil=True)
def _floor(values, low, octave, k, most):
    """A value that at least k and, where equal values allow it, at most `most` of the values reach.

    At least k of them reach low. octave is what halves a score. The range is narrowed by counting how many reach three
    values within it: a pass without branches takes a fraction of a nanosecond per value. The first pass looks one, two
    and three octaves below the greatest, the others quarter what is left.
    """
    high = low
    for i in range(values.size):
        high = max(high, values[i])
    high += 1  # k or more reach low, fewer than k reach high
    first, second, third = high - 3 * octave, high - 2 * octave, high - octave
    if first <= low:
        quarter = (high - low) >> 2
        first, second, third = low + quarter, low + 2 * quarter, low + 3 * quarter
    while high - low > 1:
        at, then, last = values.dtype.type(first), values.dtype.type(second), values.dtype.type(third)
        firsts, seconds, thirds = 0, 0, 0
        for i in range(values.size):
            firsts += values[i] >= at
            seconds += values[i] >= then
            thirds += values[i] >= last
        count = most + 1
        if firsts < k:
            high = first
        elif seconds < k:
            low, high, count = first, second, firsts
        elif thirds < k:
            low, high, count = second, third, seconds
        else:
            low, count = third, thirds
        if count <= most:
            break
        quarter = max((high - low) >> 2, 1)
        first, second, third = low + quarter, min(low + 2 * quarter, high), min(low + 3 * quarter, high)
    return low


@njit(cache=True, nogil=True)
def _keep_greatest(keys, size, k):
    """Move the k greatest of keys[:size], all different, to the front; return the smallest of them."""
    floor = _floor(keys[:size], np.int64(0), OCTAVE << 32, k, k)
    kept = 0
    for i in range(size):
        key = keys[i]
        keys[kept] = key
        kept += key >= floor
    return floor


@njit(cache=True, nogil=True)
def _open_query(queries, query, postings, lists):
    """Fill the lists of one query, one for each distinct term, the greatest weight first; return their number.

    Terms outside the index, without a posting or without weight are left out. Repeated terms are one of their
    summed weight.
    """
    starts, cursors, ends, weights, keys = postings.starts, lists.cursors, lists.ends, lists.weights, lists.keys
    bits = lists.weights.view(np.int32)
    size = 0
    for i in range(queries.offsets[query], queries.offsets[query + 1]):
        term = queries.terms[i]
        if 0 <= term < starts.size - 1 and starts[term] < starts[term + 1] and queries.weights[i] > 0:
            keys[size] = (np.int64(term) << 32) | i
            size += 1
    sort_falling(keys, lists.spare, size)
    distinct = 0
    previous = np.int64(-1)
    for j in range(size):
        i = keys[j] & LOW
        if keys[j] >> 32 != previous:
            previous = keys[j] >> 32
            lists.terms[distinct] = queries.terms[i]
            lists.boosts[distinct] = 0
            lists.factors[distinct] = queries.factors[i]
            distinct += 1
        lists.boosts[distinct - 1] += queries.weights[i]
    for j in range(distinct):
        weights[j] = np.float32(lists.boosts[j] * lists.factors[j])
        keys[j] = (np.int64(bits[j]) << 32) | j
    sort_falling(keys, lists.spare, distinct)
    for j in range(distinct):
        i = keys[j] & LOW
        cursors[j] = starts[lists.terms[i]]
        ends[j] = starts[lists.terms[i] + 1]
    for j in range(distinct):
        bits[j] = np.int32(keys[j] >> 32)
    return distinct


@njit(cache=True, nogil=True)
def _add(lists, terms, base, width, postings, scores):
    """Add to scores what the terms give the documents of the window; return the number of postings read."""
    documents, payload, table = postings.documents, postings.payload, postings.table
    touched = 0
    for t in range(terms):
        weight = lists.weights[t]
        begin = np.uint64(lists.cursors[t])
        cursor = begin
        end = np.uint64(lists.ends[t])
        while cursor < end:
            slot = np.uint32(documents[cursor] - base)
            if slot >= width:
                break
            scores[slot] += weight * _part(payload[cursor], table)
            cursor += np.uint64(1)
        lists.begins[t] = begin
        lists.cursors[t] = cursor
        touched += cursor - begin
    return touched


@njit(cache=True, nogil=True)
def _take_few(lists, terms, base, documents, bits, ties, least, keys, size):
    """Move the scores of the documents read in this window to keys, and leave zeros; return the number of keys."""
    for t in range(terms):
        for cursor in range(np.uint64(lists.begins[t]), np.uint64(lists.cursors[t])):
            document = documents[cursor]
            score = bits[np.uint32(document - base)]
            if score > 0:
                bits[np.uint32(document - base)] = 0
                key = (np.int64(score) << 32) | (LOW - ties[np.uint32(document)])
                keys[size] = key
                size += key > least
    return size


@njit(cache=True, nogil=True)
def _take_many(base, bits, ties, k, least, keys, size):
    """The same where the window is well filled: look at all its scores."""
    begin = size
    floor = np.int32(max(least >> 32, 1))
    count = 0
    for slot in range(bits.size):
        count += bits[slot] >= floor
    if count > k + (k >> 1):
        floor = np.int32(_floor(bits, np.int64(floor), OCTAVE, k, k + (k >> 2)))
    for block in range(np.uint64(0), np.uint64(bits.size), BLOCK):
        over = False
        for i in range(BLOCK):
            over |= bits[block + i] >= floor
        if over:
            for i in range(BLOCK):
                keys[size] = (np.int64(bits[block + i]) << 32) | np.int64(block + i)
                size += bits[block + i] >= floor
    for i in range(begin, size):
        keys[i] += LOW - ties[base + (keys[i] & LOW)] - (keys[i] & LOW)
    bits[:] = 0
    return size


@njit(cache=True, nogil=True)
def search(first, last, queries, postings, order, answer):
    """Write the top of queries first..last - 1 into the answer; DONE or DAMAGED."""
    longest = 0
    for query in range(first, last):
        longest = max(longest, queries.offsets[query + 1] - queries.offsets[query])
    lists = new_lists(longest)
    documents, ties, k = postings.documents, order.ties, order.k
    rows = ties.size
    scores = np.zeros((min(WINDOW, rows) + BLOCK - 1) // BLOCK * BLOCK, np.float32)
    bits = scores.view(np.int32)
    keys = np.empty(2 * k + WINDOW + 1, np.int64)
    spare = np.empty(2 * k + WINDOW + 1, np.int64)
    out_bits = answer.scores.view(np.int32)
    for query in range(first, last):
        terms = _open_query(queries, query, postings, lists)
        size, least, limit = 0, np.int64(0), 0
        while True:
            base = rows
            for t in range(terms):
                if lists.cursors[t] < lists.ends[t]:
                    base = min(base, np.int64(documents[lists.cursors[t]]))
            if base == rows:
                break
            if base < limit:
                return DAMAGED
            limit = min(base + WINDOW, rows)
            width = limit - base
            touched = _add(lists, terms, np.int32(base), np.uint32(width), postings, scores)
            if touched * 8 < width:
                size = _take_few(lists, terms, np.int32(base), documents, bits, ties, least, keys, size)
            else:
                size = _take_many(base, bits[: (width + BLOCK - 1) // BLOCK * BLOCK], ties, k, least, keys, size)
            if size > 2 * k:
                least = _keep_greatest(keys, size, k)
                size = k
        for t in range(terms):
            if lists.cursors[t] < lists.ends[t]:
                return DAMAGED
        sort_falling(keys, spare, size)
        size = min(size, k)
        if size > 0 and keys[0] >> 32 >= INFINITE:
            return DAMAGED
        place = answer.offsets[query]
        for i in range(size):
            answer.documents[place + i] = order.rows[LOW - (keys[i] & LOW)]
            out_bits[place + i] = np.int32(keys[i] >> 32)
        answer.counts[query] = size
    return DONE


@njit(cache=True, nogil=True)
def score(queries, postings, offsets, candidates, scores):
    """Add to scores what each query gives its candidates, in the order in which search adds it."""
    longest = 0
    for query in range(offsets.size - 1):
        longest = max(longest, queries.offsets[query + 1] - queries.offsets[query])
    lists = new_lists(longest)
    for query in range(offsets.size - 1):
        for t in range(_open_query(queries, query, postings, lists)):
            for i in range(offsets[query], offsets[query + 1]):
                low, high = lists.cursors[t], lists.ends[t]
                while low < high:
                    middle = (low + high) >> 1
                    if postings.documents[middle] < candidates[i]:
                        low = middle + 1
                    else:
                        high = middle
                if low < lists.ends[t] and postings.documents[low] == candidates[i]:
                    scores[i] += lists.weights[t] * _part(postings.payload[low], postings.table)
