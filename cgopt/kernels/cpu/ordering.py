"""An order of the unknowns with little fill: approximate minimum degree.

P. R. Amestoy, T. A. Davis and I. S. Duff, SIAM J. Matrix Anal. Appl. 17, 1996. The graph that is left after some
unknowns have been eliminated is kept as a quotient graph: an eliminated unknown becomes an element, which stands for
the clique of its neighbours. Each unknown has a list of elements, then of neighbours that no element covers. Unknowns
with the same lists are merged and eliminated together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compile import compiled, inline

NONE = -1
LEFT_OUT = -2


@inline
def put(head: Any, following: Any, before: Any, degree: Any, i: Any) -> None:
    """Enter an unknown into the list of its degree."""
    first = head[degree]
    following[i], before[i] = first, NONE
    if first != NONE:
        before[first] = i
    head[degree] = i


@inline
def take(head: Any, following: Any, before: Any, degree: Any, i: Any) -> None:
    """Take an unknown out of the list of its degree."""
    after, previous = following[i], before[i]
    if after != NONE:
        before[after] = previous
    if previous != NONE:
        following[previous] = after
    else:
        head[degree] = after


def _minimum_degree(
    indptr: Any,
    indices: Any,
    dense: Any,
    when: Any,
    most: Any,
    work: Any,
    pivots: Any,
    parent: Any,
    around: Any,
    merged: Any,
) -> Any:
    """Eliminate the unknowns of a symmetric pattern by approximate minimum degree.

    Returns the number of pivots, or -1 if the pattern is not symmetric, or the factor had more than ``most[s]`` entries
    below its diagonal by the time that ``when[s]`` unknowns were eliminated, or will have more than the last of these,
    or take more than `work` multiplications: the neighbours of a pivot are a clique, which fills itself. Pivot k is the
    unknown ``pivots[k]``; of unknown i, ``merged[i]`` is the one that it is eliminated together with (or -1),
    ``parent[i]`` the pivot whose element takes up its own (or -1), ``around[i]`` the later unknowns in the factor's
    column of a pivot. Unknowns with more than `dense` neighbours are not looked at (``merged`` is -2), and taken to
    fill their rows.
    """
    n = indptr.shape[0] - 1
    start, length, elements = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n, np.int64)
    degree, tag, size = np.empty(n, np.int64), np.ones(n, np.int64), np.ones(n, np.int64)
    head, following, before = np.full(n + 1, NONE), np.full(n, NONE), np.full(n, NONE)
    bucket, chain, hashes = np.full(n, NONE), np.full(n, NONE), np.zeros(n, np.int64)
    room = np.int64(indptr[n]) + np.int64(indptr[n]) // 4 + 4 * n
    lists = np.empty(room, np.int32)
    free = 0
    done = 0
    stage = 0
    for i in range(n):
        parent[i], merged[i], around[i] = NONE, NONE, 0
        if np.int64(indptr[i + 1]) - np.int64(indptr[i]) > dense:
            merged[i], size[i] = LEFT_OUT, 0
            done += 1
    total = n * done
    for i in range(n):
        start[i] = free
        if size[i]:
            for k in range(indptr[i], indptr[i + 1]):
                j = np.int64(indices[k])
                if j != i and size[j]:
                    lists[free] = j
                    free += 1
        length[i] = free - start[i]
        degree[i] = length[i]
        if size[i]:
            put(head, following, before, degree[i], i)
    mark, largest, lowest, count = 2, 0, 0, 0
    while done < n:
        while head[lowest] == NONE:
            lowest += 1
        me = head[lowest]
        take(head, following, before, lowest, me)
        own = elements[me]
        together = size[me]
        done += together
        size[me] = -together
        pivots[count] = me
        count += 1

        # the new element: neighbours, and those that come by older elements, which it takes up
        border = 0
        if own == 0:
            begin = start[me]  # its neighbours are there already
        else:
            needed = length[me] - own
            for k in range(start[me], start[me] + own):
                needed += length[lists[k]]
            if free + needed > room:  # move all lists that are still in use together
                if free + needed - room > room // 2:
                    room += needed
                fresh = np.empty(room, np.int32)
                free = 0
                for i in range(n):
                    alive = size[i] != 0 if elements[i] >= 0 else tag[i] != 0
                    if alive:
                        at = start[i]
                        start[i] = free
                        for k in range(at, at + length[i]):
                            fresh[free] = lists[k]
                            free += 1
                lists = fresh
                if free + needed > room:
                    room = free + 2 * needed
                    fresh = np.empty(room, np.int32)
                    fresh[:free] = lists[:free]
                    lists = fresh
            begin = free
        end = begin
        for part in range(own + 1):
            if part < own:
                e = np.int64(lists[start[me] + part])
                at, stop = start[e], start[e] + length[e]
                parent[e], tag[e] = me, 0
            else:
                at, stop = start[me] + own, start[me] + length[me]
            for k in range(at, stop):
                i = lists[k]
                weight = size[i]
                if weight > 0:
                    border += weight
                    size[i] = -weight
                    take(head, following, before, degree[i], i)
                    lists[end] = i
                    end += 1
        start[me], length[me], elements[me], tag[me] = begin, end - begin, NONE, 1

        # tag[e] - mark: what an older element has outside the new one
        for k in range(begin, end):
            i = lists[k]
            for m in range(start[i], start[i] + elements[i]):
                e = lists[m]
                if tag[e] >= mark:
                    tag[e] += size[i]
                elif tag[e] != 0:
                    tag[e] = degree[e] + mark + size[i]

        # degrees, bounded from above; elements inside the new one are taken up
        for k in range(begin, end):
            i = lists[k]
            first = start[i]
            to = first
            bound = 0
            digest = np.int64(0)
            for m in range(first, first + elements[i]):
                e = lists[m]
                outside = tag[e] - mark
                if outside > 0:
                    bound += outside
                    lists[to] = e
                    digest += e
                    to += 1
                elif tag[e] != 0:
                    parent[e], tag[e] = me, 0
            middle = to
            for m in range(first + elements[i], first + length[i]):
                j = lists[m]
                if size[j] > 0:
                    bound += size[j]
                    lists[to] = j
                    digest += j
                    to += 1
            if to == first + length[i]:  # i has no entry for me: the pattern is not symmetric
                return NONE
            if to == first:  # nothing outside the new element: eliminated with it
                weight = -size[i]
                merged[i], size[i] = me, 0
                border -= weight
                together += weight
                done += weight
            else:
                lists[to] = lists[middle]
                lists[middle] = lists[first]
                lists[first] = me
                elements[i], length[i] = middle - first + 1, to - first + 1
                degree[i] = min(degree[i], bound)
                place = digest % n
                hashes[i] = place
                chain[i] = bucket[place]
                bucket[place] = i
        degree[me] = border
        largest = max(largest, border + together)
        mark += largest + 1

        # unknowns of the new element with the same lists become one
        for k in range(begin, end):
            if size[lists[k]] == 0:
                continue
            i = bucket[hashes[lists[k]]]
            bucket[hashes[lists[k]]] = NONE
            while i != NONE and chain[i] != NONE:
                for m in range(start[i] + 1, start[i] + length[i]):
                    tag[lists[m]] = mark
                previous = i
                j = chain[i]
                while j != NONE:
                    same = length[j] == length[i] and elements[j] == elements[i]
                    if same:
                        for m in range(start[j] + 1, start[j] + length[j]):
                            if tag[lists[m]] != mark:
                                same = False
                                break
                    if same:
                        merged[j] = i
                        size[i] += size[j]
                        size[j] = 0
                        chain[previous] = chain[j]
                    else:
                        previous = j
                    j = chain[j]
                mark += 1
                i = chain[i]

        to = begin
        for k in range(begin, end):
            i = lists[k]
            weight = -size[i]
            if weight > 0:
                size[i] = weight
                d = min(degree[i] + border - weight, n - done - weight)
                degree[i] = d
                put(head, following, before, d, i)
                lowest = min(lowest, d)
                lists[to] = i
                to += 1
        size[me] = 0
        length[me] = to - begin
        if to == begin:
            tag[me] = 0
        if own != 0:
            free = to
        around[me] = border
        total += together * border + together * (together - 1) // 2
        clique = np.float64(border)
        if total > most[stage] or total + 0.5 * clique * (clique - 1.0) > most[-1] or clique**3 > 6.0 * work:
            return NONE
        if stage + 1 < when.shape[0] and done >= when[stage]:
            stage += 1
    return count


def _postorder(
    pivots: Any, parent: Any, around: Any, merged: Any, order: Any, room: Any, up: Any, place: Any, last: Any
) -> Any:
    """The unknowns in postorder of the tree of elements, those merged beside their pivot; those left out at the end.

    Comes out as `order`; ``room[i]`` is what column i of a factor in that order can hold. In the tree pivot k is below
    ``up[k]`` (or -1), and it and all below it are ``order[place[k]:last[k]]``. Returns how many the tree holds.
    """
    n, count = order.shape[0], pivots.shape[0]
    left = 0
    for i in range(n):
        left += merged[i] == LEFT_OUT
    number = np.full(n, NONE)
    for k in range(count):
        number[pivots[k]] = k
    follower, first = np.full(n, NONE), np.full(count, NONE)  # unknowns of each pivot
    for i in range(n):
        if merged[i] != LEFT_OUT:
            root = i
            while merged[root] >= 0:
                root = merged[root]
            k = number[root]
            follower[i] = first[k]
            first[k] = i
    child, sibling = np.full(count, NONE), np.full(count, NONE)
    for k in range(count - 1, -1, -1):
        above = parent[pivots[k]]
        up[k] = NONE
        if above != NONE:
            up[k] = number[above]
            sibling[k] = child[up[k]]
            child[up[k]] = k
    stack, at = np.empty(count, np.int64), 0
    for top in range(count):
        if up[top] != NONE:
            continue
        depth = 0
        stack[0] = top
        place[top] = at
        while depth >= 0:
            k = stack[depth]
            below = child[k]
            if below != NONE:
                child[k] = sibling[below]
                depth += 1
                stack[depth] = below
                place[below] = at
            else:
                i = first[k]
                begin = at
                while i != NONE:
                    order[at] = i
                    at += 1
                    i = follower[i]
                last[k] = at
                for j in range(begin, at):
                    room[j] = around[pivots[k]] + at - 1 - j + left
                depth -= 1
    held = at
    for i in range(n):
        if merged[i] == LEFT_OUT:
            order[at], room[at] = i, n - 1 - at
            at += 1
    return held


minimum_degree = compiled(_minimum_degree, threaded=False)
postorder = compiled(_postorder, threaded=False)
