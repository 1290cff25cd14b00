"""The numba kernel that draws features without replacement. Part of the *synthetic* stage."""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import no_type_check

import numba

from sae_core.kernel_options import SERIAL


@numba.njit(**SERIAL)
@no_type_check
def draw_without_replacement(uniform, tail, drawn):
    """Features drawn one after the other, each in proportion to its weight among those that are left.

    The weights stand on a line, the largest first. Those drawn before are holes in it; a uniform number picks a place
    on what is left. Places are counted from the far end, where small weights keep their digits.

    uniform (n, k): in [0, 1). tail (d_gt + 1): ``tail[i]`` is the sum of the weights from the i-th on, which must not
    rise with i. drawn (n, k): out; ascending in every row.
    """
    n, k = uniform.shape
    d_gt = len(tail) - 1
    for row in range(n):
        chosen = drawn[row]
        for n_chosen in range(k):
            left, start = 0.0, 0
            for place in range(n_chosen):
                left += tail[start] - tail[chosen[place]]
                start = chosen[place] + 1
            target = uniform[row, n_chosen] * (left + tail[start])
            # The stretch [first, last) between two holes in which the target lies. Rounding may put the target past
            # the end of the line: then it lies in the last stretch that is not empty.
            first, last, start = 0, 0, 0
            for place in range(n_chosen + 1):
                end = chosen[place] if place < n_chosen else d_gt
                if end > start:
                    if last > first:
                        target -= tail[first] - tail[last]
                    first, last = start, end
                    if target < tail[first] - tail[last]:
                        break
                start = end + 1
            height = tail[first] - target
            low, high = first, last  # the feature is the last one of the stretch whose tail reaches the height
            while high - low > 1:
                middle = (low + high) // 2
                if tail[middle] >= height:
                    low = middle
                else:
                    high = middle
            place = n_chosen
            while place > 0 and chosen[place - 1] > low:
                chosen[place] = chosen[place - 1]
                place -= 1
            chosen[place] = low
