"""The compiled loops under the inverted index: top k of a batch of queries, scores of candidates, terms of documents.

Every query is read term by term over windows of consecutive documents, small enough that their scores stay in the
nearest cache. A document's parts are always added in the order of its terms' numbers, so its score depends on nothing
but the query and the document.

Candidates are 64-bit keys, score above and tie below, so that one integer comparison is the whole order: positive
float32 numbers sort like the integers that have their bits.

Nothing read from a file can make a loop write outside its arrays: a document's number is compared with its window
before it is used, and codes index a table as long as their type's range (checked on opening where that is not so).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from rankpipe.compiled import compiled

WINDOW = 1 << 14  # documents; their float32 scores fill 64 KiB
BLOCKS = (128, 16)  # documents whose scores are compared with a floor at once, and then again
SMALL = 64  # keys that are sorted by counting, which beats every sort that branches
BUCKETS = 256  # that more keys are dealt to first
LOW = (1 << 32) - 1
INFINITE = 0xFF << 23  # the bits of infinity; those of nan are above
OCTAVE = 1 << 23  # what halving a float32 takes from its bits

DONE, DAMAGED = 0, 1


class Queries(NamedTuple):
    """A batch: query q owns offsets[q]:offsets[q + 1] of terms (different ones, all of the index) and weights."""

    offsets: NDArray[np.int64]
    terms: NDArray[np.int64]
    weights: NDArray[np.float32]


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


class Scratch(NamedTuple):
    """Room for one thread.

    begins, cursors, ends, weights  of the posting lists of a query: where each begins in the window, stands and ends,
                                    and its term's weight
    scores                          of the window's documents, all 0 between windows
    keys                            candidates
    spare, stack, counts            for sorting them
    """

    begins: NDArray[np.int64]
    cursors: NDArray[np.int64]
    ends: NDArray[np.int64]
    weights: NDArray[np.float32]
    scores: NDArray[np.float32]
    keys: NDArray[np.int64]
    spare: NDArray[np.int64]
    stack: NDArray[np.int64]
    counts: NDArray[np.int64]


def new_scratch(terms: int, k: int) -> Scratch:
    """Room for queries of that many terms. The stack is for both ends of parts that share no key, each over SMALL."""
    keys = 2 * k + WINDOW + 1
    return Scratch(
        begins=np.empty(terms, np.int64),
        cursors=np.empty(terms, np.int64),
        ends=np.empty(terms, np.int64),
        weights=np.empty(terms, np.float32),
        scores=np.zeros(WINDOW, np.float32),
        keys=np.empty(keys, np.int64),
        spare=np.empty(keys, np.int64),
        stack=np.empty(2 * (keys // SMALL + 1), np.int64),
        counts=np.empty(BUCKETS, np.int64),
    )


def _part(payload, table):
    """A posting's part of the score before its term's weight: its entry of the table, or the payload itself."""
    raise NotImplementedError  # compiled code only


@overload(_part, inline="always")
def _part_of_type(payload, table):
    if isinstance(payload, types.Float):
        return lambda payload, table: payload
    return lambda payload, table: table[payload]


@compiled
def _sort_small(keys, spare):
    """Sort keys, all different, the greatest first: the place of each is the number of greater ones."""
    for i in range(keys.size):
        key = keys[i]
        place = np.uint64(0)
        for j in range(keys.size):
            place += np.uint64(keys[j] > key)
        spare[place] = key
    for i in range(keys.size):
        keys[i] = spare[i]


@compiled
def _sort_falling(scratch, size):
    """Sort the first keys, all different, the greatest first.

    Keys are dealt to BUCKETS by their distance from the greatest, and the larger buckets again.
    """
    keys, spare, stack, counts = scratch.keys, scratch.spare, scratch.stack, scratch.counts
    if size <= SMALL:
        _sort_small(keys[:size], spare)
        return
    stack[0], stack[1], waiting = 0, size, 2
    while waiting > 0:
        waiting -= 2
        begin, end = stack[waiting], stack[waiting + 1]
        part = keys[begin:end]
        least, greatest = part[0], part[0]
        for i in range(part.size):
            least, greatest = min(least, part[i]), max(greatest, part[i])
        shift = 0
        while (greatest - least) >> shift >= BUCKETS:
            shift += 1
        for bucket in range(BUCKETS):
            counts[bucket] = 0
        for i in range(part.size):
            counts[np.uint64((greatest - part[i]) >> shift)] += 1
        place = np.int64(0)
        for bucket in range(BUCKETS):
            count = counts[bucket]
            counts[bucket] = place
            place += count
        for i in range(part.size):
            bucket = np.uint64((greatest - part[i]) >> shift)
            spare[np.uint64(counts[bucket])] = part[i]
            counts[bucket] += 1
        for i in range(part.size):
            part[i] = spare[i]
        start = np.int64(0)
        for bucket in range(BUCKETS):
            stop = counts[bucket]
            if stop - start > SMALL:
                stack[waiting], stack[waiting + 1] = begin + start, begin + stop
                waiting += 2
            elif stop - start > 1:
                _sort_small(part[start:stop], spare)
            start = stop


@compiled
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


@compiled
def _keep_greatest(keys, size, k):
    """Move the k greatest of the first keys, all different, to the front; return the smallest of them."""
    floor = _floor(keys[:size], np.int64(0), OCTAVE << 32, k, k)
    kept = 0
    for i in range(size):
        key = keys[i]
        keys[kept] = key
        kept += key >= floor
    return floor


@compiled
def _open_query(queries, query, postings, scratch):
    """Set the cursors of a query's terms to the beginning of their postings; return the number of terms."""
    first = queries.offsets[query]
    terms = queries.offsets[query + 1] - first
    for t in range(terms):
        term = queries.terms[first + t]
        scratch.cursors[t], scratch.ends[t] = postings.starts[term], postings.starts[term + 1]
        scratch.weights[t] = queries.weights[first + t]
    return terms


@compiled
def _add(scratch, terms, base, width, postings):
    """Add to the scores what the terms give the documents of the window; return the number of postings read."""
    documents, payload, table, scores = postings.documents, postings.payload, postings.table, scratch.scores
    touched = 0
    for t in range(terms):
        weight = scratch.weights[t]
        cursor, end = np.uint64(scratch.cursors[t]), np.uint64(scratch.ends[t])
        scratch.begins[t] = scratch.cursors[t]
        while cursor < end:
            slot = np.uint32(documents[cursor] - base)
            if slot >= width:
                break
            scores[slot] += weight * _part(payload[cursor], table)
            cursor += np.uint64(1)
        scratch.cursors[t] = cursor
        touched += scratch.cursors[t] - scratch.begins[t]
    return touched


@compiled
def _take_few(scratch, terms, base, documents, ties, least, size):
    """Move the scores of the documents read in this window to keys, and leave zeros; return the number of keys."""
    bits, keys = scratch.scores.view(np.int32), scratch.keys
    for t in range(terms):
        for cursor in range(np.uint64(scratch.begins[t]), np.uint64(scratch.cursors[t])):
            slot = np.uint32(documents[cursor] - base)
            score = bits[slot]
            if score != 0:
                bits[slot] = 0
                keys[size] = (np.int64(score) << 32) | (LOW - ties[np.uint32(documents[cursor])])
                size += keys[size] > least
    return size


@compiled
def _take_many(scratch, base, width, ties, k, least, size):
    """The same where the window is well filled: look at all its scores.

    Only those that reach the least of the best so far; before there is one, a floor that k of the window reach.
    """
    keys = scratch.keys
    # Unsigned, for numba asks of signed indices whether they are negative, and then cannot vectorise a loop.
    many, few = np.uint64(BLOCKS[0]), np.uint64(BLOCKS[1])
    bits = scratch.scores.view(np.int32)[: (width + BLOCKS[0] - 1) // BLOCKS[0] * BLOCKS[0]]
    begin = size
    floor = np.int32(max(least >> 32, 1))
    if least == 0:
        count = 0
        for slot in range(bits.size):
            count += bits[slot] >= floor
        if count > k + (k >> 1):
            floor = np.int32(_floor(bits, np.int64(floor), OCTAVE, k, k + (k >> 2)))
    for blocks in range(np.uint64(0), np.uint64(bits.size), many):
        reached = False
        for i in range(many):
            reached |= bits[blocks + i] >= floor
        if reached:
            for block in range(blocks, blocks + many, few):
                reached = False
                for i in range(few):
                    reached |= bits[block + i] >= floor
                if reached:
                    for i in range(few):
                        keys[size] = (np.int64(bits[block + i]) << 32) | np.int64(block + i)
                        size += bits[block + i] >= floor
    for i in range(begin, size):
        slot = keys[i] & LOW
        keys[i] += LOW - ties[base + slot] - slot
    for slot in range(bits.size):
        bits[slot] = 0
    return size


@compiled
def search(first, last, queries, postings, order, scratch, answer):
    """Write the top of queries first..last - 1 into the answer; DONE or DAMAGED."""
    documents, ties, k, keys = postings.documents, order.ties, order.k, scratch.keys
    rows = ties.size
    out_bits = answer.scores.view(np.int32)
    for query in range(first, last):
        terms = _open_query(queries, query, postings, scratch)
        size, least, limit = np.int64(0), np.int64(0), np.int64(0)
        while True:
            base = np.int64(rows)
            for t in range(terms):
                if scratch.cursors[t] < scratch.ends[t]:
                    base = min(base, np.int64(documents[scratch.cursors[t]]))
            if base == rows:
                break
            if base < limit:
                return DAMAGED
            limit = min(base + WINDOW, rows)
            touched = _add(scratch, terms, np.int32(base), np.uint32(limit - base), postings)
            if touched * 8 < limit - base:
                size = _take_few(scratch, terms, np.int32(base), documents, ties, least, size)
            else:
                size = _take_many(scratch, base, limit - base, ties, k, least, size)
            if size > 2 * k:
                least = _keep_greatest(keys, size, k)
                size = k
        for t in range(terms):
            if scratch.cursors[t] < scratch.ends[t]:
                return DAMAGED
        _sort_falling(scratch, size)
        size = min(size, k)
        if size > 0 and keys[0] >> 32 >= INFINITE:
            return DAMAGED
        place = answer.offsets[query]
        for i in range(size):
            answer.documents[place + i] = order.rows[LOW - (keys[i] & LOW)]
            out_bits[place + i] = np.int32(keys[i] >> 32)
        answer.counts[query] = size
    return DONE


@compiled
def score(queries, postings, offsets, candidates, scratch, scores):
    """Add to scores what each query gives its candidates, in the order in which search adds it."""
    for query in range(offsets.size - 1):
        for t in range(_open_query(queries, query, postings, scratch)):
            for i in range(offsets[query], offsets[query + 1]):
                low, high = scratch.cursors[t], scratch.ends[t]
                while low < high:
                    middle = (low + high) >> 1
                    if postings.documents[middle] < candidates[i]:
                        low = middle + 1
                    else:
                        high = middle
                if low < scratch.ends[t] and postings.documents[low] == candidates[i]:
                    scores[i] += scratch.weights[t] * _part(postings.payload[low], postings.table)


@compiled
def terms_of(starts, documents, payload, begin, end):
    """The terms of documents begin to end - 1 and their payload, document by document; every term's postings rise."""
    offsets = np.zeros(end - begin + 1, np.int64)
    firsts = np.empty(starts.size - 1, np.int64)
    for term in range(starts.size - 1):
        firsts[term] = starts[term] + np.searchsorted(documents[starts[term] : starts[term + 1]], begin)
        place = firsts[term]
        while place < starts[term + 1] and begin <= documents[place] < end:
            offsets[documents[place] - begin + 1] += 1
            place += 1
    for document in range(end - begin):
        offsets[document + 1] += offsets[document]
    heads = offsets[:-1].copy()
    terms, values = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], payload.dtype)
    for term in range(starts.size - 1):
        place = firsts[term]
        while place < starts[term + 1] and begin <= documents[place] < end:
            head = heads[documents[place] - begin]
            terms[head], values[head] = term, payload[place]
            heads[documents[place] - begin] = head + 1
            place += 1
    return offsets, terms, values
