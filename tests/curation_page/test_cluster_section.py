"""Which clusters are shown."""

import numpy as np
import pytest

from dinojax.curation_page.cluster_section import _chosen


@pytest.mark.parametrize("clusters", range(1, 12))
def test_each_cluster_is_in_one_list(clusters):
    sizes = np.arange(clusters)[::-1] * 3  # the last is empty
    found = dict(_chosen(sizes, 3))
    every = [one for some in found.values() for one in some]
    assert len(set(every)) == len(every) == min(clusters - 1, 9)
    assert found["the largest"] == list(range(min(clusters - 1, 3)))
    assert all(sizes[one] > 0 for one in every)
